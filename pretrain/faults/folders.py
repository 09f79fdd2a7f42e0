"""Two runs and one folder: alive, dead, or at the same moment."""

import json
import os
import signal
import socket
from collections.abc import Iterator

from pretrain.faults.bench import Bench
from pretrain.faults.row import Row, Try, expect
from pretrain.faults.world import is_alive, world
from pretrain.lock import process_began

STEPS = 100_000


def _tries(bench: Bench) -> Iterator[Try]:
    yield Try("a second start beside a run", lambda: _second(bench))
    yield Try("two starts at once", lambda: _at_once(bench))
    yield Try("a lock whose holder was killed", lambda: _stale(bench))
    yield Try("a lock whose holder's number is another process's now", lambda: _reused(bench))


def _second(bench: Bench) -> None:
    first, second = bench.new_folder("first"), bench.new_folder("second")
    with world(bench.launch, first, bench.arguments(STEPS), 2) as running:
        running.wait_for_step(2)
        typed = bench.arguments(STEPS, f"--output={running.run}")
        with world(bench.launch, second, typed, 2) as other:
            codes, _ = other.end()
            expect(codes == [2, 2], f"the second ended with {codes}")
            holder = f"in use by process {running.pids()[0]} on {socket.gethostname()}"
            expect(holder in other.sentence, other.sentence)
        running.wait_for_step(running.steps + 2)  # the first has noticed nothing
        expect((running.run / "run.lock").exists(), "the first has lost its lock")


def _at_once(bench: Bench) -> None:
    one, two = bench.new_folder("first"), bench.new_folder("second")
    typed = bench.arguments(STEPS, f"--output={one / 'run'}")
    with world(bench.launch, one, typed, 1) as first, world(bench.launch, two, typed, 1) as second:
        both = (first, second)
        first.wait_for(lambda: first.has_ended() or second.has_ended(), "refused")
        refused = [each for each in both if each.has_ended()]
        expect(len(refused) == 1, f"{len(refused)} of two were refused")
        expect(refused[0].end()[0] == [2] and "in use by" in refused[0].sentence, refused[0].said[-1000:])
        winner = next(each for each in both if each is not refused[0])
        winner.wait_for_words("global batch of")
        expect(all(map(is_alive, winner.pids())), "the other ended too")


def _stale(bench: Bench) -> None:
    folder, typed = bench.new_folder("stale"), bench.arguments(STEPS)
    with world(bench.launch, folder, typed, 2) as running:
        running.wait_for_step(2)
        for pid in running.pids():
            os.kill(pid, signal.SIGKILL)
        running.end()
        expect((running.run / "run.lock").exists(), "a killed run has left no lock, so nothing was tried")
    _starts_again(bench, folder.name)


def _reused(bench: Bench) -> None:
    folder = bench.new_folder("reused")
    (folder / "run").mkdir()
    boot = (process_began(os.getpid()) or "").split()[0]
    holder = {"host": socket.gethostname(), "pid": os.getpid(), "began": f"{boot} 1", "job": None}
    (folder / "run" / "run.lock").write_text(json.dumps(holder), encoding="utf-8")
    _starts_again(bench, folder.name)


def _starts_again(bench: Bench, name: str) -> None:
    stop = "train.stop_at_step=2"
    with world(bench.launch, bench.folder / name, bench.arguments(STEPS, stop), 2) as running:
        codes, _ = running.end()
        expect(codes == [75, 75], f"ended with {codes}: {running.said[-1000:]}")
        expect(not (running.run / "run.lock").exists(), "the lock is still there")


ROWS = (
    Row(
        "two-runs",
        "two runs, one folder; a stale lock",
        "the second is refused, naming the first's host and process; a stale lock is taken over",
        _tries,
    ),
)
