"""The loop with a scripted engine: what it calls, when it saves, why it stops."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import torch

from pretrain.backends.base import LossWeights, StepResult
from pretrain.checkpoint import SaveReport
from pretrain.data.order import Cursor
from pretrain.errors import PretrainError, StoppedBySignal
from pretrain.loop import Loop, LoopOptions
from pretrain.metrics import EvalRecord, RanksRecord, StepRecord, Terminal
from pretrain.noise import NoiseProbe
from pretrain.optim import NoiseScale, Progress, RunLength, Schedule, Skip, Validations
from pretrain.recording import PendingTotals, Totals
from pretrain.signals import StopRequest
from pretrain.timing import Timing

pytestmark = pytest.mark.usefixtures("one_rank")


Saved = list[tuple[int, list[int]]]  # (step, cursor) of each checkpoint


@dataclass
class Rows:
    """Stands for a micro-batch."""

    name: str
    num_masked: int = 2
    num_pairs: int = 1

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
    num_rows: int = 2
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
    skipped_at: tuple[int, ...] = ()  # under fp16; after step 3 at its lowest scale
    spikes_at: tuple[int, ...] = ()
    said: list[str] = field(default_factory=list)
    figures: list[Any] = field(default_factory=list)
    signal_at: int | None = None
    late_signal_at: int | None = None  # when the optimizer steps
    loss: float = 2.0
    calls: list[Any] = field(default_factory=list)
    draws: list[float] = field(default_factory=list)
    records: list[StepRecord] = field(default_factory=list)
    logged: list[tuple[int, tuple[str, ...]]] = field(default_factory=list)
    validations: list[float] = field(default_factory=list)  # their losses
    steps: int = 0
    applied_steps: int = 0

    @property
    def optimizer(self) -> "Scripted":
        return self

    def train_micro_batch(self, batch: Any, weights: LossWeights, *, last: bool) -> torch.Tensor:
        self.calls.append((batch.name, weights, last))
        self.draws.append(float(torch.rand(())))
        if self.steps + 1 == self.signal_at:
            self.stop.signal_name = "SIGTERM"
        return torch.tensor([self.loss, 1.0])

    def step(self, lr: Any) -> Any:
        if isinstance(lr, StepRecord):
            self.records.append(lr)
            return None
        self.steps += 1
        self.calls.append(("step", lr))
        if self.steps == self.late_signal_at:
            self.stop.signal_name = "SIGTERM"
        skip = None
        if self.steps == self.not_finite_at:
            skip = Skip("not finite", "the norm is nan")
        elif self.steps in self.skipped_at:
            skip = Skip("overflow", "the norm is nan at scale 2", max(0, self.steps - 3))
        elif self.steps in self.spikes_at:
            skip = Skip("spike", "too large", self.spikes_at.index(self.steps) + 1)
        self.applied_steps += skip is None
        finite = skip is None or skip.reason == "spike"
        return StepResult(0.5 if finite else float("nan"), skip, 2.0)

    def measure_gradient(self) -> float:
        self.calls.append("measure")
        return 0.5

    def parameter_figures(self) -> dict[str, dict[str, float]]:
        return {"trust_ratio": {"bias": float(self.steps)}}

    def parameters(self, step: int, figures: Any) -> None:
        self.figures.append((step, figures))

    def run(self, backend: Any, step: int, *, shuffled: bool) -> EvalRecord:
        self.calls.append(("evaluate", step, shuffled))
        loss = self.validations.pop(0) if self.validations else 1.0
        return EvalRecord(step, loss, loss, None, 3.0, 0.5, None, None, 4, 10, 0)

    def samples(self, step: int, names: tuple[str, ...]) -> None:
        self.logged.append((step, names))

    def evaluation(self, record: Any) -> None: ...

    def has_evaluation(self, step: int) -> bool:
        return True


class Silent(Terminal):
    def __init__(self, said: list[str]) -> None:
        super().__init__(False, 1)
        self._said = said

    def say(self, text: str) -> None:
        self._said.append(text)

    def evaluation(self, record: Any) -> None: ...


@dataclass
class Saver:
    """Stands for the saver: `saved` are the checkpoints that were begun; `calls` with `finish` among them."""

    saved: Saved
    calls: list[Any] = field(default_factory=list)
    reports: list[SaveReport] = field(default_factory=list)
    heard: list[tuple[float, float]] = field(default_factory=list)
    states: list[Progress] = field(default_factory=list)

    def begin(self, state: Any) -> None:
        done, cursor = state
        self.saved.append((done.steps, cursor))
        self.states.append(done)
        self.calls.append(("begin", done.steps))

    def report(self) -> SaveReport:
        return self.reports.pop(0) if self.reports else SaveReport(0.0, 0.0)

    def hear(self, finished: float, failed: float) -> None:
        self.heard.append((finished, failed))

    def finish(self) -> None:
        self.calls.append("finish")


def loop_of(
    scripted: Scripted, saved: Saved, first: int = 1, saver: Saver | None = None, **changes: Any
) -> Loop:
    def batches() -> Iterator[Step]:
        yield from map(Step, range(first, 100))

    settings: dict[str, Any] = {
        "length": RunLength(6, 6),
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
    stands_for_saver: Any = saver or Saver(saved)
    state_at: Any = lambda done, cursor: (done, cursor.as_list())  # noqa: E731
    return Loop(
        LoopOptions(**(settings | changes)),
        loader,
        engine,
        Schedule("linear", 1.0, 6, 2),
        engine,
        stands_for_saver,
        state_at,
        lambda step: 100.0,
        engine,
        Silent(scripted.said),
        scripted.stop,
    )


def test_a_step_in_order() -> None:
    scripted, saved = Scripted(), Saved()
    loop_of(scripted, saved, length=RunLength(2, 2)).run(Progress())
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


def test_totals_are_waited_for_after_the_optimizer_which_waits_anyway(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are sent before its step, and have arrived by the wait for its norm; read before, they are a second one."""
    scripted = Scripted()

    class Noted(PendingTotals):
        def __init__(self, *of_rank: Any) -> None:
            scripted.calls.append("sent")
            super().__init__(*of_rank)

        def arrived(self) -> Totals:
            scripted.calls.append("arrived")
            return super().arrived()

    monkeypatch.setattr("pretrain.loop.PendingTotals", Noted)
    loop_of(scripted, Saved(), length=RunLength(1, 1)).run(Progress())
    assert scripted.calls[-3:] == ["sent", ("step", 0.5), "arrived"]


