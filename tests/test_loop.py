"""The loop with a scripted engine: what it calls, when it saves, why it stops."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from pretrain.backends.base import LossWeights, StepResult
from pretrain.data.order import Cursor
from pretrain.errors import PretrainError, StoppedBySignal
from pretrain.loop import Loop, LoopOptions
from pretrain.metrics import StepRecord, Terminal
from pretrain.optim import Schedule
from pretrain.signals import StopRequest

pytestmark = pytest.mark.usefixtures("one_rank")


Saved = list[tuple[int, list[int]]]  # (step, cursor) of each checkpoint


@dataclass
class Rows:
    """Stands for a micro-batch."""

    name: str

    def to(self, device: torch.device) -> "Rows":
        return self


@dataclass
class Step:
    """Stands for StepBatches: two micro-batches."""

    number: int
    num_masked: int = 4
    num_pairs: int = 2
    num_samples: int = 3
    num_tokens: int = 50
    sample_names: tuple[str, ...] = ()

    @property
    def micro_batches(self) -> list[Rows]:
        return [Rows(f"{self.number}a"), Rows(f"{self.number}b")]

    @property
    def cursor(self) -> Cursor:
        return Cursor(0, 0, self.number - 1)

    @property
    def next_cursor(self) -> Cursor:
        return Cursor(0, 0, self.number)


@dataclass
class Scripted:
    """Stands for backend, evaluator, saver and writer, and remembers what was asked of it."""

    stop: StopRequest = field(default_factory=StopRequest)
    not_finite_at: int | None = None
    spike_at: int | None = None
    spike: str | None = None
    said: list[str] = field(default_factory=list)
    figures: list[Any] = field(default_factory=list)
    signal_at: int | None = None
    calls: list[Any] = field(default_factory=list)
    draws: list[float] = field(default_factory=list)
    records: list[StepRecord] = field(default_factory=list)
    logged: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    steps: int = 0

    def train_micro_batch(self, batch: Any, weights: LossWeights, *, last: bool) -> torch.Tensor:
        self.calls.append((batch.name, weights, last))
        self.draws.append(float(torch.rand(())))
        return torch.tensor([2.0, 1.0])

    def step(self, lr: Any) -> Any:
        if isinstance(lr, StepRecord):
            self.records.append(lr)
            return None
        self.steps += 1
        self.calls.append(("step", lr))
        if self.steps == self.signal_at:
            self.stop.signal_name = "SIGTERM"
        self.spike = "too large" if self.steps == self.spike_at else None
        skipped = self.steps == self.not_finite_at
        return StepResult(float("nan") if skipped else 0.5, skipped or self.spike is not None, 1.0)

    @property
    def optimizer(self) -> "Scripted":
        return self

    def parameter_figures(self) -> dict[str, dict[str, float]]:
        return {"trust_ratio": {"bias": float(self.steps)}}

    def parameters(self, step: int, figures: Any) -> None:
        self.figures.append((step, figures))

    def run(self, backend: Any, step: int, *, shuffled: bool) -> Any:
        self.calls.append(("evaluate", step, shuffled))
        return None

    def samples(self, step: int, names: tuple[str, ...]) -> None:
        self.logged.append((step, names))

    def evaluation(self, record: Any) -> None: ...


class Silent(Terminal):
    def __init__(self, said: list[str]) -> None:
        super().__init__(False, 1)
        self._said = said

    def say(self, text: str) -> None:
        self._said.append(text)

    def evaluation(self, record: Any) -> None: ...


def loop_of(scripted: Scripted, saved: Saved, first: int = 1, **changes: Any) -> Loop:
    def batches() -> Iterator[Step]:
        yield from map(Step, range(first, 100))

    settings: dict[str, Any] = {
        "total_steps": 6,
        "stop_at_step": None,
        "eval_every": 0,
        "checkpoint_every": 0,
        "seed": 3,
        "rank": 0,
        "device": torch.device("cpu"),
        "peak_flops": 1e6,
    }
    loader: Any = batches()
    engine: Any = scripted
    return Loop(
        LoopOptions(**(settings | changes)),
        loader,
        engine,
        Schedule("linear", 1.0, 6, 2),
        engine,
        lambda step, cursor: saved.append((step, cursor.as_list())),
        lambda step: 100.0,
        engine,
        Silent(scripted.said),
        scripted.stop,
    )


def test_a_step_in_order() -> None:
    scripted, saved = Scripted(), Saved()
    loop_of(scripted, saved, total_steps=2).run(0)
    weights = LossWeights(0.25, 0.5)
    assert scripted.calls == [
        ("1a", weights, False),
        ("1b", weights, True),
        ("step", 0.5),
        ("2a", weights, False),
        ("2b", weights, True),
        ("step", 1.0),
    ]
    assert saved == [(2, [0, 0, 2])]
    first = scripted.records[0]
    # Both micro-batches' sums over the counts of the step.
    assert (first.mlm_loss, first.nsp_loss, first.loss) == (1.0, 1.0, 2.0)
    assert (first.step, first.cursor, first.samples, first.tokens) == (1, [0, 0, 0], 3, 50)
    assert first.mfu == pytest.approx(100.0 / first.seconds / 1e6)


def test_without_pairs_their_loss_has_no_weight() -> None:
    scripted = Scripted()
    loop = loop_of(scripted, Saved(), total_steps=1)
    step: Any = Step(1, num_pairs=0)
    loader: Any = iter([step])
    Loop(**{**vars(loop), "loader": loader}).run(0)
    assert scripted.calls[0][1] == LossWeights(0.25, 0.0)
    assert scripted.records[0].nsp_loss == 0.0


def test_samples_are_logged_where_they_were_named() -> None:
    scripted = Scripted()
    loop = loop_of(scripted, Saved(), total_steps=2)
    steps: Any = iter([Step(1, sample_names=("a", "b")), Step(2)])
    Loop(**{**vars(loop), "loader": steps}).run(0)
    assert scripted.logged == [(1, ("a", "b"))]


def test_due_at_their_multiples_and_saved_at_the_end() -> None:
    scripted, saved = Scripted(), Saved()
    loop_of(scripted, saved, eval_every=3, checkpoint_every=2).run(0)
    assert [step for step, _ in saved] == [2, 4, 6]
    # The last validation is not the loop's.
    assert [call for call in scripted.calls if call[0] == "evaluate"] == [("evaluate", 3, False)]


@pytest.mark.parametrize("how", ["stop_at_step", "signal"])
def test_stops_after_saving(how: str) -> None:
    scripted, saved = Scripted(signal_at=4 if how == "signal" else None), Saved()
    with pytest.raises(
        StoppedBySignal, match="train.stop_at_step" if how != "signal" else "SIGTERM"
    ) as error:
        loop_of(scripted, saved, stop_at_step=4 if how != "signal" else None).run(0)
    assert error.value.exit_code == 75
    assert saved == [(4, [0, 0, 4])]


def test_signal_in_the_last_step_is_an_ordinary_end() -> None:
    scripted, saved = Scripted(signal_at=6), Saved()
    loop_of(scripted, saved).run(0)
    assert [step for step, _ in saved] == [6]


def test_gradient_that_is_not_finite_ends_the_run_unsaved() -> None:
    scripted, saved = Scripted(not_finite_at=3), Saved()
    with pytest.raises(PretrainError, match=r"gradient norm of step 3 is nan .*cursor \[0, 0, 2\]"):
        loop_of(scripted, saved, checkpoint_every=3).run(0)
    assert saved == []
    assert scripted.records[-1].skipped
    assert scripted.records[-1].skipped_because == "not finite"


def test_a_spike_is_passed_over_and_named_with_its_cursor() -> None:
    scripted, saved = Scripted(spike_at=3), Saved()
    loop_of(scripted, saved).run(0)
    assert [step for step, _ in saved] == [6]
    assert [record.skipped for record in scripted.records] == [False, False, True, False, False, False]
    assert scripted.records[2].skipped_because == "too large"
    assert scripted.records[3].skipped_because is None
    assert "step 3 skipped, cursor [0, 0, 2]: too large" in scripted.said
    assert not any("skipped" in line for line in scripted.said if "step 3" not in line)


@pytest.mark.parametrize(("every", "steps"), [(0, []), (2, [2, 4, 6])])
def test_figures_of_the_parameters_are_written_when_due(every: int, steps: list[int]) -> None:
    scripted = Scripted()
    loop_of(scripted, Saved(), parameters_every=every).run(0)
    assert scripted.figures == [(step, {"trust_ratio": {"bias": float(step)}}) for step in steps]


def test_dropout_does_not_depend_on_where_the_run_began() -> None:
    whole, resumed = Scripted(), Scripted()
    loop_of(whole, []).run(0)
    torch.rand(17)
    loop_of(resumed, [], first=4).run(3)
    assert resumed.draws == whole.draws[6:]
    assert len(set(whole.draws)) == len(whole.draws)
    assert [record.lr for record in resumed.records] == [record.lr for record in whole.records[3:]]
