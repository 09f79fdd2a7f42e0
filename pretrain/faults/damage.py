"""Checkpoints that are damaged: a bit, a whole file, or one in another's place; and what a run then does."""

import os
import random
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pretrain.checkpoint import read_verified, saved_checkpoints
from pretrain.errors import DataError
from pretrain.faults.bench import Bench, Way
from pretrain.faults.courses import run_to
from pretrain.faults.row import Row, Try, expect
from pretrain.faults.small import one_rank
from pretrain.faults.world import world

FLIPS, FLIPS_IN_SAMPLE = 1000, 150
WAY = Way("fsdp", 2)
ONE, TWO, MANIFEST = "rank-00000.safetensors", "rank-00001.safetensors", "manifest.json"


def arguments(bench: Bench) -> list[str]:
    """Of a run on two ranks with three checkpoints."""
    return bench.arguments(6, "checkpoint.every=2", "checkpoint.keep=9", "eval.rows=2")


def finished(bench: Bench) -> Path:
    """The folder of that run; nobody changes it."""

    def make() -> Path:
        folder = bench.new_folder("finished")
        run_to(bench, folder, arguments(bench), 2, WAY)
        return folder / "run"

    return bench.once("finished", make)


def copied(bench: Bench) -> Path:
    """The same run in a folder of its own, cut off after its last checkpoint."""
    folder = bench.new_folder("copied")
    run = Path(shutil.copytree(finished(bench), folder / "run"))
    shutil.rmtree(run / "model")
    return run


def refusal(checkpoint: Path) -> str:
    """The message with which it is refused, before anything is loaded; empty where it is not."""
    try:
        read_verified(checkpoint, True, 0, 1)
    except DataError as error:
        return str(error)
    return ""


def flip(path: Path, bit: int) -> None:
    """In place; twice is nothing."""
    with open(path, "r+b") as file:
        file.seek(bit // 8)
        byte = file.read(1)[0]
        file.seek(bit // 8)
        file.write(bytes([byte ^ 1 << bit % 8]))


def _flip_tries(bench: Bench) -> Iterator[Try]:
    newest = saved_checkpoints(copied(bench) / "checkpoints")[0]
    draw = random.Random(0)
    with one_rank():
        yield Try("whole", lambda: expect(refusal(newest) == "", refusal(newest)))
        for number in range(FLIPS if bench.in_full else FLIPS_IN_SAMPLE):
            path = newest / (ONE, TWO, MANIFEST)[number % 3]
            bit = draw.randrange(8 * path.stat().st_size)
            yield Try(f"{path.name} bit {bit}", partial(_refuses_flipped, path, bit))
        yield Try("whole again", lambda: expect(refusal(newest) == "", refusal(newest)))


def _refuses_flipped(path: Path, bit: int) -> None:
    flip(path, bit)
    try:
        message = refusal(path.parent)
    finally:
        flip(path, bit)
    expect(str(path) in message, f"it said {message!r}" if message else "it was taken for whole")


def swap(one: Path, two: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def _unlink(folder: Path) -> None:
    (folder / TWO).unlink()


def _truncate(folder: Path) -> None:
    os.truncate(folder / TWO, 1000)


def _empty(folder: Path) -> None:
    os.truncate(folder / ONE, 0)


def _lengthen(folder: Path) -> None:
    with open(folder / ONE, "ab") as file:
        file.write(b"\n")


def _replace_by_folder(folder: Path) -> None:
    (folder / ONE).unlink()
    (folder / ONE).mkdir()


def _swap_ranks(folder: Path) -> None:
    swap(folder / ONE, folder / TWO)


def _swap_steps(folder: Path) -> None:
    """Files of the same sizes, whole in themselves."""
    swap(folder / ONE, folder.with_name("step-00000004") / ONE)


def _swap_manifests(folder: Path) -> None:
    swap(folder / MANIFEST, folder.with_name("step-00000004") / MANIFEST)


def _no_manifest(folder: Path) -> None:
    (folder / MANIFEST).unlink()


def _truncate_manifest(folder: Path) -> None:
    os.truncate(folder / MANIFEST, 900)


# (what is done to the latest checkpoint, the file that must be named)
DAMAGES: tuple[tuple[str, Callable[[Path], None], str], ...] = (
    ("a file missing", _unlink, TWO),
    ("truncated", _truncate, TWO),
    ("empty", _empty, ONE),
    ("a byte longer", _lengthen, ONE),
    ("a folder in a file's place", _replace_by_folder, ONE),
    ("two ranks' files swapped", _swap_ranks, ONE),
    ("two steps' files swapped", _swap_steps, ONE),
    ("two steps' manifests swapped", _swap_manifests, MANIFEST),
    ("no manifest", _no_manifest, MANIFEST),
    ("a manifest cut short", _truncate_manifest, MANIFEST),
)


def _file_tries(bench: Bench) -> Iterator[Try]:
    with one_rank():
        for what, damage, file in DAMAGES:
            yield Try(what, partial(_refuses_damaged, bench, damage, file))
    for what, damage, file in bench.sample((DAMAGES[1], DAMAGES[6], DAMAGES[8]), 1):
        yield Try(f"{what}, a run", partial(_run_refuses_or_falls_back, bench, damage, file))


def _refuses_damaged(bench: Bench, damage: Callable[[Path], None], file: str) -> None:
    newest = saved_checkpoints(copied(bench) / "checkpoints")[0]
    damage(newest)
    message = refusal(newest)
    expect(str(newest / file) in message, f"it said {message!r}" if message else "it was taken for whole")


def _run_refuses_or_falls_back(bench: Bench, damage: Callable[[Path], None], file: str) -> None:
    run = copied(bench)
    damage(run / "checkpoints" / "step-00000006")
    typed = [bench.engine(WAY), *arguments(bench)]
    with world(bench.launch, run.parent, typed, 2) as running:
        codes, _ = running.end()
        expect(codes == [3, 3], f"ended with {codes}: {running.said[-1000:]}")
        sentence = running.sentence
        expect(f"step-00000006/{file}" in sentence, f"the file is not named: {sentence}")
        expect("step-00000002" in sentence, f"what else is there is not said: {sentence}")
    whole = "step-00000002" if damage is _swap_steps else "step-00000004"
    with world(bench.launch, run.parent, [*typed, "checkpoint.fall_back=true"], 2) as running:
        codes, _ = running.end()
        expect(codes == [0, 0], f"falling back it ended with {codes}: {running.said[-1000:]}")
        for words in (file, "Falling back to", f"Continuing {run}/checkpoints/{whole} after step"):
            expect(words in running.said, f"{words!r} is not said: {running.said[-1000:]}")


ROWS = (
    Row("flip", "a bit flipped in a checkpoint", "refused every time; the file is named", _flip_tries),
    Row(
        "damage",
        "a checkpoint's file missing, truncated, swapped",
        "the same; a run falls back to an older one only when asked, and says so",
        _file_tries,
    ),
)
