"""What a rank saves, in host memory: its slices, copied at one step, so that training can go on while they are written.

The buffer is made at the first save and filled again at every later one: a copy of this rank's master weights and
moments, 12 bytes a local parameter under LAMB and AdamW. It is pinned where the weights lie on a GPU (torch then rounds
it up to a power of two), and it *is* the data part of the file, so that writing takes no memory of its own.

safetensors could write such a buffer too. The bytes are put together here because they are hashed as they go by, and
because a save that has failed elsewhere is broken off between two parts.
"""

import json
from collections.abc import Iterator

import torch
from torch import Tensor

from pretrain.checkpoint.frozen import frozen_slices, frozen_values
from pretrain.checkpoint.manifest import MASTER, SavedSlice, slice_key, vector_key
from pretrain.optim import ShardedOptimizer

_PART_BYTES = 1 << 22
_ALIGNMENT = 8  # of the data part: safetensors pads its header by spaces


class Snapshot:
    """The file of one rank; rank 0's also holds what every rank has whole."""

    def __init__(self, optimizer: ShardedOptimizer, holds_vectors: bool) -> None:
        self._optimizer = optimizer
        self._holds_vectors = holds_vectors
        self._numels = {name: values.numel() for name, values in sorted(self._values().items())}
        self._header = _header(self._numels)
        self._buffer: Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Of the file."""
        return len(self._header) + 4 * sum(self._numels.values())

    @property
    def slices(self) -> list[SavedSlice]:
        """What the file holds, once for each kind."""
        layout = self._optimizer.layout
        return [
            SavedSlice(
                parameter=layout.parameters[piece.parameter].name, start=piece.start, numel=piece.numel
            )
            for _, piece in layout.all_slices()
        ] + frozen_slices(layout)

    @torch.no_grad()
    def take(self) -> None:
        """Copies everything as it is now; training may change it when this returns."""
        device = self._optimizer.layout.device
        if self._buffer is None:
            self._buffer = torch.empty(sum(self._numels.values()), pin_memory=device.type == "cuda")
        values, first = self._values(), 0
        for name, numel in self._numels.items():
            self._buffer[first : first + numel].copy_(values[name], non_blocking=True)
            first += numel
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()

    def parts(self) -> Iterator[memoryview]:
        """The bytes of the file, in order, some megabytes at a time."""
        assert self._buffer is not None, "take() comes first"
        yield memoryview(self._header)
        data = self._buffer.numpy().data.cast("B") if self._buffer.numel() else memoryview(b"")
        for first in range(0, len(data), _PART_BYTES):
            yield data[first : first + _PART_BYTES]

    def _values(self) -> dict[str, Tensor]:
        """1-D float32 views by their names in the file."""
        layout, found = self._optimizer.layout, dict[str, Tensor]()
        for kind, tensors in local_tensors(self._optimizer).items():
            for shard, tensor in zip(layout.shards, tensors, strict=True):
                for piece, view in zip(shard.slices, shard.views(tensor), strict=True):
                    found[slice_key(kind, layout.parameters[piece.parameter].name, piece.start)] = view
        found |= frozen_values(layout)
        if self._holds_vectors:
            found |= {vector_key(kind): vector for kind, vector in self._optimizer.vectors.items()}
        return found


def local_tensors(optimizer: ShardedOptimizer) -> dict[str, list[Tensor]]:
    """Master weights and the moments that the optimizer's rule keeps, by kind, one tensor for each shard."""
    moments = {kind: optimizer.moments(kind) for kind in optimizer.rule.moment_kinds}
    return {MASTER: [shard.tensor.detach() for shard in optimizer.layout.shards], **moments}


def _header(numels: dict[str, int]) -> bytes:
    """The head of a safetensors file of float32 vectors: its length as a 64-bit little-endian number, and a JSON."""
    entries, first = {}, 0
    for name, numel in numels.items():
        end = first + 4 * numel
        entries[name] = {"dtype": "F32", "shape": [numel], "data_offsets": [first, end]}
        first = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