def test_without_pairs_their_loss_has_no_weight() -> None:
    scripted = Scripted()
    loop = loop_of(scripted, Saved(), length=RunLength(1, 1))
    step: Any = Step(1, num_pairs=0)
    loader: Any = iter([step])
    Loop(**{**vars(loop), "loader": loader}).run(Progress())
    assert scripted.calls[0][1] == LossWeights(0.25, 0.0)
    assert scripted.records[0].nsp_loss == 0.0


def test_samples_are_logged_where_they_were_named() -> None:
    scripted = Scripted()
    loop = loop_of(scripted, Saved(), length=RunLength(2, 2))
    steps: Any = iter([Step(1, sample_names=("a", "b")), Step(2)])
    Loop(**{**vars(loop), "loader": steps}).run(Progress())
    assert scripted.logged == [(1, ("a", "b"))]


def test_due_at_their_multiples_and_saved_at_the_end() -> None:
    scripted, saved = Scripted(), Saved()
    loop_of(scripted, saved, eval_every=3, checkpoint_every=2).run(Progress())
    assert [step for step, _ in saved] == [2, 4, 6]
    # The last validation is not the loop's.
    assert [call for call in scripted.calls if call[0] == "evaluate"] == [("evaluate", 3, False)]


@pytest.mark.parametrize("how", ["stop_at_step", "signal"])
def test_stops_after_saving(how: str) -> None:
    scripted, saved = Scripted(signal_at=4 if how == "signal" else None), Saved()
    with pytest.raises(
        StoppedBySignal, match="train.stop_at_step" if how != "signal" else "SIGTERM"
    ) as error:
        loop_of(scripted, saved, stop_at_step=4 if how != "signal" else None).run(Progress())
    assert error.value.exit_code == 75
    assert saved == [(4, [0, 0, 4])]


def test_signal_that_comes_as_the_optimizer_steps_is_heard_by_the_next_step() -> None:
    """The ranks have voted by then."""
    scripted, saved = Scripted(late_signal_at=4), Saved()
    with pytest.raises(StoppedBySignal, match="SIGTERM after step 5"):
        loop_of(scripted, saved).run(Progress())
    assert saved == [(5, [0, 0, 5])]


