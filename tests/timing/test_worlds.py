"""A slow rank of two under the engines: its own seconds tell, those of the rank that waits do not."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pytest
import torch
import torch.distributed as dist

from pretrain.build import row_stream
from pretrain.data.loader import Loader
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.faults.tiny import write_tiny_store
from pretrain.loop import Loop, LoopOptions
from pretrain.metrics import RanksRecord, StepRecord, Terminal
from pretrain.optim import Progress, RunLength, Schedule
from pretrain.signals import StopRequest
from pretrain.timing import Profile, ProfileOptions, Timing
from tests.numerics.cells import Cell
from tests.numerics.courses import SavesNothing, enter, make_backend
from tests.numerics.recipe import GLOBAL_BATCH, SEED
from tests.worlds import run_ranks

pytestmark = pytest.mark.slow
SLOW_RANK = 1
EVERY, STEPS = 2, 6
BURN, SLEEP, WORK = 0.25, 0.25, 0.05  # seconds a step
COMPETITORS = 4
CELLS = (Cell("deepspeed", 3), Cell("fsdp", 3), Cell("deepspeed", 1), Cell("deepspeed", 0))
SAMPLE = 2
Slowness = Literal["none", "burns", "waits for data", "has a busy neighbour"]


class Told(NamedTuple):
    """What a rank saw of a run: its records, and what its terminal was given to say."""

    steps: list[StepRecord]
    ranks: list[RanksRecord]
    said: list[str]


class Recorder(Terminal):
    """Stands for writer and terminal."""

    def __init__(self) -> None:
        super().__init__(False, 1)
        self.told = Told([], [], [])

    def step(self, record: StepRecord, *others: Any) -> None:
        if not others:
            self.told.steps.append(record)

    def ranks(self, record: RanksRecord) -> None:
        self.told.ranks.append(record)

    def say(self, text: str) -> None:
        self.told.said.append(text)


def burn(seconds: float) -> None:
    """Processor time of this thread."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass


def told(folder: Path, cells: list[Cell], slowness: Slowness) -> list[Told]:
    """On a rank."""
    enter()
    return [told_of(folder, cell, slowness, EVERY, Profile()) for cell in cells]


def told_of(folder: Path, cell: Cell, slowness: Slowness, every: int, profile: Profile) -> Told:
    store, rank = TokenStore.open(folder / "store"), dist.get_rank()
    backend: Any = make_backend(cell, store, folder)
    recorder: Any = Recorder()
    stands_for_saver: Any = SavesNothing()
    no_state: Any = lambda *_: None  # noqa: E731
    stream = row_stream(store, "train", cell.setting(STEPS).sampling, SEED)
    if slowness == "burns" and rank == SLOW_RANK:
        backend.step = after(lambda: burn(BURN), backend.step)
    if slowness == "has a busy neighbour":
        backend.step = after(lambda: burn(WORK), backend.step)
    with Loader(stream, Cursor(0, 0, 0), GLOBAL_BATCH, cell.micro_batch, rank, cell.ranks) as loader:
        source: Any = loader
        if slowness == "waits for data" and rank == SLOW_RANK:
            source = map(after(lambda: time.sleep(SLEEP), lambda batches: batches), loader)
        loop = Loop(
            LoopOptions(RunLength(STEPS, STEPS), None, 0, 0, SEED, rank, torch.device("cpu"), None),
            source,
            backend,
            Schedule("linear", 0.001, STEPS, 1),
            None,
            stands_for_saver,
            no_state,
            lambda batches: 0.0,
            recorder,
            recorder,
            StopRequest(),
            timing=Timing(every, ["n01", "n02"]),
            profile=profile,
        )
        with profile:
            loop.run(Progress())
    found: Told = recorder.told
    return found


def after(first: Callable[[], None], function: Callable[..., Any]) -> Callable[..., Any]:
    def both(*args: Any) -> Any:
        first()
        return function(*args)

    return both


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("timing")
    write_tiny_store(folder / "store")
    return folder


def test_a_rank_that_is_busy_longer_is_named_and_the_one_that_waits_is_not_busy(
    folder: Path, in_full: bool
) -> None:
    cells = list(CELLS if in_full else CELLS[:SAMPLE])
    for cell, of_first, of_second in zip(cells, *run_ranks(told, 2, folder, cells, "burns"), strict=True):
        assert [record.step for record in of_first.ranks] == [2, 4, 6], cell
        for record, other in zip(of_first.ranks, of_second.ranks, strict=True):
            assert record.own_seconds == other.own_seconds, cell  # the ranks know the same of each other
            waiting, busy = record.own_seconds
            assert waiting is not None and busy is not None
            # Both may have to wait for a core, where others use them.
            assert record.seconds > BURN and busy >= BURN
            assert busy > 2 * waiting, (cell, record)
        for said in (of_first.said, of_second.said):
            (line,) = said  # at the third interval, once
            assert line.startswith("rank 1 on n02 takes "), cell
            assert line.endswith("s a step), and the others wait for it"), cell


def test_a_rank_whose_data_comes_late_is_named_with_its_wait(folder: Path) -> None:
    (of_first, *_), _ = run_ranks(told, 2, folder, [CELLS[1]], "waits for data")
    for record in of_first.ranks:
        quick, late = record.data_wait_seconds
        assert late >= SLEEP and late > 2 * quick
        assert record.own_seconds[1] is not None and record.own_seconds[1] >= SLEEP
    assert [line.startswith("rank 1 on n02 takes ") for line in of_first.said] == [True]
    # Every line of metrics.jsonl has the mean of both ranks.
    shares = [step.data_wait for step in of_first.steps if step.data_wait is not None]
    waited = sum(share * step.seconds for share, step in zip(shares, of_first.steps, strict=True))
    of_ranks = [sum(record.data_wait_seconds) * record.steps for record in of_first.ranks]
    assert waited == pytest.approx(sum(of_ranks) / 2)


def crowded(folder: Path) -> list[Told]:
    """Each rank on a core of its own, the second one's beside busy processes."""
    rank = dist.get_rank()
    core = sorted(os.sched_getaffinity(0))[rank]
    os.sched_setaffinity(0, {core})
    count = COMPETITORS if rank == SLOW_RANK else 0
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        return told(folder, [CELLS[1]], "has a busy neighbour")
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")
def test_a_rank_that_waits_for_its_core_is_named(folder: Path) -> None:
    (of_first, *_), _ = run_ranks(crowded, 2, folder)
    assert [line.startswith("rank 1 on n02 takes ") for line in of_first.said] == [True]


def looked_at_and_not(folder: Path) -> tuple[Told, Told]:
    """On a rank: with all that there is to see of a run, and without."""
    enter()
    profile = Profile(ProfileOptions(3, 2, [0, 1]), folder / "profile", dist.get_rank())
    looked = told_of(folder, CELLS[0], "none", 1, profile)
    return looked, told_of(folder, CELLS[0], "none", 0, Profile())


def test_nothing_of_it_changes_what_is_computed(folder: Path) -> None:
    (looked, plain), _ = run_ranks(looked_at_and_not, 2, folder)
    assert len(looked.ranks) == STEPS and not plain.ranks
    assert len(list((folder / "profile").glob("steps-3-4.rank-?.json.gz"))) == 2
    columns = ("step", "loss", "mlm_loss", "nsp_loss", "lr", "grad_norm", "samples", "tokens", "cursor")
    for ours, theirs in zip(looked.steps, plain.steps, strict=True):
        assert [getattr(ours, name) for name in columns] == [getattr(theirs, name) for name in columns]
