"""Parameters that are not trained, in a checkpoint: whole like all others, by their master weights alone.

A checkpoint with them can be exported, continued, and begun from by a run that freezes others or none. Only moments
must be there for what is trained: a run goes on with the frozen parameters it had, a phase may keep moments where all
that it trains was trained before.
"""

from collections.abc import Collection
from pathlib import Path

from torch import Tensor

from pretrain.checkpoint.manifest import MASTER, CheckpointManifest, SavedSlice, slice_key
from pretrain.errors import UsageError
from pretrain.sharding import ShardLayout


def all_parameters(layout: ShardLayout) -> dict[str, list[int]]:
    """Name and shape of every parameter, trained or not."""
    return {info.name: list(info.shape) for part in layout.with_frozen() for info in part.parameters}


def frozen_names(layout: ShardLayout) -> list[str]:
    """Of the parameters that are not trained."""
    return [] if layout.frozen is None else [info.name for info in layout.frozen.parameters]


def frozen_slices(layout: ShardLayout) -> list[SavedSlice]:
    """What this rank holds of them."""
    if layout.frozen is None:
        return []
    names = frozen_names(layout)
    return [
        SavedSlice(parameter=names[piece.parameter], start=piece.start, numel=piece.numel)
        for _, piece in layout.frozen.all_slices()
    ]


def frozen_values(layout: ShardLayout) -> dict[str, Tensor]:
    """1-D fp32 views of the same by their names in a file."""
    if layout.frozen is None:
        return {}
    names = frozen_names(layout)
    return {
        slice_key(MASTER, names[piece.parameter], piece.start): view
        for shard in layout.frozen.shards
        for piece, view in zip(shard.slices, shard.views(shard.tensor.detach()), strict=True)
    }


def check_same_frozen(folder: Path, manifest: CheckpointManifest, layout: ShardLayout) -> None:
    """Raises UsageError where a run would go on with other parameters frozen than it had."""
    before, now = set(manifest.frozen), set(frozen_names(layout))
    for names, was, is_now in ((before - now, "frozen", "trained"), (now - before, "trained", "frozen")):
        if names:
            raise UsageError(
                f"{folder} was made with {min(names)} {was}, this run has it {is_now} ({len(before ^ now)} such "
                "parameters): say model.frozen as before, or begin a new run with the weights by phase.checkpoint."
            )


def check_moments_kept(
    folder: Path, manifest: CheckpointManifest, layout: ShardLayout, vectors: Collection[str]
) -> None:
    """Raises UsageError where a phase would keep moments that the checkpoint has not; `vectors` are moments of all
    trained parameters together, which must be the same ones then."""
    trained = {info.name for info in layout.parameters}
    lacking = sorted(trained & set(manifest.frozen))
    if lacking:
        raise UsageError(
            f"{folder} has no moments of {lacking[0]}, which was frozen there ({len(lacking)} such parameters): say "
            "phase.moments=reset, or freeze it here too."
        )
    if vectors and set(manifest.frozen) != set(frozen_names(layout)):
        raise UsageError(
            f"{folder} holds {', '.join(sorted(vectors))} of its trained parameters together, and this run trains "
            "others: say phase.moments=reset, or model.frozen as there."
        )