def test_signal_in_the_last_step_is_an_ordinary_end() -> None:
    scripted, saved = Scripted(signal_at=6), Saved()
    loop_of(scripted, saved).run(Progress())
    assert [step for step, _ in saved] == [6]


def test_tokens_end_it_before_the_steps_and_set_the_rate() -> None:
    """50 tokens a step: 130 are there after the third, and the rate falls by their share."""
    scripted, saved = Scripted(), Saved()
    loop = loop_of(scripted, saved, length=RunLength(6, None, 130), checkpoint_every=3)
    done = Loop(**{**vars(loop), "schedule": Schedule("linear", 1.0, 6, 0)}).run(Progress())
    assert (done.steps, done.tokens) == (3, 150)
    assert [step for step, _ in saved] == [3]
    assert [record.lr for record in scripted.records] == pytest.approx([1.0, 1 - 50 / 130, 1 - 100 / 130])


def test_tokens_of_earlier_starts_count() -> None:
    scripted = Scripted()
    done = loop_of(scripted, Saved(), length=RunLength(6, None, 130)).run(Progress(2, 100))
    assert (done.steps, done.tokens, len(scripted.records)) == (3, 150, 1)
    assert loop_of(scripted, Saved(), length=RunLength(6, None, 130)).run(done) == done
    assert len(scripted.records) == 1


def test_the_clock_ends_it_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    """One second for each look at the clock; earlier starts took 20 of the 24 seconds."""
    ticks = count()
    monkeypatch.setattr("pretrain.loop.perf_counter", lambda: float(next(ticks)))
    scripted, saved = Scripted(), Saved()
    done = loop_of(scripted, saved, length=RunLength(6, 6, None, 24.0)).run(Progress(0, 0, 20.0))
    assert done.seconds >= 24.0 > done.seconds - 3.0
    assert [step for step, _ in saved] == [done.steps] == [len(scripted.records)]
    assert done.steps < 6
    # The rate is that of the steps, as if there were no clock.
    rates = [Schedule("linear", 1.0, 6, 2)(step) for step in range(done.steps)]
    assert [record.lr for record in scripted.records] == rates


def test_ends_when_the_save_is_committed_and_learns_of_it_once_a_step() -> None:
    saved = Saved()
    saver = Saver(saved, reports=[SaveReport(0.0, 0.0), SaveReport(1.0, 0.0), SaveReport(0.0, 1.0)])
    loop_of(Scripted(), saved, saver=saver, checkpoint_every=4).run(Progress())
    assert saver.heard == [(0, 0), (1, 0), (0, 1), (0, 0), (0, 0), (0, 0)]
    # Step 4 is written while training goes on; nothing is left to write when the run ends.
    assert saver.calls == [("begin", 4), ("begin", 6), "finish"]


@pytest.mark.parametrize("bad", [{"not_finite_at": 3}, {"spikes_at": (3, 4)}])
def test_what_was_good_is_committed_before_an_error_ends_the_run(bad: dict[str, Any]) -> None:
    saved = Saved()
    saver = Saver(saved)
    with pytest.raises(PretrainError):
        loop_of(Scripted(**bad), saved, saver=saver, checkpoint_every=2, max_skipped_steps=2).run(Progress())
    assert saver.calls == [("begin", 2), "finish"]


LOSSES = [3.0, 2.0, 2.1, 1.9, 1.95, 1.95, 1.95, 1.0]  # of the validations after step 1, 2, ...


def test_the_best_is_saved_where_it_is_found() -> None:
    scripted, saved = Scripted(validations=LOSSES[:]), Saved()
    loop_of(scripted, saved, length=RunLength(8, 8), eval_every=1, looks_for_best=True).run(Progress())
    # After the last step the run ends, and its end validates.
    assert [step for step, _ in saved] == [1, 2, 4, 8]


def test_the_last_step_is_validated_before_it_is_saved_where_the_best_is_looked_for() -> None:
    scripted, saved = Scripted(validations=[2.0, 1.0]), Saved()
    done = loop_of(scripted, saved, eval_every=4, looks_for_best=True).run(Progress())
    assert [step for step, _ in saved] == [4, 6]
    assert (done.validations.best_step, done.validations.last_step) == (6, 6)
    scripted = Scripted()
    loop_of(scripted, Saved(), eval_every=4).run(Progress())
    assert [call for call in scripted.calls if call[0] == "evaluate"] == [("evaluate", 4, False)]


