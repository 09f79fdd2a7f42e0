"""The equality matrix: its axes, what is possible, and which cells are run in which order.

Everything that must not change the course is an axis, with the two choices that do change it (packing and the
optimizer) and have a judge for each of their combinations. `sample` holds every pair of values, `matrix` begins
with it and holds every triple.
"""

from dataclasses import astuple, dataclass
from typing import Any, Literal

from pretrain.backends.base import Precision
from pretrain.backends.carried import BackendName
from tests.numerics.covering import Row, covering_array
from tests.numerics.recipe import GLOBAL_BATCH, OptimizerName, Setting

Offload = Literal["nothing", "optimizer", "everything"]

AXES: dict[str, tuple[Any, ...]] = {
    "backend": ("deepspeed", "fsdp"),
    "stage": (0, 1, 2, 3),
    "ranks": (1, 2, 4),
    "precision": ("fp32", "bf16", "fp16"),
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
    offload: Offload = "nothing"
    fp16: tuple[tuple[str, int], ...] = (("initial_scale_power", 10),)  # keys of its block, under fp16
    compile: bool = False
    frozen: tuple[str, ...] = ()

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
        return Setting(self.optimizer, self.packing, steps, self.frozen)

    def __str__(self) -> str:
        every_second = "half" if self.checkpointing == 2 else self.checkpointing
        names = [self.backend, f"{self.stage}", self.precision, f"{self.ranks}x{self.accumulation}"]
        names += [f"recompute-{every_second}", "packed" if self.packing else "padded", self.optimizer]
        names += [f"frozen-{len(self.frozen)}"] * bool(self.frozen)
        names += ["compiled"] * self.compile + [f"{key}={value}" for key, value in self.zero]
        return "-".join(names + [f"offload-{self.offload}"] * (self.offload != "nothing"))

    @property
    def zero_block(self) -> dict[str, Any]:
        """The zero_optimization block of its ds_config."""
        cpu = {"device": "cpu"}
        offloaded = {"offload_optimizer": cpu} if self.offload != "nothing" else {}
        offloaded |= {"offload_param": cpu} if self.offload == "everything" else {}
        return {"stage": self.stage, **dict(self.zero), **offloaded}


def sample() -> list[Cell]:
    """Cells that hold every pair of values."""
    return [Cell.of(row) for row in _rows(2)]


def matrix() -> list[Cell]:
    """Cells that hold every triple of values; the first are `sample`."""
    return [Cell.of(row) for row in _rows(3, begin_with=_rows(2))]


# Small sub-groups make ZeRO-3 call the optimizer several times a step; few parameters stay gathered.
SUB_GROUPS = (("sub_group_size", 5000), ("stage3_param_persistence_threshold", 100))
GROUPS, SECOND = (("mics_shard_size", 2),), (("zero_hpz_partition_size", 2),)


def special_sample() -> list[Cell]:
    """Of `special` where most can go wrong, and what no other test has: sums over a group, several calls a step."""
    # DeepSpeed must not be told of round_robin_gradients: its own tables do not follow.
    misled = (("round_robin_gradients", True), ("overlap_comm", True))
    return [
        Cell("deepspeed", 3, zero=SUB_GROUPS, offload="everything", packing=True),
        Cell("deepspeed", 2, offload="optimizer", zero=misled),
        Cell("fsdp", 2, 4, "bf16", zero=GROUPS, offload="optimizer"),
        Cell("fsdp", 3, 4, zero=GROUPS),
    ]


def special() -> list[Cell]:
    """What is no axis, because few engines and stages have it: sub-groups, groups of ranks, offload, prefetching."""
    return [
        *special_sample(),
        Cell("deepspeed", 3, zero=SUB_GROUPS),
        Cell("deepspeed", 3, precision="fp16", zero=SUB_GROUPS),
        Cell("deepspeed", 3, 4, zero=SECOND),
        Cell("deepspeed", 1, precision="bf16", offload="optimizer"),
        Cell("deepspeed", 3, precision="bf16", offload="everything"),
        Cell("fsdp", 1, 4, zero=GROUPS, packing=True),
        Cell("fsdp", 3, 4, zero=GROUPS, optimizer="adamw"),
        Cell("fsdp", 3, 4, zero=SECOND, packing=True),
        Cell("fsdp", 2, offload="optimizer"),
        Cell("fsdp", 3, offload="everything", checkpointing="full"),
        Cell("fsdp", 3, zero=(("stage3_prefetch_bucket_size", 50_000),)),
        Cell("fsdp", 3, zero=(("stage3_prefetch_bucket_size", 0),)),
    ]


def _rows(strength: int, begin_with: list[Row] | None = None) -> list[Row]:
    return covering_array(AXES, strength, begin_with=begin_with or [])


def in_one_process(cell: Cell) -> tuple[bool, bool, bool]:
    """Sorts the cells of one world so that what an engine leaves behind in the process meets no other.

    DeepSpeed comes after FSDP; its stage 3, which replaces torch.nn.functional.linear for good, after its other
    stages; its stage 0 in half precision, whose autocast stays switched on, at the very end.
    """
    autocast = (cell.backend, cell.stage) == ("deepspeed", 0) and cell.precision != "fp32"
    return autocast, cell.backend == "deepspeed" and cell.stage == 3, cell.backend == "deepspeed"
