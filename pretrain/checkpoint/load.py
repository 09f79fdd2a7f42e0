"""Loading: any saved cut into any other.

1. `latest` or a path names the checkpoint (`find`);
2. the manifest must account for every element, and the ranks share the work of verifying the files (`verify`);
3. each rank reads, of the saved slices, the elements that its own hold, whoever wrote them (`tensors`).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from pretrain.checkpoint.frozen import all_parameters, check_moments_kept, check_same_frozen
from pretrain.checkpoint.manifest import MASTER, CheckpointManifest, SavedSlice, slice_key, vector_key
from pretrain.checkpoint.snapshot import local_tensors
from pretrain.checkpoint.tensors import TensorFile
from pretrain.checkpoint.verify import raise_first, read_verified
from pretrain.errors import DataError, UsageError
from pretrain.optim import ShardedOptimizer
from pretrain.sharding import ShardLayout, Slice

MomentsPolicy = Literal["reset", "kept", "nvidia-kept"]


def load_checkpoint(
    folder: Path,
    optimizer: ShardedOptimizer,
    rank: int,
    ranks: int,
    verified: CheckpointManifest | None = None,
) -> CheckpointManifest:
    """Fills the local master weights and moments; collective. The backend must refresh its weights after it.

    `verified`: what `read_verified` gave; None: it is called first.

    Raises:
        DataError: a file is damaged, or the checkpoint has no moments.
        UsageError: the checkpoint is of another model, or other parameters were frozen.
    """
    manifest = verified or read_verified(folder, True, rank, ranks)
    check_same_frozen(folder, manifest, optimizer.layout)
    _load(folder, manifest, optimizer, local_tensors(optimizer), optimizer.vectors)
    optimizer.applied_steps = manifest.state.applied_steps
    optimizer.earlier_steps = manifest.state.earlier_steps
    if optimizer.spikes is not None:  # without a rule nothing would keep them up to date
        optimizer.recent_norms = list(manifest.state.recent_norms)
        optimizer.spikes_in_row = manifest.state.spikes_in_row
    return manifest


def begin_phase(
    folder: Path,
    optimizer: ShardedOptimizer,
    moments: MomentsPolicy,
    rank: int,
    ranks: int,
    verified: CheckpointManifest | None = None,
) -> CheckpointManifest:
    """Fills the master weights of a run that has taken no step; collective, and refresh the weights after it.

    - reset: moments stay zero, as in a run from a model folder;
    - kept: moments are the checkpoint's, and bias correction counts its steps on;
    - nvidia-kept: moments are the checkpoint's, and bias correction counts from 1, as NVIDIA's BERT recipe hands
      phase 1 over to phase 2 (DeepLearningExamples, run_pretraining.py sets their `step` to that of phase 2).

    Raises what `load_checkpoint` raises.
    """
    tensors = local_tensors(optimizer)
    wanted, vectors = ({MASTER: tensors[MASTER]}, {}) if moments == "reset" else (tensors, optimizer.vectors)
    manifest = verified or read_verified(folder, True, rank, ranks)
    if moments != "reset":
        check_moments_kept(folder, manifest, optimizer.layout, optimizer.vectors)
    _load(folder, manifest, optimizer, wanted, vectors)
    if moments == "kept":
        optimizer.earlier_steps = manifest.state.earlier_steps + manifest.state.applied_steps
    return manifest


def _load(
    folder: Path,
    manifest: CheckpointManifest,
    optimizer: ShardedOptimizer,
    wanted: dict[str, list[Tensor]],
    vectors: dict[str, Tensor],
) -> None:
    """Fills the tensors and whole vectors that are wanted, by kind."""
    missing = [kind for kind in wanted if kind not in manifest.kinds]
    missing += [kind for kind in vectors if kind not in manifest.vectors]
    if missing:
        raise DataError(
            f"{folder} holds no {missing[0]}, so training cannot go on from it: choose the optimizer that it was "
            "saved with (optimizer.name), or start anew with another --output."
        )
    _check_parameters(folder, manifest, optimizer.layout)
    frozen = optimizer.layout.frozen
    problem: str | None = None
    try:
        for file in manifest.files:
            path = folder / file.name
            _fill(path, file.slices, optimizer.layout, wanted)
            if frozen is not None:
                _fill(path, file.slices, frozen, {MASTER: [shard.tensor.detach() for shard in frozen.shards]})
        if vectors:
            _fill_whole(folder / manifest.files[0].name, vectors)
    except DataError as error:
        problem = str(error)
    raise_first(problem)


def _check_parameters(folder: Path, manifest: CheckpointManifest, layout: ShardLayout) -> None:
    ours = all_parameters(layout)
    for name in sorted(ours.keys() | manifest.parameters.keys()):
        if ours.get(name) != manifest.parameters.get(name):
            raise UsageError(
                f"{folder} is of another model: parameter {name} has shape {manifest.parameters.get(name)} there and "
                f"{ours.get(name)} in this run."
            )


def _fill(
    path: Path, saved: Sequence[SavedSlice], layout: ShardLayout, wanted: Mapping[str, Sequence[Tensor]]
) -> None:
    """Copies every overlap of a slice in this file with a local one, of each kind."""
    ours: dict[str, list[tuple[int, Slice]]] = {}
    for index, shard in enumerate(layout.shards):
        for piece in shard.slices:
            ours.setdefault(layout.parameters[piece.parameter].name, []).append((index, piece))
    overlaps = [
        (each, index, piece)
        for each in saved
        for index, piece in ours.get(each.parameter, ())
        if max(each.start, piece.start) < min(each.start + each.numel, piece.end)
    ]
    if not overlaps:
        return
    file = TensorFile.open(path)
    for kind, tensors in wanted.items():
        for each, index, piece in overlaps:
            first, last = max(each.start, piece.start), min(each.start + each.numel, piece.end)
            values = file.read(slice_key(kind, each.parameter, each.start), first - each.start, last - first)
            place = piece.offset + first - piece.start
            with torch.no_grad():
                tensors[index].view(-1)[place : place + len(values)].copy_(values)


def _fill_whole(path: Path, vectors: Mapping[str, Tensor]) -> None:
    """Raises DataError where rank 0's file holds another number of elements."""
    file = TensorFile.open(path)
    for kind, vector in vectors.items():
        elements, _ = file.places.get(vector_key(kind), (0, 0))
        if elements != vector.numel():
            raise DataError(
                f"{path} holds {elements} elements as {kind}, which has {vector.numel()} elements."
            )
        vector.copy_(file.read(vector_key(kind), 0, elements))
