"""What a small checkpoint is made of: an optimizer over hand-made shards, on one rank, and a state beside it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from pretrain import comm
from pretrain.checkpoint import RunState, load_checkpoint
from pretrain.faults.row import expect
from pretrain.optim import LambOptions, Rule, ShardedOptimizer
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice

PARAMETERS = (ParameterInfo("embeddings", (5, 3)), ParameterInfo("bias", (4,)))


def make_optimizer(*shards: tuple[Slice, ...], seed: int = 0, rule: Rule | None = None) -> ShardedOptimizer:
    """Random weights and moments in flat shards, with one element of padding behind each slice."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for slices in shards:
        numel = max(piece.offset + piece.numel for piece in slices) + 1
        made.append(Shard(torch.randn(numel, generator=generator), slices))
    optimizer = ShardedOptimizer(
        [torch.nn.Parameter(torch.zeros(1))], rule or LambOptions(), weight_decay=0.0, max_grad_norm=0.0
    )
    optimizer.bind(ShardLayout(PARAMETERS, tuple(made)))
    for kind in optimizer.rule.moment_kinds:
        for moment in optimizer.moments(kind):
            moment.copy_(torch.rand(moment.shape, generator=generator))
    optimizer.applied_steps = 100 + seed
    return optimizer


WHOLE = ((Slice(0, 0, 0, 15), Slice(1, 0, 16, 4)),)
CUT = ((Slice(1, 0, 0, 1), Slice(0, 7, 2, 8)), (Slice(0, 0, 0, 7),), (Slice(1, 1, 0, 3),))


def contents(optimizer: ShardedOptimizer) -> dict[str, torch.Tensor]:
    """Whole tensors by kind and parameter."""
    found = {}
    kinds = {kind: optimizer.moments(kind) for kind in optimizer.rule.moment_kinds}
    for kind, tensors in {"master": [s.tensor for s in optimizer.layout.shards], **kinds}.items():
        for index, info in enumerate(PARAMETERS):
            whole = found[f"{kind} {info.name}"] = torch.full((info.numel,), torch.nan)
            for shard, tensor in zip(optimizer.layout.shards, tensors, strict=True):
                for piece, view in zip(shard.slices, shard.views(tensor), strict=True):
                    if piece.parameter == index:
                        whole[piece.start : piece.end] = view
    return found


def state_at(step: int, applied_steps: int = 0) -> RunState:
    return RunState(
        step=step,
        cursor=[0, 1, 2],
        applied_steps=applied_steps,
        seed=3,
        store_fingerprint="f" * 64,
        sampling={"seq_len": 8},
        model_class="BertForPreTraining",
        model_config_json="{}",
        written_by={"ranks": 1},
        run_config={},
    )


@contextmanager
def one_rank() -> Iterator[None]:
    """This process as a world of one."""
    if dist.is_initialized():
        yield
        return
    comm.start(comm.Placement(0, 0, 1, 1), torch.device("cpu"))
    try:
        yield
    finally:
        comm.stop()


def loaded(folder: Path) -> ShardedOptimizer:
    """In another cut."""
    optimizer = make_optimizer(*WHOLE, seed=9)
    load_checkpoint(folder, optimizer, 0, 1)
    return optimizer


def is_that_of(optimizer: ShardedOptimizer, seed: int) -> bool:
    """In every bit. Raises Red where some of it is and some is not."""
    expected, found = contents(make_optimizer(*CUT, seed=seed)), contents(optimizer)
    same = [torch.equal(found[name], values) for name, values in expected.items()]
    expect(all(same) == any(same), "parts of two checkpoints were loaded")
    return all(same) and optimizer.applied_steps == 100 + seed
