"""An ordinary LAMB under ZeRO-2, beside ours and one plain process: `python -m tests.benchmarks.naive_lamb --help`.

The same recipe, rows and seed throughout: the LAMB course of the equality matrix, longer. The ordinary LAMB is
right as an optimizer, and its gradient norm is right; but DeepSpeed hands it flat shards of many weights, and it
takes the trust ratio of a shard for that of a weight. Nothing is asserted.
"""

import argparse
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from pretrain.build import row_stream
from pretrain.data.store import TokenStore
from pretrain.faults.tiny import write_tiny_store
from tests.benchmarks.report import make_console, provenance, write
from tests.numerics.mutants import naive_beside_ours
from tests.numerics.outcome import Outcome, deviation, joined
from tests.numerics.plain import plain_course
from tests.numerics.recipe import SEED, Setting, make_model
from tests.worlds import run_ranks

STAGE = 2
# Beyond some 160 steps at this learning rate any two runs part, ours and two plain ones alike.
STEPS, QUICK_STEPS = 150, 20
NUM_RANKS = {False: (1, 2, 4), True: (1, 2)}
_HELDOUT_ROWS = 64
_FEW = 4
_SECONDS_PER_WORLD = 900.0


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.naive_lamb", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the store, which goes again")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_STEPS} steps: shows that it runs")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    arguments = parser.parse_args(argv)
    steps = QUICK_STEPS if arguments.quick else STEPS
    result = provenance("tests.benchmarks.naive_lamb", argv) | {"steps": steps, "stage": STAGE}
    arguments.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.cache, prefix="naive-") as folder:
        write_tiny_store(Path(folder) / "store")
        result["runs"] = _runs(Path(folder), steps, NUM_RANKS[arguments.quick])
    make_console().print(_make_table(result))
    write(result, arguments.output)
    return result


def _runs(folder: Path, steps: int, num_ranks: Sequence[int]) -> list[dict[str, Any]]:
    torch.set_num_threads(1)  # of matrices this small, two threads make nothing faster
    ratios: list[dict[str, float]] = []
    setting = Setting("lamb", False, steps)
    plain = plain_course(folder, setting, torch.float32, trust_ratios=ratios)
    runs = [_run("plain process", 1, plain, plain, folder, list(ratios[-1].values()))]
    for ranks in num_ranks:
        outcomes = run_ranks(naive_beside_ours, ranks, folder, STAGE, steps, timeout=_SECONDS_PER_WORLD)
        naive = [trust for rank in outcomes for trust in rank[2]]
        runs.append(_run("naive LAMB", ranks, plain, joined([rank[0] for rank in outcomes]), folder, naive))
        runs.append(_run("ours", ranks, plain, joined([rank[1] for rank in outcomes]), folder, []))
    return runs


def _run(
    name: str, ranks: int, plain: Outcome, outcome: Outcome, folder: Path, ratios: Sequence[float]
) -> dict[str, Any]:
    away = deviation(plain, outcome)
    return {
        "name": name,
        "ranks": ranks,
        "losses": outcome.losses,
        "heldout_loss": heldout_loss(outcome, folder),
        "loss_deviation": away.loss,
        "weight_deviation_median": statistics.median(away.weights.values()),
        "trust_ratios": sorted(ratios),
    }


def heldout_loss(outcome: Outcome, folder: Path) -> float:
    """MLM and NSP loss over rows of the held-out split, by the weights of the outcome in one process."""
    store = TokenStore.open(folder / "store")
    model = make_model(store, folder).eval()
    missing, unknown = model.encoder.load_state_dict(outcome.weights, strict=False)
    tied = {name for name, _ in model.encoder.named_parameters()} & set(missing)
    assert not unknown and not tied, (missing, unknown)
    rows = row_stream(store, "heldout", Setting("lamb", False, 1).sampling, SEED).epoch_rows(0, _HELDOUT_ROWS)
    batch = rows.batch(0, rows.num_rows)
    with torch.no_grad():
        mlm_sum, nsp_sum = model(batch)
    return float(mlm_sum / batch.num_masked + nsp_sum / batch.num_pairs)


def _middle(ratios: Sequence[float]) -> str:
    """The middle half: at the ends are parameters that have hardly a gradient."""
    low, _, high = statistics.quantiles(ratios, n=4)
    return f"{len(ratios)}, half in {low:.3g} to {high:.3g}"


def _make_table(result: dict[str, Any]) -> Table:
    steps = result["steps"]
    marks = [step for step in (10, 50, 100, 150) if step <= steps]
    title = f"LAMB under ZeRO-{STAGE}, {steps} steps; the loss is the mean of ten steps up to the one named"
    table = Table(title=title, title_justify="left")
    headings = ["", "ranks", *(f"at {step}" for step in marks), "held-out"]
    for heading in (*headings, "loss off by", "weights off by", "last trust ratios"):
        table.add_column(heading, justify="right", no_wrap=True)
    for run in result["runs"]:
        losses = [f"{statistics.fmean(run['losses'][step - 10 : step]):.3f}" for step in marks]
        ratios = run["trust_ratios"]
        table.add_row(
            run["name"],
            str(run["ranks"]),
            *losses,
            f"{run['heldout_loss']:.3f}",
            f"{run['loss_deviation']:.1e}",
            f"{run['weight_deviation_median']:.1e}",
            ", ".join(f"{ratio:.3g}" for ratio in ratios) if len(ratios) <= _FEW else _middle(ratios),
        )
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
