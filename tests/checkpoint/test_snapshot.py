"""The bytes of a rank's file: safetensors' own, of one moment, from memory that is taken once."""

from typing import Any

import pytest
import torch
from safetensors.torch import load, save

from pretrain.checkpoint.snapshot import Snapshot
from pretrain.faults.small import CUT, WHOLE, make_optimizer
from pretrain.optim import AdafactorOptions, LambOptions, SgdOptions, ShardedOptimizer
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice


def bytes_of(snapshot: Snapshot) -> bytes:
    return b"".join(snapshot.parts())


@pytest.mark.parametrize("cut", [CUT, WHOLE], ids=["cut", "whole"])
@pytest.mark.parametrize(
    "rule", [LambOptions(), SgdOptions(0.0), AdafactorOptions()], ids=["lamb", "sgd", "adafactor"]
)
@pytest.mark.parametrize("holds_vectors", [True, False])
def test_is_what_the_library_writes(cut: Any, rule: Any, holds_vectors: bool) -> None:
    optimizer = make_optimizer(*cut, rule=rule)
    tensors = {}
    kinds = {kind: optimizer.moments(kind) for kind in rule.moment_kinds}
    for kind, moments in {"master": [shard.tensor for shard in optimizer.layout.shards], **kinds}.items():
        for slices, moment in zip(cut, moments, strict=True):
            for piece in slices:
                values = moment[piece.offset : piece.offset + piece.numel].clone()
                tensors[f"{kind}:{('embeddings', 'bias')[piece.parameter]}:{piece.start}"] = values
    if holds_vectors:
        tensors |= {f"whole:{kind}": vector for kind, vector in optimizer.vectors.items()}
    snapshot = Snapshot(optimizer, holds_vectors)
    snapshot.take()
    assert bytes_of(snapshot) == save(tensors)
    assert snapshot.num_bytes == len(save(tensors))


def test_a_rank_without_slices_and_names_beyond_ascii() -> None:
    parameters = (ParameterInfo('größe."quoted"', (3,)),)
    for slices in ((), (Slice(0, 0, 0, 3),)):
        optimizer = ShardedOptimizer(
            [torch.nn.Parameter(torch.zeros(1))], SgdOptions(0.0), weight_decay=0.0, max_grad_norm=0.0
        )
        optimizer.bind(ShardLayout(parameters, (Shard(torch.arange(3.0), slices),)))
        snapshot = Snapshot(optimizer, True)
        snapshot.take()
        tensors = {'master:größe."quoted":0': torch.arange(3.0)} if slices else {}
        assert bytes_of(snapshot) == save(tensors)


def test_holds_its_moment_in_memory_of_its_own_that_it_fills_again() -> None:
    optimizer = make_optimizer(*CUT)
    snapshot = Snapshot(optimizer, True)
    snapshot.take()
    before = bytes_of(snapshot)
    [buffer] = [each for each in vars(snapshot).values() if isinstance(each, torch.Tensor)]
    # 19 elements, each with two moments, 4 bytes each: nothing else is copied.
    assert buffer.untyped_storage().nbytes() == 19 * 3 * 4
    for shard in optimizer.layout.shards:
        shard.tensor.zero_()
    assert bytes_of(snapshot) == before
    snapshot.take()
    assert torch.equal(load(bytes_of(snapshot))["master:embeddings:0"], torch.zeros(7))
    [again] = [each for each in vars(snapshot).values() if isinstance(each, torch.Tensor)]
    assert again.data_ptr() == buffer.data_ptr()


def test_is_handed_out_in_parts_that_copy_nothing() -> None:
    tensor = torch.zeros(3_000_000)
    optimizer = ShardedOptimizer(
        [torch.nn.Parameter(torch.zeros(1))], SgdOptions(0.0), weight_decay=0.0, max_grad_norm=0.0
    )
    layout = ShardLayout(
        (ParameterInfo("a", (len(tensor),)),), (Shard(tensor, (Slice(0, 0, 0, len(tensor)),)),)
    )
    optimizer.bind(layout)
    snapshot = Snapshot(optimizer, True)
    snapshot.take()
    _, *parts = snapshot.parts()
    assert [len(part) for part in parts] == [1 << 22, 1 << 22, 12_000_000 - (1 << 23)]
    assert all(part.obj is parts[0].obj for part in parts)
