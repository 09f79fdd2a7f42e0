"""Ranks are killed: at any step, in start-up, while saving, under a launcher."""

import os
import random
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from pretrain.checkpoint import CheckpointManifest, verify_checkpoint
from pretrain.faults.bench import SEQ_LEN, Bench, Way
from pretrain.faults.courses import Course, expect_bitwise, run_to, undisturbed
from pretrain.faults.row import NotHere, Row, Try, expect
from pretrain.faults.world import is_alive, latest, named_rank, named_step, world

PROMISED_SECONDS = 10.0
RANKS = 3
STEPS = 80
KILLS, KILLS_IN_SAMPLE = 5, 2  # under each way
WAYS = (Way("fsdp", 2), Way("deepspeed", 2, bf16=True), Way("deepspeed", 3), Way("fsdp", 3, bf16=True))
WAYS_IN_SAMPLE = 1
STARTS, STARTS_IN_SAMPLE = 12, 2
START_SECONDS = 4.0  # in which a start of so small a run has come to its first step
COMPILE_SECONDS = 30.0
_SHARED_MEMORY = Path("/dev/shm")


@dataclass
class Traces:
    """What the killed could have left behind on this machine."""

    ports: list[int] = field(default_factory=list)
    folders: list[Path] = field(default_factory=list)
    shared_memory: set[str] = field(default_factory=set)  # that was there before
    kills: int = 0


def course_arguments(bench: Bench) -> list[str]:
    """Of a run whose bits are compared."""
    often = ("checkpoint.every=4", "checkpoint.keep=2", "eval.every=20", "log.samples=true")
    return bench.arguments(STEPS, *often)


def _killed(bench: Bench, folder: Path, way: Way, rank: int, steps: int) -> None:
    """A start that goes on from what the kill before it left, and is killed `steps` steps later."""
    traces = _traces(bench)
    typed = [bench.engine(way), *course_arguments(bench)]
    with world(bench.launch, folder, typed, RANKS, backend=way.backend) as running:
        traces.ports.append(running.port)
        first = latest(running.run) if (running.run / "checkpoints" / "latest").exists() else 0
        running.wait_for_words("global batch of")  # the lines of steps that were lost are gone then
        running.wait_for_step(first + steps)
        if not first:  # from the second start on there is something to go on from
            running.wait_for((running.run / "checkpoints" / "latest").exists, "saved")
        step, pids = running.steps, running.pids()
        os.kill(pids[rank], signal.SIGKILL)
        codes, took = running.end(pids=pids)
        traces.kills += 1
        expect(took < PROMISED_SECONDS, f"the others took {took:.1f} s to end")
        others = {code for each, code in enumerate(codes) if each != rank}
        expect(len(others) == 1 and others <= {1, 75}, f"ended with {codes}")
        sentence = running.sentence
        expect(named_rank(sentence) == rank, f"rank {rank} was killed: {sentence}")
        expect(step <= named_step(sentence) <= running.steps + 1, f"it was at step {step}: {sentence}")
        expect(not any(map(is_alive, pids)), "a rank is still there")


def _goes_on_bit_for_bit(bench: Bench, folder: Path, way: Way) -> None:
    running = run_to(bench, folder, course_arguments(bench), RANKS, way)
    expect("bit for bit" in running.said, f"it did not go on from a checkpoint: {running.said[:1000]}")
    whole = undisturbed(bench, way, RANKS, course_arguments(bench))
    expect_bitwise(Course.of(folder / "run"), whole)


def _kill_tries(bench: Bench) -> Iterator[Try]:
    draws = random.Random(5)
    _traces(bench)
    for way in bench.sample(WAYS, WAYS_IN_SAMPLE):
        folder = bench.new_folder("killed")
        for number in range(KILLS if bench.in_full else KILLS_IN_SAMPLE):
            rank = draws.randrange(1, RANKS) if number % 2 == 0 else 0  # the one that keeps the store, too
            steps = draws.randrange(1, 12)
            yield Try(
                f"{way}, kill {number + 1}, rank {rank}",
                partial(_killed, bench, folder, way, rank, steps),
            )
        yield Try(f"{way}, resumed", partial(_goes_on_bit_for_bit, bench, folder, way))


def _traces(bench: Bench) -> Traces:
    return bench.once(Traces, lambda: Traces(shared_memory=_unused_shared_memory()))


def _unused_shared_memory() -> set[str]:
    """Segments that no process maps, so that nobody will ever take them away."""
    mapped = ""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            mapped += maps.read_text(errors="replace")
    return {name for name in os.listdir(_SHARED_MEMORY) if f"{_SHARED_MEMORY}/{name}" not in mapped}


def _leftover_tries(bench: Bench) -> Iterator[Try]:
    traces = _traces(bench)
    if not traces.kills:
        for each in _kill_tries(bench):
            each.act()
    temporary = [path for folder in bench.folder.glob("killed-*/tmp") for path in folder.iterdir()]
    left = _unused_shared_memory() - traces.shared_memory
    listening = [port for port in traces.ports if _listens(port)]
    yield Try("/dev/shm", lambda: expect(not left, f"after {traces.kills} kills /dev/shm holds {left}"))
    yield Try("temporary folders", lambda: expect(not temporary, f"left: {temporary}"))
    yield Try("sockets", lambda: expect(not listening, f"somebody listens on {listening}"))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _launcher_tries(bench: Bench) -> Iterator[Try]:
    for launcher in bench.sample(("deepspeed", "torchrun"), 1):
        yield Try(launcher, partial(_killed_under, bench, launcher))


