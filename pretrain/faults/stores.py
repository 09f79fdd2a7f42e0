"""Token stores that are damaged, before a run opens them and after, or that are not the store they were."""

import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pretrain import comm
from pretrain.data.store import TokenStore, verify_store
from pretrain.errors import PretrainError
from pretrain.faults.bench import NUM_DOCUMENTS, Bench, Way
from pretrain.faults.courses import run_to
from pretrain.faults.damage import flip
from pretrain.faults.row import Row, Try, expect
from pretrain.faults.tiny import write_tiny_store
from pretrain.faults.world import ROOT, world

FLIPS, FLIPS_IN_SAMPLE = 300, 60
STEPS = 100_000
WAY = Way("fsdp", 2)
TOKENS = "train-00000.tokens"


def _copy(bench: Bench) -> Path:
    return Path(shutil.copytree(bench.store, bench.new_folder("store") / "store"))


def _before_tries(bench: Bench) -> Iterator[Try]:
    store, draw = _copy(bench), random.Random(0)
    paths = sorted(path for path in store.rglob("*") if path.is_file())
    for _ in range(FLIPS if bench.in_full else FLIPS_IN_SAMPLE):
        path = draw.choice(paths)
        bit = draw.randrange(8 * path.stat().st_size)
        yield Try(f"{path.name} bit {bit}", partial(_verify_names, store, path, bit))
    for path in paths:
        yield Try(f"{path.name} cut short", partial(_open_names, store, path))
    yield Try("a token flipped, `data_prep verify`", lambda: _command_names(store))
    yield Try("a token flipped, a run with data.verify", lambda: _run_names(bench, store))


def _verify_names(store: Path, path: Path, bit: int) -> None:
    flip(path, bit)
    try:
        problems = verify_store(store, full=True, workers=2)
    finally:
        flip(path, bit)
    expect(any(str(path) in each for each in problems), f"it found {problems}")


def _open_names(store: Path, path: Path) -> None:
    content = path.read_bytes()
    os.truncate(path, len(content) - 1)
    try:
        TokenStore.open(store)
        message = ""
    except PretrainError as error:
        message = str(error)
    finally:
        path.write_bytes(content)
    expect(str(path) in message, message or "it was opened")


def _command_names(store: Path) -> None:
    flip(store / TOKENS, 801)
    try:
        command = [sys.executable, "-m", "data_prep", "verify", str(store)]
        result = subprocess.run(
            command, env=comm.command_environment(ROOT), capture_output=True, text=True, timeout=120
        )
    finally:
        flip(store / TOKENS, 801)
    named = result.returncode == 3 and TOKENS in result.stderr
    expect(named, f"it ended with {result.returncode}: {result.stderr[-500:]}")


def _run_names(bench: Bench, store: Path) -> None:
    flip(store / TOKENS, 801)
    typed = bench.arguments(STEPS, f"--data={store}", "data.verify=true")
    running = run_to(bench, bench.new_folder("on-store"), typed, 2, WAY, code=3)
    expect(f"{store / TOKENS} has changed" in running.sentence, running.sentence)
    flip(store / TOKENS, 801)


def _after_tries(bench: Bench) -> Iterator[Try]:
    changes: list[tuple[str, Callable[[Path], None]]] = [
        ("cut short", lambda path: os.truncate(path, 100)),
        ("a bit flipped", lambda path: flip(path, 801)),
        ("replaced", _replace),
        ("removed", lambda path: path.unlink()),
    ]
    for what, change in bench.sample(changes, 2):
        yield Try(f"{what} while a run reads it", partial(_changed_in_use, bench, change))


def _replace(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(bytes(path.stat().st_size))
    other.rename(path)


def _changed_in_use(bench: Bench, change: Callable[[Path], None]) -> None:
    store = _copy(bench)
    typed = bench.arguments(STEPS, f"--data={store}")
    with world(bench.launch, bench.new_folder("on-store"), typed, 2) as running:
        running.wait_for_step(3)
        change(store / TOKENS)
        codes, _ = running.end()
        expect(codes == [3, 3], f"ended with {codes}: {running.said[-1000:]}")
        expect(str(store / TOKENS) in running.sentence, running.sentence)


def _other_tries(bench: Bench) -> Iterator[Try]:
    yield Try("the text", lambda: _rebuilt(bench, 1, "{}", "of another text or in another way"))
    yield Try("the tokenizer", lambda: _rebuilt(bench, 0, "{ }", "made by another tokenizer"))


def _rebuilt(bench: Bench, seed: int, tokenizer: str, difference: str) -> None:
    """At the same path, after the run has begun."""
    folder, store = bench.new_folder("rebuilt"), _copy(bench)
    typed = bench.arguments(9, f"--data={store}", "train.stop_at_step=3")
    run_to(bench, folder, typed, 2, WAY, code=75)
    shutil.rmtree(store)
    write_tiny_store(store, NUM_DOCUMENTS, seed, tokenizer)
    running = run_to(bench, folder, typed, 2, WAY, code=3)
    said = "another token store" in running.sentence and difference in running.sentence
    expect(said, running.sentence)


ROWS = (
    Row(
        "store-before",
        "a token store's file flipped or truncated before a run opens it",
        "cut short: refused, always; flipped: found by `data_prep verify` and by a run with data.verify=true",
        _before_tries,
    ),
    Row(
        "store-after",
        "a token store's file changed while a run reads it",
        "all ranks end with 3 by the file's name; no bare SIGBUS",
        _after_tries,
    ),
    Row(
        "other-store",
        "tokenizer changed, store rebuilt differently",
        "a run that goes on refuses it with 3, and says which of the two",
        _other_tries,
    ),
)
