"""The equality matrix: its axes, what is possible, and which cells are run in which order.

Everything that must not change the course is an axis, with the two choices that do change it (packing and the
optimizer) and have a judge for each of their combinations. `sample` holds every pair of values, `matrix` begins
with it and holds every triple.
"""

from dataclasses import astuple, dataclass
from typing import Any, Literal

from pretrain.backends.base import Precision
from pretrain.build import BackendName
from tests.numerics.covering import Row, covering_array
from tests.numerics.recipe import GLOBAL_BATCH, OptimizerName, Setting

AXES: dict[str, tuple[Any, ...]] = {
    "backend": ("deepspeed", "fsdp"),
    "stage": (0, 1, 2, 3),
    "ranks": (1, 2, 4),
    "precision": ("fp32", "bf16"),
    "accumulation": (1, 2, 4),
    "checkpointing": ("none", "full", 2),
    "packing": (True, False),
    "optimizer": ("lamb", "adamw"),
}


@dataclass(frozen=True)
class Cell:
    """One way to run a course; the first fields are the axes, in their order."""

    backend: BackendName
    stage: int
    ranks: int = 2
    precision: Precision = "fp32"
    accumulation: int = 2
    checkpointing: Literal["none", "full"] | int = "none"
    packing: bool = False
    optimizer: OptimizerName = "lamb"
    zero: tuple[tuple[str, int], ...] = ()  # more keys of the zero_optimization block
    fp16: tuple[tuple[str, int], ...] = (("initial_scale_power", 10),)  # keys of its block, under fp16

    compile: bool = False

    @classmethod
    def of(cls, row: Row) -> "Cell":
        return cls(*row)

    @property
    def row(self) -> Row:
        return astuple(self)[: len(AXES)]

    @property
    def micro_batch(self) -> int:
        """Rows of a rank and forward pass: what is left of the one global batch."""
        return GLOBAL_BATCH // self.ranks // self.accumulation

    def setting(self, steps: int) -> Setting:
        return Setting(self.optimizer, self.packing, steps)

    def __str__(self) -> str:
        every_second = "half" if self.checkpointing == 2 else self.checkpointing
        names = [self.backend, f"{self.stage}", self.precision, f"{self.ranks}x{self.accumulation}"]
        names += [f"recompute-{every_second}", "packed" if self.packing else "padded", self.optimizer]
        names += ["compiled"] * self.compile
        return "-".join(names + [f"{key}={value}" for key, value in self.zero])


def is_possible(cell: Cell) -> bool:
    """Whether the platform can run it: DeepSpeed has no fp16 on a CPU."""
    return (cell.backend, str(cell.precision)) != ("deepspeed", "fp16")


def sample() -> list[Cell]:
    """Cells that hold every pair of values."""
    return [Cell.of(row) for row in _rows(2)]


def matrix() -> list[Cell]:
    """Cells that hold every triple of values; the first are `sample`."""
    return [Cell.of(row) for row in _rows(3, begin_with=_rows(2))]


def _rows(strength: int, begin_with: list[Row] | None = None) -> list[Row]:
    return covering_array(
        AXES, strength, possible=lambda row: is_possible(Cell.of(row)), begin_with=begin_with or []
    )


def in_one_process(cell: Cell) -> tuple[bool, bool, bool]:
    """Sorts the cells of one world so that what an engine leaves behind in the process meets no other.

    DeepSpeed comes after FSDP; its stage 3, which replaces torch.nn.functional.linear for good, after its other
    stages; its stage 0 in half precision, whose autocast stays switched on, at the very end.
    """
    autocast = (cell.backend, cell.stage) == ("deepspeed", 0) and cell.precision != "fp32"
    return autocast, cell.backend == "deepspeed" and cell.stage == 3, cell.backend == "deepspeed"
