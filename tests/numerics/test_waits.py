"""How often a step waits for the device: once, for the gradient norm, however many micro-batches it has.

What has arrived by then is no wait: the sums of losses, which are added up before.
"""

from dataclasses import replace
from pathlib import Path

from pretrain.data.store import TokenStore
from tests.numerics.cells import Cell
from tests.numerics.courses import enter, make_backend, train_course
from tests.waits import READ, counted_waits
from tests.worlds import run_ranks

FIRST, MORE = 2, 3  # steps
CELLS = [
    replace(cell, accumulation=accumulation)
    for cell in (
        Cell("fsdp", 2, 1, "fp32", packing=True),
        Cell("fsdp", 3, 1, "bf16", packing=True),
        Cell("fsdp", 2, 1, "fp16", packing=True),
        Cell("deepspeed", 1, 1, "fp32", packing=True),
        Cell("deepspeed", 2, 1, "bf16", packing=True),
        Cell("deepspeed", 3, 1, "bf16", packing=True),
    )
    for accumulation in (1, 4)
]


def waits_of(folder: Path, cells: list[Cell]) -> list[dict[str, float]]:
    """On a rank, per step."""
    enter()
    store, found = TokenStore.open(folder / "store"), []
    for cell in cells:
        backend = make_backend(cell, store, folder)
        train_course(backend, store, cell, FIRST)
        with counted_waits() as counted:
            train_course(backend, store, cell, MORE)
        found.append({name: times / MORE for name, times in counted.items()})
    return found


def test_a_step_waits_for_its_norm_alone(course_folder: Path) -> None:
    """DeepSpeed's stage 3 looks at its own norm too. On the CPU the optimizer reads memory by numpy, as on no GPU; the
    figures that all add up are made on the host, and sent."""
    [found] = run_ranks(waits_of, 1, course_folder, CELLS, timeout=300)
    for cell, waits in zip(CELLS, found, strict=True):
        looks_itself = (cell.backend, cell.stage) == ("deepspeed", 3)
        expected = {READ: 2 if looks_itself else 1, "tolist": 1}
        on_host = {"numpy", "from_numpy", "tensor"}
        assert {name: times for name, times in waits.items() if name not in on_host} == expected, str(cell)
