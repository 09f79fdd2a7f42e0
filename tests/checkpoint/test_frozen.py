"""Frozen parameters in a checkpoint: saved and loaded in any cut, and which runs may go on from where."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pretrain.checkpoint import CheckpointManifest, begin_phase, load_checkpoint
from pretrain.errors import DataError, UsageError
from pretrain.faults.small import CUT, WHOLE, contents, make_optimizer
from pretrain.optim import AdafactorOptions, LambOptions, Rule, ShardedOptimizer
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice
from tests.checkpoint.saved import edit_manifest, manifest_of, save

pytestmark = pytest.mark.usefixtures("one_rank")
INFOS = (ParameterInfo("lower", (3, 2)), ParameterInfo("norm", (2,)))
VALUES = torch.arange(8.0) + 1
ONE_PIECE = (Slice(0, 0, 0, 6), Slice(1, 0, 6, 2))
PIECES = (Slice(1, 0, 0, 2), Slice(0, 4, 2, 2), Slice(0, 0, 4, 4))


def with_frozen(
    pieces: tuple[Slice, ...], values: torch.Tensor, cut: Any = WHOLE, seed: int = 0, rule: Rule | None = None
) -> ShardedOptimizer:
    """`make_optimizer`, with frozen parameters beside it that hold `values`, one after another."""
    optimizer = make_optimizer(*cut, seed=seed, rule=rule)
    first = {0: 0, 1: 6}
    flat = torch.full((8,), torch.nan)
    for piece in pieces:
        start = first[piece.parameter] + piece.start
        flat[piece.offset : piece.offset + piece.numel] = values[start : start + piece.numel]
    frozen = ShardLayout(INFOS, (Shard(flat, pieces),))
    optimizer._layout = replace(optimizer.layout, frozen=frozen)
    return optimizer


def frozen_of(optimizer: ShardedOptimizer) -> list[float]:
    layout = optimizer.layout.frozen
    assert layout is not None
    found = torch.full((8,), torch.nan)
    for shard in layout.shards:
        for piece, view in zip(shard.slices, shard.views(shard.tensor), strict=True):
            start = (0, 6)[piece.parameter] + piece.start
            found[start : start + piece.numel] = view
    return [float(value) for value in found]


@pytest.mark.parametrize("begins_phase", [False, True])
def test_any_cut_into_any_other(tmp_path: Path, begins_phase: bool) -> None:
    one = with_frozen(ONE_PIECE, VALUES)
    path = save(tmp_path, 3, one)
    two = with_frozen(PIECES, -VALUES, CUT, seed=5)
    if begins_phase:
        begin_phase(path, two, "kept", 0, 1)
    else:
        load_checkpoint(path, two, 0, 1)
    assert frozen_of(two) == VALUES.tolist()
    for name, values in contents(one).items():
        assert torch.equal(contents(two)[name], values), name
    manifest = CheckpointManifest.read(path)
    assert manifest.frozen == ["lower", "norm"]
    assert list(manifest.parameters) == ["embeddings", "bias", "lower", "norm"]
    (file,) = manifest.files
    keys = [key for key in load_file(path / file.name) if key.split(":")[1] in manifest.frozen]
    assert sorted(keys) == ["master:lower:0", "master:norm:0"]


def test_what_is_missing_of_a_frozen_parameter_is_found(tmp_path: Path) -> None:
    path = save(tmp_path, 3, with_frozen(ONE_PIECE, VALUES))
    files = manifest_of(path)["files"]
    files[0]["slices"] = [each for each in files[0]["slices"] if each["parameter"] != "norm"]
    edit_manifest(path, files=files)
    with pytest.raises(DataError, match="parameter norm is not whole"):
        load_checkpoint(path, with_frozen(PIECES, VALUES), 0, 1)


def thawed(rule: Rule | None = None) -> ShardedOptimizer:
    """A run that trains `lower` and `norm` too."""
    optimizer = ShardedOptimizer(
        [torch.nn.Parameter(torch.zeros(1))], rule or LambOptions(), weight_decay=0.0, max_grad_norm=0.0
    )
    trained = make_optimizer(*WHOLE, rule=rule).layout
    slices = tuple(replace(piece, parameter=piece.parameter + 2) for piece in ONE_PIECE)
    shards = (*trained.shards, Shard(torch.zeros(8), slices))
    optimizer.bind(ShardLayout((*trained.parameters, *INFOS), shards))
    return optimizer


def test_a_run_goes_on_with_what_it_had_frozen(tmp_path: Path) -> None:
    path = save(tmp_path / "frozen", 3, with_frozen(ONE_PIECE, VALUES))
    with pytest.raises(
        UsageError,
        match=r"made with lower frozen, this run has it trained \(2 such parameters\): say model\.frozen",
    ):
        load_checkpoint(path, thawed(), 0, 1)
    path = save(tmp_path / "thawed", 3, thawed())
    with pytest.raises(UsageError, match="made with lower trained, this run has it frozen"):
        load_checkpoint(path, with_frozen(ONE_PIECE, VALUES), 0, 1)


def test_a_phase_needs_moments_of_what_it_trains(tmp_path: Path) -> None:
    path = save(tmp_path / "frozen", 3, with_frozen(ONE_PIECE, VALUES))
    more = thawed()
    with pytest.raises(UsageError, match="has no moments of lower, which was frozen there"):
        begin_phase(path, more, "kept", 0, 1)
    begin_phase(path, more, "reset", 0, 1)
    assert more.layout.shards[1].tensor.tolist() == VALUES.tolist()
    # Fewer trained ones than before have theirs.
    path = save(tmp_path / "thawed", 3, thawed())
    begin_phase(path, with_frozen(PIECES, -VALUES), "kept", 0, 1)


def test_moments_of_all_together_are_those_of_the_same_parameters(tmp_path: Path) -> None:
    path = save(tmp_path, 3, thawed(AdafactorOptions()))
    fewer = with_frozen(ONE_PIECE, VALUES, rule=AdafactorOptions())
    with pytest.raises(
        UsageError, match="holds exp_avg_sq_col, exp_avg_sq_row of its trained parameters together"
    ):
        begin_phase(path, fewer, "kept", 0, 1)
    begin_phase(path, fewer, "reset", 0, 1)
