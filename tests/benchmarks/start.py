"""The start of a run on a store of a trillion tokens: `python -m tests.benchmarks.start --help`.

The store is real in its counts, its lengths and its block tables; its tokens are holes in sparse files. A fresh
process opens it, makes the first batch, then batches at random rows of a planned window and behind random
places of the epoch (each of which means planning a window). Peaks are those of that process. Nothing is asserted.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.table import Table

from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.data.stream import RowStream
from tests.benchmarks.amounts import whole
from tests.benchmarks.processes import status_bytes
from tests.benchmarks.report import make_console, provenance, write
from tests.data.store.sparse import write_sparse_store
from tests.worlds import ROOT, environment

NUM_TOKENS = {False: 10**12, True: 10**10}
SETTINGS = (("nsp", 128), ("mlm", 512))
SEED = 11
_BATCH_TOKENS = 8192
_RANDOM_ROWS = 200
_RANDOM_PLACES = 5
_MIB = 1 << 20


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.start", description=__doc__)
    parser.add_argument(
        "--cache", type=Path, required=True, help="folder for the sparse store, which goes again"
    )
    parser.add_argument("--quick", action="store_true", help="a hundredth of the tokens: shows that it runs")
    parser.add_argument("--rounds", type=whole, default=3, help="fresh processes for each setting")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    arguments = parser.parse_args(argv)
    result = provenance("tests.benchmarks.start", argv)
    result["runs"] = {}
    arguments.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=arguments.cache, prefix="sparse-") as folder:
        path = Path(folder) / "store"
        manifest = write_sparse_store(path, NUM_TOKENS[arguments.quick])
        result["tokens"] = manifest.splits["train"].tokens
        result["files"] = len(manifest.files)
        for objective, seq_len in SETTINGS:
            runs = [_in_fresh_process(path, objective, seq_len) for _ in range(arguments.rounds)]
            result["runs"][f"{objective}, {seq_len}"] = runs
    make_console().print(_make_table(result))
    write(result, arguments.output)
    return result


def measure(store_path: Path, objective: Any, seq_len: int, import_seconds: float) -> dict[str, float]:
    """Seconds and bytes of one start, in this process."""
    torch.set_num_threads(1)
    found = {"import_seconds": import_seconds, "imported_bytes": _peak_bytes()}
    began = time.perf_counter()
    store = TokenStore.open(store_path)
    split = store.split("train")
    options = SamplingOptions(seq_len, objective, packing=True)
    stream = RowStream(split, store.special_ids, store.all_special_ids, store.vocab_size, options, SEED)
    found |= {"open_seconds": time.perf_counter() - began, "opened_bytes": _peak_bytes()}
    num_rows = _BATCH_TOKENS // seq_len
    stream.step(Cursor(0, 0, 0), num_rows).batch(0, num_rows)
    found |= {"first_batch_seconds": time.perf_counter() - began, "first_batch_bytes": _peak_bytes()}
    draw = np.random.default_rng(SEED)
    rows = stream.window(0, 0).rows.num_rows - num_rows
    began = time.perf_counter()
    for row in draw.integers(0, rows, _RANDOM_ROWS).tolist():
        stream.step(Cursor(0, 0, row), num_rows).batch(0, num_rows)
    found["random_batches_per_second"] = _RANDOM_ROWS / (time.perf_counter() - began)
    began = time.perf_counter()
    for window in draw.integers(1, stream.windows_per_epoch, _RANDOM_PLACES).tolist():
        stream.step(Cursor(0, window, 0), num_rows).batch(0, num_rows)
    found["seek_seconds"] = (time.perf_counter() - began) / _RANDOM_PLACES
    return found | {"end_bytes": _peak_bytes()}


def _peak_bytes() -> int:
    return status_bytes("self")["VmHWM"]


def _in_fresh_process(store: Path, objective: str, seq_len: int) -> dict[str, float]:
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", __spec__.name, "--one-start", str(store), objective, str(seq_len), str(began)],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"a start failed:\n{done.stderr}")
    run: dict[str, float] = json.loads(done.stdout)
    return run


def _make_table(result: dict[str, Any]) -> Table:
    title = f"start of a run, {result['tokens'] / 1e12:,.2f} T tokens in {result['files']:,} files (medians)"
    table = Table(title=title, title_justify="left")
    columns = {
        "": "{}",
        "imports s": "{import_seconds:.1f}",
        "open s": "{open_seconds:.2f}",
        "to first batch s": "{first_batch_seconds:.2f}",
        "seek s": "{seek_seconds:.2f}",
        "random batches/s": "{random_batches_per_second:,.0f}",
        "peak MiB: imports": "{imported_bytes:,.0f}",
        "open": "{opened_bytes:,.0f}",
        "first batch": "{first_batch_bytes:,.0f}",
        "end": "{end_bytes:,.0f}",
    }
    for heading in columns:
        table.add_column(heading, justify="right")
    for name, runs in result["runs"].items():
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        shown = {key: value / _MIB if key.endswith("_bytes") else value for key, value in medians.items()}
        table.add_row(*(form.format(name, **shown) for form in columns.values()))
    return table


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one-start"]:
        started_store, started_objective, started_len, started_at = sys.argv[2:]
        seconds = time.time() - float(started_at)
        print(json.dumps(measure(Path(started_store), started_objective, int(started_len), seconds)))
    else:
        main(sys.argv[1:])
