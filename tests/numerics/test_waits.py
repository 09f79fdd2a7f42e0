"""How often a step waits for the device: once, for the gradient norm, however many micro-batches it has.

What has arrived by then is no wait: the sums of losses, which are added up before.
"""

from dataclasses import replace
from pathlib import Path

from pretrain.data.store import TokenStore
from tests.numerics.cells import Cell
from tests.numerics.courses import enter, make_backend, train_course
from tests.waits import counted_waits
from tests.worlds import run_ranks

FIRST, MORE = 2, 3  # steps
CELLS = [
    replace(cell, accumulation=accumulation)
    for cell in (
        Cell("fsdp", 2, 1, "fp32", packing=True),
        Cell("fsdp", 3, 1, "bf16", packing=True),
        Cell("fsdp", 2, 1, "fp16", packing=True),
        Cell("deepspeed", 2, 1, "fp32", packing=True),
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
    """DeepSpeed looks at its own norm too. `numpy` is how the optimizer reads memory on the CPU, and on no GPU."""
    [found] = run_ranks(waits_of, 1, course_folder, CELLS, timeout=300)
    for cell, waits in zip(CELLS, found, strict=True):
        looks = {"_local_scalar_dense": 1 if cell.backend == "fsdp" else 2}
        assert {name: times for name, times in waits.items() if name != "numpy"} == looks | {"tolist": 1}, (
            str(cell)
        )
