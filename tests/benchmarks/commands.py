"""Whole commands as peers: our build, and Megatron-LM's preprocessing, each typed as a user would."""

import json
import re
import resource
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.corpus import Corpus
from tests.benchmarks.measure import NotRun, Trial
from tests.benchmarks.text_peers import NUM_WORKERS, last_words
from tests.worlds import ROOT, environment

_MEGATRON_LOG_LINES = 20
_PROCESSED = re.compile(r"Processed (\d+) documents \(([\d.]+) docs/s")


@dataclass(frozen=True)
class Finished:
    """A command's end: wall seconds, CPU seconds of it and the children it waited for, and its stderr."""

    seconds: float
    cpu_seconds: float
    errors: str


def train_tokenizer(kind: str, texts: Sequence[Path], vocab_size: int, output: Path) -> Path:
    """The folder of a tokenizer of our own training, made unless it is there."""
    if not output.exists():
        arguments = ["--train-tokenizer", kind, "--vocab-size", str(vocab_size), "--output", str(output)]
        _finish([*_data_prep("tokenizer"), "--input", *map(str, texts), *arguments])
    return output


def build_command(texts: Sequence[Path], tokenizer: Path, store: Path) -> list[str]:
    """`python -m data_prep build` of plain text into `store`, which must not exist."""
    inputs = ["--input", *map(str, texts), "--tokenizer", str(tokenizer), "--output", str(store)]
    return [*_data_prep("build"), *inputs, "--workers", str(NUM_WORKERS)]


def build_store(texts: Sequence[Path], tokenizer: Path, store: Path, *arguments: str) -> Finished:
    """The store, built."""
    return _finish([*build_command(texts, tokenizer, store), *arguments])


def our_build(corpus: Corpus, tokenizer: Path, scratch: Path) -> Trial:
    """The whole corpus into a store on disk; timed from the first result of a worker to the last, where the
    build says when the first came. The rest of the command's time is start-up."""
    store, timings_file = scratch / "store", scratch / "timings.json"
    shutil.rmtree(store, ignore_errors=True)
    whole = build_store(corpus.text, tokenizer, store, "--timings", str(timings_file))
    timings = json.loads(timings_file.read_text())
    report = json.loads((store / "report.json").read_text())
    shutil.rmtree(store)
    num_bytes: int = timings["encoded_bytes"] - timings.get("first_result_bytes", 0)
    seconds: float = timings["seconds"]["encoding"] - timings["seconds"].get("first result", 0.0)
    details = {
        "tokens": sum(split["tokens"] for split in report["splits"].values()),
        "whole_seconds": whole.seconds,
        "whole_cpu_seconds": whole.cpu_seconds,
        "timings": timings,
    }
    cpu_seconds = sum(timings["cpu_ms_per_mb"].values()) * num_bytes / 1e9
    return Trial(num_bytes, seconds, cpu_seconds, whole.seconds - seconds, details)


def megatron(checkout: Path | None, jsonl: Path, text_bytes: int, tokenizer: Path, scratch: Path) -> Trial:
    """Megatron-LM's `tools/preprocess_data.py` without sentence splitting, from its first to its last line of
    progress; `text_bytes` are those of the same documents as plain text."""
    if checkout is None:
        raise NotRun(
            "no checkout of Megatron-LM was given (--megatron PATH). On another machine it made 2.8 MB/s: a hint, "
            "no comparison."
        )
    if not (checkout / "tools" / "preprocess_data.py").exists():
        raise NotRun(f"{checkout} has no tools/preprocess_data.py.")
    with jsonl.open("rb") as file:
        num_documents = sum(1 for _ in file)
    command = [sys.executable, "-W", "ignore", str(Path(__file__).with_name("run_megatron.py").absolute())]
    command += [
        "tools/preprocess_data.py",
        "--input",
        str(jsonl),
        "--output-prefix",
        str(scratch / "megatron"),
    ]
    command += ["--tokenizer-type", "HuggingFaceTokenizer", "--tokenizer-model", str(tokenizer)]
    command += [
        "--workers",
        str(NUM_WORKERS),
        "--log-interval",
        str(max(1, num_documents // _MEGATRON_LOG_LINES)),
    ]
    whole = _finish(command, checkout, NotRun)
    num_bytes, began, ended = megatron_progress(whole.errors, num_documents, text_bytes)
    details = {
        "version": _megatron_version(checkout),
        "whole_seconds": whole.seconds,
        "whole_cpu_seconds": whole.cpu_seconds,
    }
    return Trial(num_bytes, ended - began, None, whole.seconds - ended, details)


def megatron_progress(errors: str, num_documents: int, text_bytes: int) -> tuple[int, float, float]:
    """(bytes of text between the first and the last line of progress, seconds at each); raises NotRun for fewer
    than two lines."""
    done = [(int(count), int(count) / float(rate)) for count, rate in _PROCESSED.findall(errors)]
    if len(done) < 2:
        raise NotRun(f"its output shows no progress: {last_words(errors)}")
    (first, began), (last, ended) = done[0], done[-1]
    return round(text_bytes * (last - first) / num_documents), began, ended


def _megatron_version(checkout: Path) -> str:
    with suppress(OSError):
        return str(runpy.run_path(str(checkout / "megatron" / "core" / "package_info.py"))["__version__"])
    return "unknown"


def stage_milliseconds(trials: Sequence[Trial]) -> dict[str, float]:
    """CPU milliseconds per MB of each stage of our build, of the trial in the middle; the rest is start-up and
    passing things between processes."""
    middle = sorted(trials, key=lambda trial: trial.rate)[len(trials) // 2].details
    stages: dict[str, float] = middle["timings"]["cpu_ms_per_mb"]
    whole = middle["whole_cpu_seconds"] * 1e9 / middle["timings"]["encoded_bytes"]
    return stages | {"start-up and rest": whole - sum(stages.values())}


def _data_prep(command: str) -> list[str]:
    return [sys.executable, "-m", "data_prep", command]


def _finish(command: Sequence[str], cwd: Path = ROOT, failure: type[Exception] = RuntimeError) -> Finished:
    """Runs a command to its end; raises `failure` with what it said last where it ends badly."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    result = subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if result.returncode != 0:
        raise failure(last_words(result.stderr))
    cpu_seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Finished(seconds, cpu_seconds, result.stderr)
