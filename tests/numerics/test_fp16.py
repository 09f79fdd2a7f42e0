"""fp16 under every engine: one decision about overflow for all ranks, and runs that go on in it.

That its steps are those of one plain process is `test_matrix.py`'s.
"""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from pretrain import comm
from pretrain.backends.base import Backend, LossWeights, StepResult
from pretrain.backends.fsdp import FsdpBackend
from pretrain.build import row_stream
from pretrain.data.loader import Loader, StepBatches
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.optim import LambOptions, LossScaleState, ShardedOptimizer, Skip
from tests.numerics.cells import SUB_GROUPS, Cell, in_one_process
from tests.numerics.courses import engine_options, enter, make_backend
from tests.numerics.recipe import GLOBAL_BATCH, SEED, make_model
from tests.numerics.runs import STEPS, Ending, Start, newest, prepare, records, start
from tests.worlds import run_ranks

CELLS = sorted(
    [
        *(Cell("fsdp", stage, precision="fp16") for stage in range(4)),
        *(Cell("deepspeed", stage, precision="fp16") for stage in range(4)),
        Cell("deepspeed", 3, precision="fp16", zero=SUB_GROUPS),
    ],
    key=in_one_process,
)
START_SCALE = 2.0**10  # of a cell
LR = 0.01
Where = Literal["pass", "shard"]
HALF = STEPS // 2
STOP = f"train.stop_at_step={HALF}"
pytestmark = pytest.mark.slow


OnRank = dict[str, "Overflow"]


@pytest.fixture(scope="module")
def ranks(course_folder: Path) -> list[OnRank]:
    """On each of two ranks: what an overflow on one of them does to every cell."""
    return list(run_ranks(overflows, 2, course_folder, timeout=400.0))


@dataclass(frozen=True)
class Snapshot:
    """What a skipped step must leave alone: master weights, moments, steps, and what the model computes."""

    tensors: list[Tensor]
    applied_steps: int

    def equals(self, other: "Snapshot") -> bool:
        pairs = zip(self.tensors, other.tensors, strict=True)
        return self.applied_steps == other.applied_steps and all(torch.equal(a, b) for a, b in pairs)


def snapshot(backend: Backend, batches: StepBatches) -> Snapshot:
    """NaN outside of slices: what lies there is nobody's."""
    optimizer, tensors = backend.optimizer, []
    kinds = [
        [shard.tensor.detach() for shard in backend.layout.shards],
        *map(optimizer.moments, ("exp_avg", "exp_avg_sq")),
    ]
    for shards in kinds:
        for shard, tensor in zip(backend.layout.shards, shards, strict=True):
            tensors += [view.clone() for view in shard.views(tensor)]
    tensors += [each.clone() for each in backend.score(batches.micro_batches[0])]
    return Snapshot(tensors, optimizer.applied_steps)


def take(backend: Backend, batches: StepBatches, overflow: Where | None = None) -> StepResult:
    """One global step; with `overflow` rank 1's first gradients are beyond fp16's largest number, or a single
    element of the sum that only rank 1 holds."""
    unlucky = dist.get_rank() == 1
    for index, batch in enumerate(batches.micro_batches):
        times = 1e9 if overflow == "pass" and index == 0 and unlucky else 1.0
        weights = LossWeights(times / batches.num_masked, times / batches.num_pairs)
        backend.train_micro_batch(batch, weights, last=index == len(batches.micro_batches) - 1)
    if overflow == "shard" and unlucky:
        fsdp: Any = backend
        fsdp._named[0][1].grad.to_local()[0, 0] = torch.inf
    return backend.step(LR)


@dataclass(frozen=True)
class Overflow:
    """What a rank saw."""

    result: StepResult
    nothing_changed: bool
    goes_on_as_control: bool
    after: LossScaleState


def overflow_under(make: Callable[[], Backend], steps: list[StepBatches], where: Where = "pass") -> Overflow:
    """Steps 1, 2 with an overflow, and 3; and 1 and 3 by a control that has the scale which 3 should have."""
    backend, control = make(), make()
    for each in (backend, control):
        assert take(each, steps[0]) == replaced_norm(each, StepResult(0.0, None, START_SCALE))
    before = snapshot(backend, steps[0])
    result, after = take(backend, steps[1], where), snapshot(backend, steps[0])
    state = backend.loss_scaler.state
    control.loss_scaler.restore(LossScaleState(START_SCALE / 2, 0, 1, 0))
    norms = [take(each, steps[2]).grad_norm for each in (backend, control)]
    ends = snapshot(backend, steps[0]), snapshot(control, steps[0])
    same = ends[0].equals(ends[1]) and norms[0] == norms[1]
    assert ends[1].applied_steps == 2
    return Overflow(result, before.equals(after), same, state)


