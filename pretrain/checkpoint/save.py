"""Saving beside the training, which waits for a copy to host memory and for nothing else.

1. `begin`: rank 0 looks whether there is room and makes a hidden folder; every rank copies its slices;
2. a thread of each rank writes its file, hashes it on the way, forces it to disk and says so in a small manifest beside
   it. Ranks that are replicas of another group write nothing;
3. the ranks learn how far the others are by two numbers that ride on an exchange they make anyway, once a step: no
   thread ever takes part in a collective. When all files are there, rank 0's thread commits them at once (`commit`),
   and whether that went well goes round in the same way;
4. a failure anywhere is heard by all in the same exchange, and every rank raises the same sentence.

Extra memory: the copy, see `snapshot`. One save is under way at a time; the next one waits for it.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from threading import Event
from typing import NamedTuple

from pretrain import comm
from pretrain.checkpoint.commit import Place, commit, prepare
from pretrain.checkpoint.frozen import all_parameters, frozen_names
from pretrain.checkpoint.manifest import MASTER, CheckpointManifest, RunState, SavedFile
from pretrain.checkpoint.retention import Retention
from pretrain.checkpoint.snapshot import Snapshot
from pretrain.disk import naming, sync, write_file, write_text
from pretrain.errors import PretrainError
from pretrain.optim import ShardedOptimizer
from pretrain.watch import Activity


class _GivenUp(Exception):
    """Another rank has failed, and this one's file is wanted no more."""


class SaveReport(NamedTuple):
    """What one rank adds to the sums over all: 1 where its part of the save is done, 1 where it has failed."""

    finished: float
    failed: float


@dataclass
class _UnderWay:
    """A save that is not over: first every rank writes, then rank 0 commits."""

    place: Place
    manifest: CheckpointManifest  # but for the files
    task: Future[None] | None  # of this rank; None where it has nothing to do
    committing: bool = False


class Saver:
    """Writes the checkpoints of a run. All methods but `report` are for all ranks alike, at the same steps."""

    def __init__(
        self,
        checkpoints: Path,
        optimizer: ShardedOptimizer,
        retention: Retention,
        rank: int,
        activity: Activity | None = None,
    ) -> None:
        self._checkpoints = checkpoints
        self._optimizer = optimizer
        self._retention = retention
        self._rank = rank
        self._activity = activity or Activity()
        self._snapshot = Snapshot(optimizer, rank == 0) if optimizer.layout.replica == 0 else None
        # Of every rank's file; None where it writes none.
        self._sizes = comm.all_gather_objects(None if self._snapshot is None else self._snapshot.num_bytes)
        self._threads = ThreadPoolExecutor(1, "checkpoint")
        self._under_way: _UnderWay | None = None
        self._given_up = Event()
        self.newest: Path | None = None  # that this object has committed

    def begin(self, state: RunState) -> None:
        """Copies the state of this moment and begins to write it; collective. Waits for an earlier save.

        Raises:
            PretrainError: there is no room for it, or the earlier save has failed.
        """
        self.finish()
        place = Place(self._checkpoints, state.step)
        needed = sum(size for size in self._sizes if size is not None)
        problem: str | None = None
        if self._rank == 0:
            try:
                prepare(place, needed)
            except PretrainError as error:
                problem = str(error)
        problem = comm.broadcast_object(problem)
        if problem is not None:
            raise _failure(place.final, problem)
        if self._snapshot is not None:
            self._snapshot.take()
        manifest = CheckpointManifest(
            kinds=[MASTER, *self._optimizer.rule.moment_kinds],
            vectors=list(self._optimizer.vectors),
            parameters=all_parameters(self._optimizer.layout),
            frozen=frozen_names(self._optimizer.layout),
            files=[],
            state=state,
        )
        self._under_way = _UnderWay(place, manifest, self._threads.submit(self._write, place))

    def report(self) -> SaveReport:
        """How this rank's part of a save stands now; to be summed over all ranks."""
        task = None if self._under_way is None else self._under_way.task
        if task is None or not task.done():
            return SaveReport(0.0, 0.0)
        return SaveReport(1.0, 0.0) if task.exception() is None else SaveReport(0.0, 1.0)

    def hear(self, finished: float, failed: float) -> None:
        """Takes the sums of all ranks' reports, the same on every rank, and goes a step further if they allow it.

        Raises:
            PretrainError: some rank could not write; nothing is committed then.
        """
        save = self._under_way
        if save is None:
            return
        if failed:
            self._give_up(save)
        elif save.committing and finished:
            self._under_way, self.newest = None, save.place.final
        elif not save.committing and finished == len(self._sizes):
            save.committing, save.task = True, None
            if self._rank == 0:
                ranks = [rank for rank, size in enumerate(self._sizes) if size is not None]
                save.task = self._threads.submit(commit, save.place, save.manifest, ranks, self._retention)

    def finish(self) -> None:
        """Waits until the save that is under way, if any, is committed; collective. Raises as `hear` does."""
        while self._under_way is not None:
            if self._under_way.task is not None:
                wait([self._under_way.task])
            reports = comm.all_gather_objects(tuple(self.report()))
            self.hear(*(sum(each) for each in zip(*reports, strict=True)))

    def _write(self, place: Place) -> None:
        """This rank's file and its manifest, on disk."""
        if self._snapshot is None:
            return
        path, about = place.file_of(self._rank), place.manifest_of(self._rank)
        with naming(path, self._snapshot.num_bytes):
            # Rank 0 has made it, which a network file system may show here only after a while.
            place.partial.mkdir(exist_ok=True)
            written = write_file(path, self._parts(self._snapshot))
        file = SavedFile(
            name=path.name, bytes=written.bytes, sha256=written.sha256, slices=self._snapshot.slices
        )
        text = file.model_dump_json()
        with naming(about, len(text)):
            write_text(about, text)
            sync(place.partial)

    def _parts(self, snapshot: Snapshot) -> Iterator[memoryview]:
        for part in snapshot.parts():
            if self._given_up.is_set():
                raise _GivenUp
            self._activity.advance()
            yield part

    def _give_up(self, save: _UnderWay) -> None:
        self._given_up.set()
        problem: str | None = None
        if save.task is not None:
            error = save.task.exception()
            if error is not None and not isinstance(error, _GivenUp):
                problem = f"rank {self._rank}: {error}"
        problems = [each for each in comm.all_gather_objects(problem) if each is not None]
        if self._rank == 0:
            rmtree(save.place.partial, ignore_errors=True)
        self._under_way = None
        self._given_up.clear()
        raise _failure(save.place.final, problems[0])


def save_checkpoint(
    checkpoints: Path, optimizer: ShardedOptimizer, state: RunState, keep: int, rank: int
) -> Path:
    """Writes `checkpoints/step-<step>` and waits until it is committed; collective. Returns its path.

    Raises:
        PretrainError: a rank could not write; nothing is committed then, on any rank.
    """
    saver = Saver(checkpoints, optimizer, Retention(keep), rank)
    saver.begin(state)
    saver.finish()
    return Place(checkpoints, state.step).final


def _failure(final: Path, problem: str) -> PretrainError:
    return PretrainError(
        f"Checkpoint {final} could not be written ({problem}); the previous one is whole. Free space or choose "
        "another --output and start again."
    )
