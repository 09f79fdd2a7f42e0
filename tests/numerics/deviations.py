"""How far the cells of the matrix may lie from the judge, and the table of how far they do."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.benchmarks.report import provenance, write
from tests.numerics.cells import AXES, Cell
from tests.numerics.outcome import Deviation

# Relative, over all steps; of the weights the L2 norm of a parameter after the last.
LOSS = MappingProxyType({"fp32": 2e-6, "bf16": 1e-3, "fp16": 2e-4})
FP32_NORM, FP32_WEIGHTS = 5e-6, 2e-5
_COLUMNS = ("loss", "gradient norm", "weights", "farthest parameter", "loss from float64")


@dataclass(frozen=True)
class Judged:
    """A cell's distance from the plain process in float32 and from that in float64."""

    from_single: Deviation
    from_double: Deviation


def write_results(
    folder: Path, judged: Mapping[Cell, Judged], plain: Mapping[str, Mapping[str, Deviation]], steps: int
) -> None:
    """equality_matrix.json and, made from the same figures, equality_matrix.md."""
    result = provenance("pytest", sys.argv[1:])
    result["steps"] = steps
    result["plain_process_from_float64"] = {
        setting: {precision: _as_json(each) for precision, each in found.items()}
        for setting, found in plain.items()
    }
    result["cells"] = [
        {
            **dict(zip(AXES, cell.row, strict=True)),
            "zero": dict(cell.zero),
            "offload": cell.offload,
            "from_float32": _as_json(found.from_single),
            "from_float64": _as_json(found.from_double),
        }
        for cell, found in judged.items()
    ]
    write(result, folder / "equality_matrix.json")
    lines = [
        "# The equality matrix",
        "",
        f"The largest relative deviation of each of {len(judged)} cells from one plain process in float32 over "
        f"{steps} steps. What it means stands in [tests/numerics](../../numerics/README.md).",
        "",
        f"{result['date']}, `{result['command']}`, commit {result['commit']}, {result['machine']['cores_used']} "
        "cores; " + ", ".join(f"{name} {result['versions'][name]}" for name in ("torch", "deepspeed")) + ".",
        "",
        *_plain_table(plain),
        "",
        *_cell_table(judged),
    ]
    (folder / "equality_matrix.md").write_text("\n".join(lines) + "\n")


def _plain_table(plain: Mapping[str, Mapping[str, Deviation]]) -> list[str]:
    """The judges themselves, one process each, from float64."""
    lines = ["| plain process, from float64 | loss | gradient norm | weights |", "|---|---|---|---|"]
    for setting, found in plain.items():
        for precision, each in found.items():
            lines.append(f"| {setting}, {precision} | {_figures(each)} |")
    return lines


def _cell_table(judged: Mapping[Cell, Judged]) -> list[str]:
    lines = [f"| cell | {' | '.join(_COLUMNS)} |", f"|---|{'---|' * len(_COLUMNS)}"]
    precisions = list(AXES["precision"])
    by_precision = sorted(
        judged, key=lambda cell: (precisions.index(cell.precision), cell.backend, cell.stage)
    )
    for cell in by_precision:
        single, double = judged[cell].from_single, judged[cell].from_double
        name = single.farthest.removeprefix("bert.").removeprefix("encoder.")
        lines.append(f"| {cell} | {_figures(single)} | {name} | {double.loss:.1e} |")
    return lines


def _figures(found: Deviation) -> str:
    return f"{found.loss:.1e} | {found.grad_norm:.1e} | {found.weights[found.farthest]:.1e}"


def _as_json(found: Deviation) -> dict[str, Any]:
    return {
        "loss": found.loss,
        "grad_norm": found.grad_norm,
        "weights": found.weights[found.farthest],
        "farthest_parameter": found.farthest,
    }
