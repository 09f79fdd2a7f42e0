"""The hand-over between phases: what the first steps of the second are, by Adam's formulas in float64."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pretrain.checkpoint import RunState, begin_phase, load_checkpoint, save_checkpoint
from pretrain.errors import DataError
from pretrain.faults.small import CUT, PARAMETERS, WHOLE, contents, make_optimizer, state_at
from pretrain.optim import AdamWOptions, Rule, SgdOptions, ShardedOptimizer, SpikeRule
from tests.checkpoint.saved import KEEP

pytestmark = pytest.mark.usefixtures("one_rank")
BETA1, BETA2, EPS, LR = 0.9, 0.99, 1e-6, 0.01
RULE = AdamWOptions(BETA1, BETA2, EPS)
FIRST, SECOND = 3, 4  # steps of the phases


def gradients(first: int, steps: int) -> list[list[Tensor]]:
    """Of each step and parameter, whole; float64."""
    draw = torch.Generator().manual_seed(1)
    made = [
        [torch.randn(p.numel, generator=draw, dtype=torch.float64) for p in PARAMETERS] for _ in range(20)
    ]
    return made[first : first + steps]


def fresh(cut: Any, seed: int, rule: Rule = RULE) -> ShardedOptimizer:
    """Random weights, zero moments, no step taken."""
    optimizer = make_optimizer(*cut, seed=seed, rule=rule)
    optimizer.applied_steps = 0
    for kind in rule.moment_kinds:
        for moment in optimizer.moments(kind):
            moment.zero_()
    return optimizer


def train(optimizer: ShardedOptimizer, first: int, steps: int) -> None:
    for of_step in gradients(first, steps):
        for shard in optimizer.layout.shards:
            shard.tensor.grad = torch.zeros_like(shard.tensor)
            for piece, view in zip(shard.slices, shard.views(shard.tensor.grad), strict=True):
                view.copy_(of_step[piece.parameter][piece.start : piece.end])
        optimizer.begin(LR)
        optimizer.step()
        optimizer.finish()


def by_hand(weight: Tensor, index: int, counts: list[int | None]) -> Tensor:
    """Adam in float64 from zero moments; `counts`: bias correction's t of every step, None: moments are zeroed first
    and the step is the first of all."""
    weight, m, v = weight.double(), torch.zeros_like(weight).double(), torch.zeros_like(weight).double()
    for t, of_step in zip(counts, gradients(0, len(counts)), strict=True):
        if t is None:
            m, v, t = torch.zeros_like(m), torch.zeros_like(v), 1
        g = of_step[index]
        m, v = BETA1 * m + (1 - BETA1) * g, BETA2 * v + (1 - BETA2) * g * g
        weight = weight - LR * (m / (1 - BETA1**t)) / ((v / (1 - BETA2**t)).sqrt() + EPS)
    return weight


COUNTS: dict[str, list[int | None]] = {
    "kept": [1, 2, 3, 4, 5, 6, 7],
    "nvidia-kept": [1, 2, 3, 1, 2, 3, 4],
    "reset": [1, 2, 3, None, 2, 3, 4],
}


def saved_state(optimizer: ShardedOptimizer) -> RunState:
    update: dict[str, Any] = {
        "earlier_steps": optimizer.earlier_steps,
        "spikes_in_row": optimizer.spikes_in_row,
    }
    update["recent_norms"] = optimizer.recent_norms
    return state_at(FIRST, optimizer.applied_steps).model_copy(update=update)


@pytest.mark.parametrize("policy", ["kept", "nvidia-kept", "reset"])
def test_the_second_phase_by_hand(tmp_path: Path, policy: Any) -> None:
    one = fresh(WHOLE, seed=0)
    start = {name: values.clone() for name, values in contents(one).items()}
    train(one, 0, FIRST)
    path = save_checkpoint(tmp_path / "one", one, saved_state(one), KEEP, 0)
    two = fresh(CUT, seed=9)
    begin_phase(path, two, policy, 0, 1)
    assert two.applied_steps == 0  # the schedule begins anew
    train(two, FIRST, SECOND - 1)
    # Stopped before its last step, it goes on from its own checkpoint.
    again = fresh(CUT, seed=5)
    load_checkpoint(save_checkpoint(tmp_path / "two", two, saved_state(two), KEEP, 0), again, 0, 1)
    train(again, FIRST + SECOND - 1, 1)
    for index, info in enumerate(PARAMETERS):
        expected = by_hand(start[f"master {info.name}"], index, COUNTS[policy])
        found = contents(again)[f"master {info.name}"].double()
        torch.testing.assert_close(found, expected, rtol=0, atol=5e-7)
    others = [by_hand(start["master bias"], 1, COUNTS[name]) for name in COUNTS if name != policy]
    assert all((other - found).abs().max() > 1e-3 for other in others)  # else nothing was told apart


def test_reset_is_a_fresh_optimizer_on_the_same_weights(tmp_path: Path) -> None:
    one = fresh(WHOLE, seed=0)
    train(one, 0, FIRST)
    two, plain = fresh(WHOLE, seed=9), fresh(WHOLE, seed=0)
    begin_phase(save_checkpoint(tmp_path, one, saved_state(one), KEEP, 0), two, "reset", 0, 1)
    with torch.no_grad():
        plain.layout.shards[0].tensor.copy_(one.layout.shards[0].tensor)
    for optimizer in (two, plain):
        train(optimizer, FIRST, SECOND)
    for name, values in contents(plain).items():
        assert torch.equal(contents(two)[name], values), name


def test_a_phase_begins_without_norms_and_spikes_and_its_own_checkpoints_keep_them(tmp_path: Path) -> None:
    """What was told of the first phase's gradients says nothing of the second's; what was kept of steps stays kept."""
    rule = SpikeRule(2.0, 3)
    one, two, again, without = (fresh(WHOLE, seed) for seed in range(4))
    one.spikes = two.spikes = again.spikes = rule
    train(one, 0, FIRST)
    one.spikes_in_row = 2
    one.earlier_steps = 5
    path = save_checkpoint(tmp_path / "one", one, saved_state(one), KEEP, 0)
    begin_phase(path, two, "kept", 0, 1)
    assert (two.recent_norms, two.spikes_in_row) == ([], 0)
    assert (two.applied_steps, two.earlier_steps) == (0, 5 + FIRST)
    train(two, FIRST, 2)
    two.spikes_in_row = 1
    path = save_checkpoint(tmp_path / "two", two, saved_state(two), KEEP, 0)
    for optimizer in (again, without):
        load_checkpoint(path, optimizer, 0, 1)
        assert (optimizer.applied_steps, optimizer.earlier_steps) == (2, 5 + FIRST)
    assert (again.recent_norms, again.spikes_in_row) == (two.recent_norms, 1)
    assert len(again.recent_norms) == 2
    assert (without.recent_norms, without.spikes_in_row) == ([], 0)


def test_moments_of_another_rule_can_be_reset_and_not_kept(tmp_path: Path) -> None:
    one, two = fresh(WHOLE, seed=0, rule=SgdOptions(0.9)), fresh(WHOLE, seed=1)
    path = save_checkpoint(tmp_path, one, saved_state(one), KEEP, 0)
    begin_phase(path, two, "reset", 0, 1)
    with pytest.raises(DataError, match="holds no exp_avg"):
        begin_phase(path, two, "kept", 0, 1)