def replaced_norm(backend: Backend, expected: StepResult) -> StepResult:
    """`expected` with whatever norm the step had: the norms are held against the judge elsewhere."""

    class AnyNorm(float):
        def __eq__(self, other: object) -> bool:
            return isinstance(other, float) and 0 < other < 1e3

        __hash__ = float.__hash__

    return expected._replace(grad_norm=AnyNorm())


class AdvancesAMoment(ShardedOptimizer):
    """Takes a skipped step for one whose gradient was 0."""

    def finish(self) -> tuple[float, Skip | None]:
        norm, skip = super().finish()
        if skip is not None:
            for moment in self.moments("exp_avg"):
                moment.mul_(0.9)
        return norm, skip


def overflows(folder: Path) -> OnRank:
    """On a rank."""
    enter()
    store = TokenStore.open(folder / "store")
    stream = row_stream(store, "train", CELLS[0].setting(STEPS).sampling, SEED)
    cut = (GLOBAL_BATCH, CELLS[0].micro_batch, dist.get_rank(), dist.get_world_size())
    with Loader(stream, Cursor(0, 0, 0), *cut) as loader:
        steps = list(islice(loader, 3))

    def mutant() -> Backend:
        model = make_model(store, folder)
        optimizer = AdvancesAMoment(
            model.encoder.parameters(), LambOptions(), weight_decay=0.01, max_grad_norm=1.0
        )
        return FsdpBackend(model, optimizer, engine_options(once(CELLS[2])))

    def make(cell: Cell) -> Callable[[], Backend]:
        return lambda: make_backend(once(cell), store, folder)

    found = {"mutant": overflow_under(mutant, steps)}
    for stage in (1, 2, 3):
        found[f"one element, stage {stage}"] = overflow_under(make(CELLS[stage]), steps, "shard")
    for cell in CELLS:
        found[str(cell)] = overflow_under(make(cell), steps)
    return found


def once(cell: Cell) -> Cell:
    """With a scale that is halved at the first overflow."""
    return replace(cell, fp16=(*cell.fp16, ("hysteresis", 1)))


def test_overflow_on_one_rank_of_two(ranks: list[OnRank]) -> None:
    first, second = ranks
    for name, found in first.items():
        other = second[name]
        for result in (found.result, other.result):
            assert result.loss_scale == START_SCALE, name
            assert result.skip is not None, name
            assert (result.skip.reason, result.skip.in_row) == ("overflow", 0), name
        assert not torch.isfinite(torch.tensor([found.result.grad_norm, other.result.grad_norm])).any(), name
        assert found.after == other.after == LossScaleState(START_SCALE / 2, 0, 1, 0), name
        for each in (found, other):
            assert each.nothing_changed == each.goes_on_as_control == (name != "mutant"), name


