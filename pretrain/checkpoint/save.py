"""Saving: every rank writes its slices, then rank 0 commits them all at once.

1. ranks of replica 0 write and fsync their file in a hidden folder, and hash what lies there;
2. rank 0 gathers names, sizes and checksums, writes the manifest and fsyncs;
3. the folder gets its name, then `latest` names it; older checkpoints beyond `keep` go. A step that is saved again
   is kept under a hidden name meanwhile, where loading finds it.

Killed anywhere, the previous checkpoint is still whole and still the latest.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from pretrain import comm
from pretrain.checkpoint.frozen import all_parameters, frozen_names, frozen_slices, frozen_values
from pretrain.checkpoint.manifest import (
    LATEST_NAME,
    MANIFEST_NAME,
    MASTER,
    CheckpointManifest,
    RunState,
    SavedFile,
    SavedSlice,
    sha256_of,
    slice_key,
    sync,
    vector_key,
)
from pretrain.errors import PretrainError
from pretrain.optim import ShardedOptimizer


def save_checkpoint(
    checkpoints: Path, optimizer: ShardedOptimizer, state: RunState, keep: int, rank: int
) -> Path:
    """Writes `checkpoints/step-<step>`; collective. Returns its path.

    Raises:
        PretrainError: a rank could not write; nothing is committed then, on any rank.
    """
    name = f"step-{state.step:08d}"
    partial, final = checkpoints / f".{name}.partial", checkpoints / name
    problem: str | None = None
    saved: SavedFile | None = None
    if rank == 0:
        problem = _attempt(lambda: _prepare(partial))
    _raise_any(problem, final)
    if optimizer.layout.replica == 0:
        try:
            saved = _write_slices(partial, optimizer, rank)
        except (OSError, RuntimeError, SafetensorError) as error:
            problem = f"rank {rank}: {error}"
    files = comm.all_gather_objects(None if saved is None else saved.model_dump())
    _raise_any(problem, final)
    if rank == 0:
        manifest = CheckpointManifest(
            kinds=[MASTER, *optimizer.rule.moment_kinds],
            vectors=list(optimizer.vectors),
            parameters=all_parameters(optimizer.layout),
            frozen=frozen_names(optimizer.layout),
            files=[SavedFile.model_validate(file) for file in files if file is not None],
            state=state,
        )
        problem = _attempt(lambda: _commit(partial, final, manifest, keep))
    _raise_any(problem, final)
    return final


def point_latest(checkpoints: Path, name: str) -> None:
    """Makes `latest` name this checkpoint, atomically and on disk."""
    hidden = checkpoints / f".{LATEST_NAME}.partial"
    hidden.write_text(name + "\n", encoding="utf-8")
    sync(hidden)
    hidden.replace(checkpoints / LATEST_NAME)
    sync(checkpoints)


def local_tensors(optimizer: ShardedOptimizer) -> dict[str, list[Tensor]]:
    """Master weights and the moments that the optimizer's rule keeps, by kind, one tensor for each shard."""
    moments = {kind: optimizer.moments(kind) for kind in optimizer.rule.moment_kinds}
    return {MASTER: [shard.tensor.detach() for shard in optimizer.layout.shards], **moments}


def _prepare(partial: Path) -> None:
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)


def _write_slices(partial: Path, optimizer: ShardedOptimizer, rank: int) -> SavedFile:
    layout = optimizer.layout
    content: dict[str, Tensor] = {}
    for kind, tensors in local_tensors(optimizer).items():
        for shard, tensor in zip(layout.shards, tensors, strict=True):
            for piece, view in zip(shard.slices, shard.views(tensor), strict=True):
                # Slices of one flat tensor share its storage, which safetensors takes for a mistake.
                content[slice_key(kind, layout.parameters[piece.parameter].name, piece.start)] = (
                    view.cpu().clone()
                )
    content |= {key: view.cpu().clone() for key, view in frozen_values(layout).items()}
    if rank == 0:
        content |= {vector_key(kind): vector.cpu() for kind, vector in optimizer.vectors.items()}
    path = partial / f"rank-{rank:05d}.safetensors"
    save_file(content, path)
    sync(path)
    slices = [
        SavedSlice(parameter=layout.parameters[piece.parameter].name, start=piece.start, numel=piece.numel)
        for _, piece in layout.all_slices()
    ]
    slices += frozen_slices(layout)
    return SavedFile(name=path.name, bytes=path.stat().st_size, sha256=sha256_of(path), slices=slices)


def _commit(partial: Path, final: Path, manifest: CheckpointManifest, keep: int) -> None:
    manifest.check_complete(partial)
    path = partial / MANIFEST_NAME
    path.write_text(manifest.model_dump_json(indent=1), encoding="utf-8")
    sync(path)
    sync(partial)
    replaced = final.with_name(f".{final.name}.replaced")
    if final.exists():  # saved before, by a run that then went back to an older checkpoint
        shutil.rmtree(replaced, ignore_errors=True)
        final.rename(replaced)
    partial.rename(final)
    sync(final.parent)
    point_latest(final.parent, final.name)
    shutil.rmtree(replaced, ignore_errors=True)
    older = sorted(path for path in final.parent.glob("step-*") if path.name < final.name)
    for path in older[: max(0, len(older) + 1 - keep)]:
        shutil.rmtree(path, ignore_errors=True)


def _attempt(action: Callable[[], None]) -> str | None:
    """The sentence of an error, so that it can be told to the other ranks instead of leaving them waiting."""
    try:
        action()
    except (OSError, PretrainError) as error:
        return f"rank 0: {error}"
    return None


def _raise_any(problem: str | None, final: Path) -> None:
    """Every rank raises if one has a problem."""
    problems = [each for each in comm.all_gather_objects(problem) if each is not None]
    if problems:
        raise PretrainError(
            f"Checkpoint {final} could not be written ({problems[0]}); the previous one is whole. Free space or choose "
            "another --output and start again."
        )
