"""Loading: any saved cut into any other.

1. `latest` or a path names the checkpoint; the manifest must account for every element;
2. the ranks share the work of verifying every file's checksum;
3. each rank reads, of the saved slices, the parts that overlap its own, whoever wrote them.
"""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pretrain import comm
from pretrain.checkpoint.frozen import all_parameters, check_moments_kept, check_same_frozen
from pretrain.checkpoint.manifest import (
    LATEST_NAME,
    MASTER,
    CheckpointManifest,
    SavedFile,
    sha256_of,
    slice_key,
    vector_key,
)
from pretrain.checkpoint.save import local_tensors
from pretrain.errors import DataError, UsageError
from pretrain.optim import ShardedOptimizer
from pretrain.sharding import ShardLayout

MomentsPolicy = Literal["reset", "kept", "nvidia-kept"]


def find_checkpoint(checkpoints: Path) -> Path | None:
    """The checkpoint that `latest` names, or None where nothing was ever saved.

    Raises DataError where checkpoints lie there but `latest` is missing or names none of them.
    """
    latest = checkpoints / LATEST_NAME
    saved = sorted(checkpoints.glob("step-*"))
    try:
        name = latest.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        if not saved:
            return None
        # A kill between the folder's name and `latest`, in a first save; the folder is whole by then.
        return saved[-1] if len(saved) == 1 else _ambiguous(latest, saved)
    replaced = checkpoints / f".{name}.replaced"
    if checkpoints / name not in saved and replaced.is_dir():
        return replaced  # killed while this very step was saved again
    if checkpoints / name not in saved:
        raise DataError(f"{latest} names {name!r}, which is not there; name a checkpoint by --resume PATH.")
    return checkpoints / name


def _ambiguous(latest: Path, saved: list[Path]) -> Path:
    raise DataError(
        f"{latest} is missing though {len(saved)} checkpoints lie beside it; name one by --resume {saved[-1]}."
    )


def verify_checkpoint(folder: Path, manifest: CheckpointManifest, rank: int = 0, ranks: int = 1) -> list[str]:
    """Sentences about files that are missing or whose size or checksum differs; rank r of n checks every n-th."""
    problems = []
    for file in manifest.files[rank::ranks]:
        path = folder / file.name
        try:
            if path.stat().st_size != file.bytes:
                problems.append(f"{path} has {path.stat().st_size} bytes, the manifest says {file.bytes}")
            elif sha256_of(path) != file.sha256:
                problems.append(f"{path} differs from its checksum")
        except OSError as error:
            problems.append(f"{path} cannot be read: {error.strerror or error}")
    return problems


def load_checkpoint(folder: Path, optimizer: ShardedOptimizer, rank: int, ranks: int) -> CheckpointManifest:
    """Fills the local master weights and moments; collective. The backend must refresh its weights after it.

    Raises:
        DataError: a file is damaged, or the checkpoint has no moments.
        UsageError: the checkpoint is of another model, or other parameters were frozen.
    """
    check_same_frozen(folder, CheckpointManifest.read(folder), optimizer.layout)
    manifest = _load(folder, optimizer, local_tensors(optimizer), optimizer.vectors, rank, ranks)
    optimizer.applied_steps = manifest.state.applied_steps
    optimizer.earlier_steps = manifest.state.earlier_steps
    if optimizer.spikes is not None:  # without a rule nothing would keep them up to date
        optimizer.recent_norms = list(manifest.state.recent_norms)
        optimizer.spikes_in_row = manifest.state.spikes_in_row
    return manifest


def begin_phase(
    folder: Path, optimizer: ShardedOptimizer, moments: MomentsPolicy, rank: int, ranks: int
) -> CheckpointManifest:
    """Fills the master weights of a run that has taken no step; collective, and refresh the weights after it.

    - reset: moments stay zero, as in a run from a model folder;
    - kept: moments are the checkpoint's, and bias correction counts its steps on;
    - nvidia-kept: moments are the checkpoint's, and bias correction counts from 1, as NVIDIA's BERT recipe hands
      phase 1 over to phase 2 (DeepLearningExamples, run_pretraining.py sets their `step` to that of phase 2).

    Raises what `load_checkpoint` raises.
    """
    tensors = local_tensors(optimizer)
    if moments != "reset":
        check_moments_kept(folder, CheckpointManifest.read(folder), optimizer.layout, optimizer.vectors)
    wanted, vectors = ({MASTER: tensors[MASTER]}, {}) if moments == "reset" else (tensors, optimizer.vectors)
    manifest = _load(folder, optimizer, wanted, vectors, rank, ranks)
    if moments == "kept":
        optimizer.earlier_steps = manifest.state.earlier_steps + manifest.state.applied_steps
    return manifest