# The first steps overflow; later ones do each time that the scale has grown.
OVERFLOWING = {
    "enabled": True,
    "initial_scale_power": 24,
    "loss_scale_window": 2,
    "hysteresis": 2,
    "consecutive_hysteresis": False,
}
ENGINES = (("fsdp", "zero2"), ("deepspeed", "zero1"), ("fsdp", "zero3"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Whole and stopped fp16 runs, the continuations of these in a new world, also in other precisions."""
    path = tmp_path_factory.mktemp("runs")
    prepare(path)
    for stage in range(4):
        zero = {"stage": stage}
        write_engine(path / f"zero{stage}_fp16.json", zero, OVERFLOWING)
    write_engine(
        path / "hopeless.json",
        {"stage": 2},
        OVERFLOWING | {"initial_scale_power": 30, "min_loss_scale": 2**29},
    )
    first = []
    for backend, engine in ENGINES:
        name = f"{backend}-{engine}"
        first += [Start(path / name, backend, f"{engine}_fp16")]  # type: ignore[arg-type]
        first += [Start(path / f"{name}-stopped", backend, f"{engine}_fp16", (STOP,))]  # type: ignore[arg-type]
    first.append(Start(path / "bf16-stopped", "fsdp", "zero2_bf16", (STOP,)))
    first.append(Start(path / "hopeless", "fsdp", "hopeless", ("train.max_skipped_steps=3",)))
    endings = run_ranks(begin, 2, path, first, timeout=300.0)
    assert endings[0] == endings[1]
    assert [each.exit_code for each in endings[0]] == [0, 75, 0, 75, 0, 75, 75, 1]
    (path / "hopeless.txt").write_text(endings[0][-1].message)
    for precision in ("", "_bf16"):
        shutil.copytree(path / "fsdp-zero2-stopped", path / f"fp16-to{precision}")
    second = [Start(path / "fp16-to", "fsdp", "zero2"), Start(path / "fp16-to_bf16", "fsdp", "zero2_bf16")]
    second += [Start(path / f"{b}-{e}-stopped", b, f"{e}_fp16") for b, e in ENGINES]  # type: ignore[arg-type]
    second.append(Start(path / "bf16-stopped", "fsdp", "zero1_fp16"))
    assert run_ranks(begin, 2, path, second, timeout=300.0)[0] == [Ending(0)] * 6
    return path


def write_engine(path: Path, zero: dict[str, Any], fp16: dict[str, Any]) -> None:
    path.write_text(json.dumps({"zero_optimization": zero, "fp16": fp16}))


def begin(folder: Path, starts: list[Start]) -> list[Ending]:
    enter()
    module: Any = comm
    module.has_native_fp16 = lambda on: True
    return start(folder, starts)


def by_hand(skipped: list[bool]) -> tuple[list[float], list[float]]:
    """The scale and the learning rate that each step should have had."""
    scale, good, patience, applied = 2.0**24, 0, 2, 0
    scales, rates = [], []
    for each in skipped:
        scales.append(scale)
        rates.append(0.01 * ((applied + 1) / 4 if applied < 4 else (STEPS - applied) / (STEPS - 4)))
        if each:
            scale, good, patience = (scale, 0, 1) if patience == 2 else (scale / 2, 0, 1)
        else:
            if good > 0 and good % 2 == 0:
                scale, patience = scale * 2, 2
            good, applied = good + 1, applied + 1
    return scales, rates


@pytest.mark.parametrize("name", [f"{backend}-{engine}" for backend, engine in ENGINES])
def test_scale_and_learning_rate_go_by_the_skipped_steps(runs: Path, name: str) -> None:
    lines = records(runs / name)
    skipped = [line["skipped"] for line in lines]
    assert any(skipped[:HALF]) and any(skipped[HALF:]) and not all(skipped[HALF:])
    scales, rates = by_hand(skipped)
    assert [line["loss_scale"] for line in lines] == scales
    assert [line["lr"] for line in lines] == pytest.approx(rates)
    assert all((line["grad_norm"] is None) == line["skipped"] for line in lines)
    assert {line.get("skipped_because") for line in lines if line["skipped"]} == {"overflow"}
    state = newest(runs / name)[1].state
    assert (state.step, state.applied_steps) == (STEPS, STEPS - sum(skipped))
    # The data goes on all the same.
    assert len({tuple(line["cursor"]) for line in lines}) == STEPS


@pytest.mark.parametrize("name", [f"{backend}-{engine}" for backend, engine in ENGINES])
def test_goes_on_bit_for_bit(runs: Path, name: str) -> None:
    whole, resumed = runs / name, runs / f"{name}-stopped"
    assert records(resumed) == records(whole)
    ours, theirs = newest(resumed)[1], newest(whole)[1]
    assert [file.sha256 for file in ours.files] == [file.sha256 for file in theirs.files]
    assert ours.state.loss_scale == theirs.state.loss_scale is not None


@pytest.mark.parametrize("name", ["fp16-to", "fp16-to_bf16"])
def test_goes_on_in_another_precision(runs: Path, name: str) -> None:
    before, lines = records(runs / "fsdp-zero2")[:HALF], records(runs / name)
    applied = HALF - sum(line["skipped"] for line in before)
    assert lines[:HALF] == before
    assert not any(line["skipped"] for line in lines[HALF:])
    assert {line["loss_scale"] for line in lines[HALF:]} == {1.0}
    state = newest(runs / name)[1].state
    assert (state.applied_steps, state.loss_scale) == (applied + HALF, None)
    # The same weights, in another precision.
    same = records(runs / "fsdp-zero2")[HALF]["loss"]
    assert lines[HALF]["loss"] == pytest.approx(same, rel=1e-2)


def test_goes_over_to_fp16(runs: Path) -> None:
    lines = records(runs / "bf16-stopped")
    assert [line["loss_scale"] for line in lines[: HALF + 1]] == [1.0] * HALF + [2.0**24]
    assert any(not line["skipped"] for line in lines[HALF:])


def test_skipping_for_ever_ends_in_an_error(runs: Path) -> None:
    lines = records(runs / "hopeless")
    # Two at 2^30 (hysteresis), then those that count.
    assert [line["loss_scale"] for line in lines] == [2.0**30] * 2 + [2.0**29] * 3
    assert all(line["skipped"] for line in lines)
    assert {line["lr"] for line in lines} == {0.0025}
    message = (runs / "hopeless.txt").read_text()
    assert message.startswith("3 steps in a row up to step 5 were skipped")
    assert "at loss scale 5.36871e+08, the lowest" in message
    assert "\n" not in message
    assert not list((runs / "hopeless/checkpoints").glob("step-*"))
