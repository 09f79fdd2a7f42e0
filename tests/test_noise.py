"""What a measurement asks of an engine, and what it makes of the answer."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from pretrain.backends.base import LossWeights, StepResult
from pretrain.errors import UsageError
from pretrain.noise import NoiseProbe, SmallBatch, check_measurable
from pretrain.optim import NoiseScale, Skip


@dataclass
class Rows:
    """Stands for a micro-batch of 4 rows."""

    name: str
    num_masked: int = 20
    num_pairs: int = 5

    def to(self, device: torch.device) -> "Rows":
        return self


@dataclass
class Scripted:
    """Stands for an engine, and remembers what was asked of it."""

    calls: list[Any] = field(default_factory=list)
    draws: list[float] = field(default_factory=list)

    def train_micro_batch(self, batch: Rows, weights: LossWeights, *, last: bool) -> None:
        self.calls.append((batch.name, weights, last))
        self.draws.append(float(torch.rand(())))

    def measure_gradient(self) -> float:
        self.calls.append("measure")
        return 0.75


@dataclass
class Step:
    """Stands for StepBatches: `parts` micro-batches of this rank."""

    parts: int = 3
    num_rows: int = 24
    num_samples: int = 60
    num_pairs: int = 5

    @property
    def micro_batches(self) -> list[Rows]:
        return [Rows(str(index), num_pairs=self.num_pairs) for index in range(self.parts)]


def probe(every: int = 1, rank: int = 0, world_size: int = 2) -> NoiseProbe:
    return NoiseProbe(NoiseScale(), every, 7, rank, world_size, torch.device("cpu"))


def measured(step: int, batches: Any, **settings: int) -> tuple[SmallBatch | None, Scripted]:
    backend: Any = Scripted()
    return probe(**settings).measure(backend, batches, step), backend


def test_one_rank_has_the_weights_and_all_run_the_same_index() -> None:
    """Six parts of 4 rows: the loss is a sixth of the part's own mean, and the norm six times what came out."""
    owners: Counter[tuple[str, int]] = Counter()
    for step in range(1, 301):
        found = [measured(step, Step(), rank=rank) for rank in range(2)]
        assert [small for small, _ in found] == [SmallBatch(4.5, 4)] * 2
        (first, second) = (backend.calls for _, backend in found)
        assert first[1:] == second[1:] == ["measure"]
        assert first[0][0] == second[0][0] and first[0][2] and second[0][2]
        weights = [calls[0][1] for calls in (first, second)]
        owner = weights.index(LossWeights(1 / 120, 1 / 30))
        assert weights[1 - owner] == LossWeights(0.0, 0.0)
        owners[first[0][0], owner] += 1
    # Every part in its turn: 50 times each, give or take four standard deviations.
    assert len(owners) == 6
    assert all(abs(count - 50) < 26 for count in owners.values())


def test_without_pairs_their_loss_has_no_weight() -> None:
    _, backend = measured(1, Step(num_pairs=0), world_size=1)
    assert backend.calls[0][1] == LossWeights(1 / 60, 0.0)


@pytest.mark.parametrize(("every", "due"), [(0, []), (1, [1, 2, 3, 4]), (2, [2, 4])])
def test_only_when_due(every: int, due: list[int]) -> None:
    for step in range(1, 5):
        small, backend = measured(step, Step(), every=every)
        assert (small is not None) == bool(backend.calls) == (step in due)


def test_dropout_is_that_of_the_step_itself() -> None:
    """As the loop seeds it, whatever was drawn before."""
    _, one = measured(3, Step(1), world_size=2)
    torch.rand(5)
    _, other = measured(3, Step(1), world_size=2)
    assert one.draws == other.draws


def test_figures_by_hand() -> None:
    """|G|^2 = (24 * 4 - 4 * 9) / 20 = 3 and S = (9 - 4) / (1/4 - 1/24) = 24: 8 rows, with 2.5 samples in each."""
    batches: Any = Step()
    measuring = probe()
    figures = measuring.figures(SmallBatch(3.0, 4), StepResult(2.0, None, 1.0), batches)
    assert figures is not None
    assert figures == pytest.approx(
        {
            "noise_scale": 8.0,
            "noise_scale_samples": 20.0,
            "noise_trace": 24.0,
            "noise_squared_gradient": 3.0,
            "noise_small_batch": 4,
            "noise_small_grad_norm": 3.0,
        }
    )
    again = measuring.figures(SmallBatch(1.0, 4), StepResult(2.0, None, 1.0), batches)
    assert again is not None and again["noise_trace"] == pytest.approx(-14.4)
    assert again["noise_scale"] == pytest.approx((24 * 0.95 - 14.4) / (3 * 0.95 + 4.6))


def test_what_is_no_measure_is_not_counted() -> None:
    batches: Any = Step()
    measuring = probe()
    good, spike = StepResult(2.0, None, 1.0), Skip("spike", "too large", 1)
    assert measuring.figures(None, good, batches) is None
    assert measuring.figures(SmallBatch(3.0, 4), good._replace(skip=spike), batches) is None
    assert measuring.figures(SmallBatch(float("nan"), 4), good, batches) is None
    assert measuring.scale.state.measurements == 0


def test_one_micro_batch_has_no_smaller_part() -> None:
    check_measurable(8, 4)
    with pytest.raises(
        UsageError, match=r"global batch of 4 rows is one micro-batch: lower train\.micro_batch"
    ):
        check_measurable(4, 4)