def _load(
    folder: Path,
    optimizer: ShardedOptimizer,
    wanted: dict[str, list[Tensor]],
    vectors: dict[str, Tensor],
    rank: int,
    ranks: int,
) -> CheckpointManifest:
    """Verifies the checkpoint and fills the tensors and whole vectors that are wanted, by kind."""
    manifest = CheckpointManifest.read(folder)
    problems = verify_checkpoint(folder, manifest, rank, ranks)
    problems = [problem for each in comm.all_gather_objects(problems) for problem in each]
    if problems:
        raise DataError(
            f"{problems[0]}; the checkpoint is damaged, resume from another one by --resume PATH."
        )
    missing = [kind for kind in wanted if kind not in manifest.kinds]
    missing += [kind for kind in vectors if kind not in manifest.vectors]
    if missing:
        raise DataError(
            f"{folder} holds no {missing[0]}, so training cannot go on from it: choose the optimizer that it was "
            "saved with (optimizer.name), or start anew with another --output."
        )
    _check_parameters(folder, manifest, optimizer.layout)
    for kind, tensors in wanted.items():
        _fill(folder, manifest, optimizer.layout, kind, tensors)
    frozen = optimizer.layout.frozen
    if frozen is not None:
        _fill(folder, manifest, frozen, MASTER, [shard.tensor.detach() for shard in frozen.shards])
    for kind, vector in vectors.items():
        vector.copy_(_read_vector(folder / manifest.files[0].name, kind, vector.numel()))
    return manifest


def _check_parameters(folder: Path, manifest: CheckpointManifest, layout: ShardLayout) -> None:
    ours = all_parameters(layout)
    for name in sorted(ours.keys() | manifest.parameters.keys()):
        if ours.get(name) != manifest.parameters.get(name):
            raise UsageError(
                f"{folder} is of another model: parameter {name} has shape {manifest.parameters.get(name)} there and "
                f"{ours.get(name)} in this run."
            )


def _fill(
    folder: Path, manifest: CheckpointManifest, layout: ShardLayout, kind: str, tensors: list[Tensor]
) -> None:
    """Copies every overlap of a saved slice with a local one."""
    wanted: dict[str, list[tuple[int, Tensor]]] = {}
    for shard, tensor in zip(layout.shards, tensors, strict=True):
        for piece, view in zip(shard.slices, shard.views(tensor), strict=True):
            wanted.setdefault(layout.parameters[piece.parameter].name, []).append((piece.start, view))
    for file in manifest.files:
        for parameter, start, values in read_slices(folder, file, kind, set(wanted)):
            for mine, view in wanted[parameter]:
                first, last = max(start, mine), min(start + len(values), mine + len(view))
                if first < last:
                    with torch.no_grad():
                        view[first - mine : last - mine].copy_(values[first - start : last - start])


def _read_vector(path: Path, kind: str, numel: int) -> Tensor:
    """Raises DataError where rank 0's file does not hold it as the manifest says."""
    try:
        with safe_open(path, framework="pt") as content:
            values: Tensor = content.get_tensor(vector_key(kind))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as the manifest says: {error}.") from None
    if values.dtype != torch.float32 or values.shape != (numel,):
        raise DataError(
            f"{path} holds {list(values.shape)} {values.dtype} as {kind}, which has {numel} elements."
        )
    return values


def read_slices(
    folder: Path, file: SavedFile, kind: str, parameters: set[str]
) -> list[tuple[str, int, Tensor]]:
    """(parameter, first element, values) of one kind, of the parameters asked for; values are mapped lazily."""
    path = folder / file.name
    pieces = [piece for piece in file.slices if piece.parameter in parameters]
    try:
        with safe_open(path, framework="pt") as content:
            found = [content.get_tensor(slice_key(kind, piece.parameter, piece.start)) for piece in pieces]
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} cannot be read as the manifest says: {error}.") from None
    for piece, values in zip(pieces, found, strict=True):
        if values.dtype != torch.float32 or values.shape != (piece.numel,):
            raise DataError(
                f"{path} holds {list(values.shape)} {values.dtype} where the manifest says {piece.numel} elements of "
                f"{piece.parameter}."
            )
    return [(piece.parameter, piece.start, values) for piece, values in zip(pieces, found, strict=True)]