def _killed_under(bench: Bench, launcher: str) -> None:
    backend = "fsdp" if launcher == "torchrun" else "deepspeed"
    folder, typed = bench.new_folder("under-launcher"), bench.arguments(100_000)
    with world(bench.launch, folder, typed, 2, launcher, backend) as running:
        running.wait_for_step(3)
        pids = running.pids()
        os.kill(pids[1], signal.SIGKILL)
        codes, took = running.end(pids=pids)
        expect(took < PROMISED_SECONDS, f"launcher and ranks took {took:.1f} s to end")
        expect(codes != [0], "the launcher ended with 0")
        sentence = running.sentence
        expect(named_rank(sentence) == 1 and named_step(sentence) >= 4, f"rank 1 was killed: {sentence}")


def _start_tries(bench: Bench) -> Iterator[Try]:
    draws = random.Random(7)
    ways: list[tuple[Way, float, tuple[str, ...]]] = [
        (Way("deepspeed", 2), START_SECONDS, ()),
        (Way("fsdp", 2), START_SECONDS, ()),
        (Way("fsdp", 2), COMPILE_SECONDS, ("train.compile=true",)),
    ]
    for way, longest, more in bench.sample(ways, 1):
        folder = bench.new_folder("start")
        typed = bench.arguments(100_000, *more)
        for number in range(STARTS if bench.in_full and not more else STARTS_IN_SAMPLE):
            seconds = draws.uniform(0, longest)
            yield Try(
                f"{way} {' '.join(more)}, kill {number + 1} after {seconds:.1f} s",
                partial(_all_killed, bench, folder, way, typed, seconds),
            )
        stop = [*typed, "train.stop_at_step=9"]
        yield Try(
            f"{way} {' '.join(more)}, the next start",
            partial(_starts, bench, folder, way, stop),
        )


def _all_killed(bench: Bench, folder: Path, way: Way, typed: list[str], seconds: float) -> None:
    """All ranks at once, as a machine does that fails."""
    with world(bench.launch, folder, [bench.engine(way), *typed], 2, backend=way.backend) as running:
        running.pause(seconds)
        codes = [child.exitcode for child in running.children]
        if any("is missing" in each or "needs" in each for each in running.errors):
            raise NotHere(f"train.compile: {running.errors[0]}")
        expect(codes == [None, None], f"ended by themselves: {running.said[-1000:]}")
        for pid in running.pids():
            os.kill(pid, signal.SIGKILL)
        running.end()


def _starts(bench: Bench, folder: Path, way: Way, typed: list[str]) -> None:
    running = run_to(bench, folder, typed, 2, way, code=75)
    expect(running.steps == 9, f"{running.steps} steps were done")
    expect(not (running.run / "run.lock").exists(), "the lock is still there")


def _slow_save_tries(bench: Bench) -> Iterator[Try]:
    for rank in bench.sample((1, 0), 1):
        yield Try(f"rank {rank}", partial(_slow_then_killed, bench, rank))


def _slow_then_killed(bench: Bench, rank: int) -> None:
    """Its second save never gets on; the others have written theirs long since."""
    folder, way = bench.new_folder("slow-save"), Way("fsdp", 2)  # under which both ranks write
    typed = bench.arguments(100_000, "checkpoint.every=4", f"data.seq_len={SEQ_LEN}")
    fault = {"where": "writing", "rank": rank, "call": 2, "seconds": 600}
    with world(bench.launch, folder, [bench.engine(way), *typed], 2, fault=fault) as running:
        running.wait_for_words("faulty: writing")
        running.wait_for(lambda: (running.run / "checkpoints" / "latest").exists(), "saved")
        hidden = running.run / "checkpoints" / ".step-00000008.partial" / f"rank-0000{1 - rank}.json"
        running.wait_for(hidden.exists, "written by the other rank")
        os.kill(running.pids()[rank], signal.SIGKILL)
        codes, took = running.end()
        expect(took < PROMISED_SECONDS, f"the other rank took {took:.1f} s to end")
        expect(codes[1 - rank] == 75, f"a checkpoint was committed by this start: ended with {codes}")
        expect(latest(running.run) == 4, f"latest names step {latest(running.run)}")
    whole = folder / "run" / "checkpoints" / "step-00000004"
    problems = verify_checkpoint(whole, CheckpointManifest.read(whole))
    expect(not problems, f"the earlier checkpoint: {problems}")
    expect(not whole.with_name("step-00000008").exists(), "a save was committed without a rank's part")
    run_to(bench, folder, [*typed, "train.stop_at_step=9"], 2, way, code=75)


ROWS = (
    Row(
        "kill",
        "SIGKILL of a random rank at a random step",
        "all end in 10 s, rank and step named; the run goes on bit for bit",
        _kill_tries,
    ),
    Row(
        "leftovers", "after those kills", "/dev/shm, sockets and temporary folders are clean", _leftover_tries
    ),
    Row(
        "kill-launched",
        "SIGKILL of a rank under a launcher",
        "the same; the launcher ends too",
        _launcher_tries,
    ),
    Row(
        "kill-at-start",
        "SIGKILL of all ranks in start-up",
        "the next run starts; no stale lock",
        _start_tries,
    ),
    Row(
        "slow-save",
        "one rank slow, then killed, in a save",
        "nothing committed; the run goes on",
        _slow_save_tries,
    ),
)