@pytest.mark.parametrize(
    ("step", "counted", "made_up"),
    [(4, 4, False), (4, 2, True), (4, None, True), (3, 2, False), (6, 4, True)],
)
def test_a_validation_is_made_up_for_unless_the_checkpoint_counts_it(
    step: int, counted: int | None, made_up: bool
) -> None:
    """Whatever eval.jsonl has, which is written before a checkpoint that counts it, or is not."""
    known = Validations(2, 1.5, 1.5, 0, counted)
    start, scripted = Progress(steps=step, validations=known), Scripted()
    begun = loop_of(scripted, Saved(), eval_every=2, looks_for_best=True).made_up_for_validation(start)
    assert scripted.calls == ([("evaluate", step, False)] if made_up else [])
    assert begun.validations == (known.after(step, 1.0, 0.0) if made_up else known)
    scripted = Scripted()
    loop_of(scripted, Saved(), eval_every=2).made_up_for_validation(start)
    assert scripted.calls == []


def test_without_patience_for_more_the_run_ends_saved() -> None:
    scripted, saved = Scripted(validations=LOSSES[:]), Saved()
    saver = Saver(saved)
    length = RunLength(8, 8, patience=3)
    options: dict[str, Any] = {
        "length": length,
        "eval_every": 1,
        "looks_for_best": True,
        "checkpoint_every": 5,
    }
    done = loop_of(scripted, saved, saver=saver, **options).run(Progress())
    assert done.steps == 7 and length.reached(done) == "eval.patience"
    assert [step for step, _ in saved] == [1, 2, 4, 5, 7]
    assert saver.calls[-2:] == [("begin", 7), "finish"]
    # Taken up at a save in between, it decides as it did, to the same step and state.
    middle = saver.states[3]
    again, more = Scripted(validations=LOSSES[5:], applied_steps=5), Saved()
    assert loop_of(again, more, first=6, **options).run(middle).validations == done.validations
    assert [step for step, _ in more] == [7]
    assert loop_of(Scripted(), Saved(), first=8, **options).run(done) == done


def test_an_improvement_must_be_large_enough_and_is_measured_from_the_last_one() -> None:
    scripted, saved = Scripted(validations=[2.0, 1.95, 1.91, 1.89, 1.88, 1.87, 1.86]), Saved()
    length = RunLength(9, 9, patience=3)
    done = loop_of(
        scripted, saved, length=length, eval_every=1, looks_for_best=True, min_improvement=0.1
    ).run(Progress())
    assert (done.steps, length.reached(done)) == (7, "eval.patience")
    assert (done.validations.best_step, done.validations.best_loss) == (7, 1.86)


def test_gradient_that_is_not_finite_ends_the_run_unsaved() -> None:
    scripted, saved = Scripted(not_finite_at=3), Saved()
    with pytest.raises(PretrainError, match=r"Step 3 is not finite .* norm nan.*cursor \[0, 0, 2\]"):
        loop_of(scripted, saved, checkpoint_every=3).run(Progress())
    assert saved == []
    assert scripted.records[-1].skipped
    assert scripted.records[-1].skipped_because == "not finite"


def test_a_loss_that_is_not_finite_ends_the_run_unsaved_and_without_diagnosing_a_good_step() -> None:
    scripted, saved = Scripted(), Saved()
    looked_at: list[Any] = []

    class Looking:
        def of(self, backend: Any, batches: Step, step: int, figures: Any, sums: torch.Tensor) -> str:
            looked_at.append((batches.number, step, figures, sums.tolist()))
            return "found out"

    diagnosis: Any = Looking()
    loop = loop_of(scripted, saved, checkpoint_every=1, length=RunLength(3, 3))
    Loop(**{**vars(loop), "diagnosis": diagnosis}).run(Progress())
    assert looked_at == [] and len(saved) == 3
    broken, saved = Scripted(loss=float("inf")), Saved()
    loop = loop_of(broken, saved, checkpoint_every=1)
    with pytest.raises(
        PretrainError, match=r"loss inf, .* norm 0\.5\) and went into the weights: found out\."
    ):
        Loop(**{**vars(loop), "diagnosis": diagnosis}).run(Progress())
    assert saved == []
    assert looked_at == [(1, 1, {"loss": float("inf"), "grad_norm": 0.5}, [float("inf"), 2.0])]


