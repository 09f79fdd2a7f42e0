"""What a run computed, step by step and in the end, so that two can be compared bit for bit or within rounding."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pretrain.checkpoint import CheckpointManifest, find_checkpoint
from pretrain.checkpoint.manifest import MASTER, sha256_of, slice_key
from pretrain.checkpoint.tensors import TensorFile
from pretrain.faults.bench import Bench, Way
from pretrain.faults.row import Red, expect
from pretrain.faults.world import World, world

_TIMES = ("seconds", "tokens_per_second", "mfu", "data_wait")


@dataclass(frozen=True)
class Course:
    """Every step's losses, norms, cursor and sample names, all validations, and the checksums of what came out."""

    steps: list[dict[str, Any]]
    samples: list[list[str]]
    validations: list[dict[str, Any]]
    files: list[str]  # sha256: masters and moments by rank, then the exported model
    cursor: list[int]

    @classmethod
    def of(cls, run: Path) -> "Course":
        """Of a finished run that wrote down its samples."""
        manifest = newest(run)[1]
        files = [file.sha256 for file in manifest.files]
        model = run / "model" / "model.safetensors"
        expect(model.is_file(), f"{run} has no model: it has not come to its end")
        return cls(
            records(run / "metrics.jsonl"),
            [line["samples"] for line in records(run / "samples.jsonl")],
            records(run / "eval.jsonl"),
            [*files, sha256_of(model)],
            manifest.state.cursor,
        )

    def values(self, key: str) -> list[Any]:
        """Of every step."""
        return [step[key] for step in self.steps]


def records(path: Path) -> list[dict[str, Any]]:
    """All that the lines say but for the clock."""
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [{key: value for key, value in line.items() if key not in _TIMES} for line in lines]


def newest(run: Path) -> tuple[Path, CheckpointManifest]:
    """The latest checkpoint. Raises Red where there is none."""
    path = find_checkpoint(run / "checkpoints")
    if path is None:
        raise Red(f"{run} has no checkpoint")
    return path, CheckpointManifest.read(path)


def expect_bitwise(found: Course, whole: Course) -> None:
    """Raises Red with the first thing in which two runs differ."""
    for number, (ours, theirs) in enumerate(zip(found.steps, whole.steps, strict=False), start=1):
        differing = [key for key in theirs if ours.get(key) != theirs[key]]
        expect(not differing, f"step {number} differs in {', '.join(differing)}")
    for what in ("steps", "samples", "validations", "files", "cursor"):
        expect(getattr(found, what) == getattr(whole, what), f"the {what} of the two runs differ")


def relative(expected: Sequence[float], found: Sequence[float]) -> float:
    """The largest relative difference."""
    return max(abs(b - a) / abs(a) for a, b in zip(expected, found, strict=True))


def whole_tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Master weights and moments, put together from all ranks' slices, by kind and parameter; flat."""
    manifest = CheckpointManifest.read(checkpoint)
    found: dict[str, torch.Tensor] = {}
    for file in manifest.files:
        tensors = TensorFile.open(checkpoint / file.name)
        for piece in file.slices:
            numel = torch.Size(manifest.parameters[piece.parameter]).numel()
            for kind in [MASTER, *(each for each in manifest.kinds if each != MASTER)]:
                whole = found.setdefault(f"{kind} {piece.parameter}", torch.full((numel,), torch.nan))
                values = tensors.read(slice_key(kind, piece.parameter, piece.start), 0, piece.numel)
                whole[piece.start : piece.start + piece.numel] = values
    return found


def run_to(
    bench: Bench,
    folder: Path,
    arguments: Sequence[str],
    ranks: int,
    way: Way,
    code: int = 0,
    fault: dict[str, Any] | None = None,
) -> World:
    """Starts a run on ranks by hand and waits for its end. Raises Red unless all end with `code`."""
    typed = [bench.engine(way), *arguments]
    with world(bench.launch, folder, typed, ranks, backend=way.backend, fault=fault) as running:
        codes, _ = running.end()
        expect(codes == [code] * ranks, f"ended with {codes}, not {code}: {running.said[-1000:]}")
        return running


def undisturbed(bench: Bench, way: Way, ranks: int, arguments: Sequence[str]) -> Course:
    """Of a run that nothing happened to; one for each way, shared by the rows."""

    def make() -> Course:
        folder = bench.new_folder("undisturbed")
        run_to(bench, folder, arguments, ranks, way)
        return Course.of(folder / "run")

    return bench.once((way, ranks, *arguments), make)
