"""Signals that ask a run to stop, to ranks and to launchers, at any time."""

import os
import signal
from collections.abc import Callable, Iterator
from functools import partial

import psutil

from pretrain import signals
from pretrain.faults.bench import Bench, Way
from pretrain.faults.row import Row, Try, expect
from pretrain.faults.world import World, expect_saved_and_ended, world

STEPS = 100_000
# Handed on to the ranks instead of ending torchrun.
HANDLED = ("--signals-to-handle=SIGTERM,SIGINT,SIGUSR1",)
# (launcher, its options, the signal, and how the launcher then ends); whatever becomes of it, its ranks save.
LAUNCHERS: tuple[tuple[str, tuple[str, ...], signal.Signals, int], ...] = (
    ("torchrun", HANDLED, signal.SIGUSR1, 1),
    ("deepspeed", (), signal.SIGTERM, -signal.SIGTERM),
    ("torchrun", (), signal.SIGUSR1, -signal.SIGUSR1),
    ("torchrun", (), signal.SIGTERM, 1),
    ("torchrun", (), signal.SIGKILL, -signal.SIGKILL),
    ("deepspeed", (), signal.SIGKILL, -signal.SIGKILL),
)
RANKS = (
    (1, signal.SIGUSR1),
    (0, signal.SIGTERM),
    (0, signal.SIGINT),
    (1, signal.SIGTERM),
    (1, signal.SIGINT),
    (0, signal.SIGUSR1),
)


def _rank_tries(bench: Bench) -> Iterator[Try]:
    for rank, number in bench.sample(RANKS, 2):
        yield Try(f"{number.name} to rank {rank}", partial(_to_rank, bench, rank, number))


def _to_rank(bench: Bench, rank: int, number: signal.Signals) -> None:
    with world(bench.launch, bench.new_folder("asked"), bench.arguments(STEPS), 2) as running:
        running.wait_for_step(2)
        os.kill(running.pids()[rank], number)
        _expect_codes(running, [75, 75])
        expect_saved_and_ended(running)


def _launcher_tries(bench: Bench) -> Iterator[Try]:
    for launcher, options, number, code in bench.sample(LAUNCHERS, 1):
        yield Try(
            f"{number.name} to {launcher} {' '.join(options)}",
            partial(_to_launcher, bench, launcher, options, number, code),
        )


def _to_launcher(
    bench: Bench, launcher: str, options: tuple[str, ...], number: signal.Signals, code: int
) -> None:
    backend = "fsdp" if launcher == "torchrun" else "deepspeed"
    folder, typed = bench.new_folder("launched"), bench.arguments(STEPS)
    with world(bench.launch, folder, typed, 2, launcher, backend, options=options) as running:
        running.wait_for_step(2)
        pids, pid = running.pids(), running.launcher.pid if running.launcher else 0
        expect(len(pids) == 2, f"{len(pids)} ranks are there")
        below = [each.pid for each in psutil.Process(pid).children(recursive=True)]
        os.kill(pid, number)
        codes, _ = running.end(pids=below)
        expect(codes == [code], f"the launcher ended with {codes[0]}")
        expect_saved_and_ended(running)


def _time_tries(bench: Bench) -> Iterator[Try]:
    """At times when no step is being taken."""
    times: list[tuple[str, Callable[[Bench], None]]] = [
        ("while saving", _while_saving),
        ("before the first step", _before_the_first_step),
        ("in validation", _in_validation),
    ]
    for what, act in bench.sample(times, 2):
        yield Try(what, partial(act, bench))


def _while_saving(bench: Bench) -> None:
    fault, typed = {"where": "saving", "seconds": 1}, bench.arguments(STEPS, "checkpoint.every=2")
    with world(bench.launch, bench.new_folder("asked"), typed, 2, fault=fault) as running:
        running.wait_for_words("faulty: saving")
        os.kill(running.pids()[0], signal.SIGTERM)
        _expect_codes(running, [75, 75])
        expect_saved_and_ended(running)


def _before_the_first_step(bench: Bench) -> None:
    fault = {"where": "building", "rank": 1, "seconds": 600}
    with world(bench.launch, bench.new_folder("asked"), bench.arguments(STEPS), 3, fault=fault) as running:
        running.wait_for_words("faulty: building")
        os.kill(running.pids()[2], signal.SIGTERM)
        _expect_codes(running, [75] * 3)
        expect("before the first step" in running.sentence, running.sentence)
        expect(not (running.run / "run.lock").exists(), "the lock is still there")


def _in_validation(bench: Bench) -> None:
    """Two rows a pass and two seconds each: seconds remain of this validation when the run has ended."""
    fault = {"where": "validating", "seconds": 2}
    more = ("eval.every=2", "eval.rows=256", "train.micro_batch=1", "watch.seconds=60")
    typed = bench.arguments(STEPS, *more)
    with world(bench.launch, bench.new_folder("asked"), typed, 2, fault=fault) as running:
        running.wait_for_words("faulty: validating")
        os.kill(running.pids()[1], signal.SIGTERM)
        _expect_codes(running, [75, 75])
        expect_saved_and_ended(running)


def _twice_tries(bench: Bench) -> Iterator[Try]:
    yield Try("SIGTERM to all, twice", lambda: _twice(bench))
    yield Try("SIGTERM to all, again and again at once", lambda: _echoed(bench))


def _twice(bench: Bench) -> None:
    """While the main thread is far from any instruction of Python's: it waits for a peer."""
    fault = {"where": "saving", "rank": 1, "seconds": 600}
    typed = [bench.engine(Way("fsdp", 2)), *bench.arguments(STEPS, "checkpoint.every=2", "watch.seconds=300")]
    with world(bench.launch, bench.new_folder("asked"), typed, 2, fault=fault) as running:
        running.wait_for_words("faulty: saving")
        pids = running.pids()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        running.pause(signals.SAME_REQUEST_SECONDS + 0.5)
        expect(not running.has_ended(), "the first signal ended it before it had saved")
        for pid in pids:
            os.kill(pid, signal.SIGTERM)
        codes, took = running.end()
        expect(took < 2 and codes == [-signal.SIGTERM] * 2, f"ended with {codes} after {took:.1f} s")


def _echoed(bench: Bench) -> None:
    """A launcher and a scheduler pass one request on several times, to ranks that are ending too."""
    with world(bench.launch, bench.new_folder("asked"), bench.arguments(STEPS), 2) as running:
        running.wait_for_step(2)
        while not running.has_ended():
            for child in running.children:
                if child.exitcode is None and child.pid is not None:
                    os.kill(child.pid, signal.SIGTERM)
            running.pause(0.1)
        _expect_codes(running, [75, 75])
        expect_saved_and_ended(running)


def _expect_codes(running: World, expected: list[int]) -> None:
    codes, _ = running.end()
    expect(codes == expected, f"ended with {codes}: {running.said[-1000:]}")


_SAVED = "all ranks save and end with 75"
ROWS = (
    Row("signal", "SIGTERM, SIGINT or SIGUSR1 to one rank", _SAVED, _rank_tries),
    Row("signal-launcher", "a signal to torchrun or deepspeed", _SAVED, _launcher_tries),
    Row("signal-any-time", "SIGTERM while saving, validating, before the first step", _SAVED, _time_tries),
    Row("signal-twice", "a second signal", "all end at once; its echoes change nothing", _twice_tries),
)