def test_a_spike_is_passed_over_and_named_with_its_cursor() -> None:
    scripted, saved = Scripted(spikes_at=(3,)), Saved()
    loop_of(scripted, saved, max_skipped_steps=2).run(Progress())
    assert [step for step, _ in saved] == [6]
    assert [record.skipped for record in scripted.records] == [False, False, True, False, False, False]
    assert scripted.records[2].skipped_because == "spike"
    assert scripted.records[3].skipped_because is None
    assert "step 3 skipped (spike), cursor [0, 0, 2]: too large" in scripted.said
    assert not any("skipped" in line for line in scripted.said if "step 3" not in line)


@pytest.mark.parametrize(("every", "steps"), [(0, []), (2, [2, 4, 6])])
def test_figures_of_the_parameters_are_written_when_due(every: int, steps: list[int]) -> None:
    scripted = Scripted()
    loop_of(scripted, Saved(), parameters_every=every).run(Progress())
    assert scripted.figures == [(step, {"trust_ratio": {"bias": float(step)}}) for step in steps]


def test_a_measurement_comes_before_its_step_and_stands_in_its_record() -> None:
    """Of 2 rows one has a norm of 2 * 0.5 and both together of 0.5: |G|^2 = -0.5, so that there is no ratio yet."""
    scripted = Scripted(spikes_at=(4,))
    loop = loop_of(scripted, Saved(), max_skipped_steps=2)
    probe = NoiseProbe(NoiseScale(), 2, 3, 0, 1, torch.device("cpu"))
    Loop(**{**vars(loop), "noise": probe}).run(Progress())
    plain = Scripted(spikes_at=(4,))
    loop_of(plain, Saved(), max_skipped_steps=2).run(Progress())
    places = [place for place, call in enumerate(scripted.calls) if call == "measure"]
    assert len(places) == 3
    for place, step in zip(places, (2, 4, 6), strict=True):
        drawn, weights, last = scripted.calls[place - 1]
        assert drawn[0] == str(step) and last
        assert weights == LossWeights(0.25, 0.5)  # of half a step: half of those of its own counts
        assert scripted.calls[place + 1][0] == f"{step}a"
    own = {place - 1 for place in places} | set(places)
    assert [call for place, call in enumerate(scripted.calls) if place not in own] == plain.calls
    found = [record.noise for record in scripted.records]
    assert [noise is not None for noise in found] == [False, True, False, False, False, True]
    assert found[1] is not None
    assert (found[1]["noise_scale"], found[1]["noise_squared_gradient"]) == (None, -0.5)


def test_ranks_are_compared_when_due_and_after_the_last_step() -> None:
    """Data that comes 20 ms late, every step; a world of one has no slowest rank, and says nothing."""
    compared: list[RanksRecord] = []
    scripted = Scripted()
    writer: Any = scripted
    writer.ranks = compared.append

    def late() -> Iterator[Step]:
        for number in range(1, 100):
            time.sleep(0.02)
            yield Step(number)

    loop = loop_of(scripted, Saved(), length=RunLength(5, 5))
    Loop(**{**vars(loop), "loader": late(), "timing": Timing(2, ["here"])}).run(Progress())
    assert [(record.step, record.steps) for record in compared] == [(2, 2), (4, 2), (5, 1)]
    for record in compared:
        (waited,), (own,) = record.data_wait_seconds, record.own_seconds
        assert own is not None and 0.02 <= waited <= own <= record.seconds + 1e-3
        assert record.slowest is None
    assert all(step.data_wait is not None and 0.3 < step.data_wait <= 1 for step in scripted.records)
    assert all(line.startswith("step ") for line in scripted.said)


def test_a_skipped_step_does_not_advance_the_learning_rate() -> None:
    scripted, saved = Scripted(skipped_at=(1, 3)), Saved()
    loop_of(scripted, saved, max_skipped_steps=1).run(Progress())
    # Up over two applied steps, then down over four.
    assert [record.lr for record in scripted.records] == [0.5, 0.5, 1.0, 1.0, 1.0, 0.75]
    assert [record.skipped for record in scripted.records] == [True, False, True, False, False, False]
    assert {record.loss_scale for record in scripted.records} == {2.0}
    assert [record.skipped_because for record in scripted.records[:3]] == ["overflow", None, "overflow"]
    assert "step 3 skipped (overflow), cursor [0, 0, 2]: the norm is nan at scale 2" in scripted.said
    assert saved == [(6, [0, 0, 6])]


def test_a_spike_under_fp16_is_no_step_lost_to_the_scale() -> None:
    scripted, saved = Scripted(skipped_at=(4, 6), spikes_at=(5,)), Saved()
    loop_of(scripted, saved, max_skipped_steps=4).run(Progress())
    reasons = [record.skipped_because for record in scripted.records]
    assert reasons == [None, None, None, "overflow", "spike", "overflow"]
    assert [record.lr for record in scripted.records] == [0.5, 1.0, 1.0, 0.75, 0.75, 0.75]


def test_skipped_steps_at_the_lowest_scale_end_the_run() -> None:
    scripted, saved = Scripted(skipped_at=(2, 3, 4, 5, 6)), Saved()
    with pytest.raises(PretrainError, match=r"^2 steps in a row up to step 5 were skipped .*min_loss_scale"):
        loop_of(scripted, saved, max_skipped_steps=2).run(Progress())
    assert saved == []
    assert len(scripted.records) == 5


def test_spikes_without_end_end_the_run() -> None:
    scripted, saved = Scripted(spikes_at=(3, 4, 5, 6)), Saved()
    with pytest.raises(
        PretrainError, match=r"^3 steps in a row up to step 5 .*norm 0\.5.* train\.spike_factor"
    ):
        loop_of(scripted, saved, max_skipped_steps=3).run(Progress())
    assert saved == []


@pytest.mark.parametrize("skipped", [{"skipped_at": (2,)}, {"spikes_at": (2,)}])
def test_tokens_of_a_skipped_step_end_the_run_and_leave_the_rate(skipped: dict[str, Any]) -> None:
    """50 tokens a step: 180 are there after the fourth; the rate falls by those that were learnt from."""
    scripted = Scripted(**skipped)
    loop = loop_of(scripted, Saved(), length=RunLength(6, None, 180), max_skipped_steps=2)
    loop = Loop(**{**vars(loop), "schedule": Schedule("linear", 1.0, 6, 0)})
    done = loop.run(Progress())
    assert (done.steps, done.tokens, done.skipped_tokens) == (4, 200, 50)
    rates = [1 - learnt / 180 for learnt in (0, 50, 50, 100)]
    assert [record.lr for record in scripted.records] == pytest.approx(rates)


@pytest.mark.parametrize("skipped", [{"skipped_at": (2,)}, {"spikes_at": (2,)}])
def test_a_skipped_step_is_one_of_its_stage_and_leaves_the_schedule(skipped: dict[str, Any]) -> None:
    """Three steps of 2 rows, then 8: the batch grows after the third step, of which two were learnt from. The rate is
    that of the steps learnt from, times the share of the rows: 2 of 8 until then."""
    scripted = Scripted(**skipped)
    loop = loop_of(scripted, Saved(), lr_scaling="linear", global_batch=8, max_skipped_steps=2)
    steps: Any = iter([Step(number, num_rows=rows) for number, rows in enumerate((2, 2, 2, 8, 8, 8), 1)])
    Loop(**{**vars(loop), "loader": steps}).run(Progress())
    assert [record.global_batch for record in scripted.records] == [2, 2, 2, 8, 8, 8]
    # Up over two learnt-from steps, then down over four.
    expected = [0.5 / 4, 1 / 4, 1 / 4, 1.0, 0.75, 0.5]
    assert [record.lr for record in scripted.records] == pytest.approx(expected)


def test_dropout_does_not_depend_on_where_the_run_began() -> None:
    whole, resumed = Scripted(), Scripted()
    loop_of(whole, []).run(Progress())
    torch.rand(17)
    resumed.applied_steps = 3
    loop_of(resumed, [], first=4).run(Progress(3))
    assert resumed.draws == whole.draws[6:]
    assert len(set(whole.draws)) == len(whole.draws)
    assert [record.lr for record in resumed.records] == [record.lr for record in whole.records[3:]]
