"""Ranks that stand still: stopped, asleep, or behind a link that is cut."""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from pretrain.faults.bench import WATCH_SECONDS, Bench
from pretrain.faults.row import NotHere, Row, Try, expect
from pretrain.faults.world import Host, named_rank, world

PROMISED_SECONDS = WATCH_SECONDS + 5
STEPS = 100_000  # too many to come to their end
# What sleeps, the file that it is in, and what the rank is said to be doing.
SLEEPERS = (
    ("reading data", "loader.py", "waiting for data", 3),
    ("saving", "loop.py", "saving", 3),
    ("reading data", "loader.py", "waiting for data", 1),
)


def _stop_tries(bench: Bench) -> Iterator[Try]:
    for rank in (0, 1):  # rank 0 keeps the store, which then gives no answer
        yield Try(f"rank {rank}", partial(_stopped, bench, rank))


def _stopped(bench: Bench, rank: int) -> None:
    with world(bench.launch, bench.new_folder("stopped"), bench.arguments(STEPS), 2) as running:
        running.wait_for_step(3)
        os.kill(running.pids()[rank], signal.SIGSTOP)
        codes, took = running.end()
        _expect_in_time(took)
        expect((codes[rank], codes[1 - rank]) == (-signal.SIGKILL, 1), f"ended with {codes}")
        sentence = running.sentence
        named = named_rank(sentence) == rank and "is stopped in step " in sentence
        expect(named, f"rank {rank} was stopped: {sentence}")
        written = _stacks(running.run)
        expect(set(written) == {f"rank-0000{1 - rank}.txt"}, f"stacks are there of {sorted(written)}")


def _sleep_tries(bench: Bench) -> Iterator[Try]:
    for where, file, doing, ranks in bench.sample(SLEEPERS, 2):
        yield Try(
            f"{where}, one of {ranks}",
            partial(_slept, bench, where, file, doing, ranks),
        )


def _slept(bench: Bench, where: str, file: str, doing: str, ranks: int) -> None:
    rank = ranks - 1 if ranks == 1 else 1
    fault = {"where": where, "rank": rank, "call": 3 if where == "saving" else 9, "seconds": 600}
    typed = bench.arguments(STEPS, "checkpoint.every=2")
    with world(bench.launch, bench.new_folder("asleep"), typed, ranks, fault=fault) as running:
        running.wait_for_words(f"faulty: {where}")
        codes, took = running.end()
        _expect_in_time(took)
        # Something to go on from was gained where a checkpoint was committed since the start.
        expected = 75 if (running.run / "checkpoints" / "latest").exists() else 1
        expect(set(codes) == {expected}, f"ended with {codes} where {expected} was due")
        sentence = running.sentence
        expect(named_rank(sentence) == rank and doing in sentence, f"rank {rank} slept {where}: {sentence}")
        written, own = _stacks(running.run), f"rank-{rank:05d}.txt"
        expect(
            set(written) == {f"rank-{each:05d}.txt" for each in range(ranks)}, f"stacks: {sorted(written)}"
        )
        expect(f"{running.run}/stacks/" in sentence, f"the message does not say where stacks lie: {sentence}")
        expect(
            re.search(rf"in replaced\n.*{file}", written[own]), f"the stack does not show it: {written[own]}"
        )


def _expect_in_time(took: float) -> None:
    expect(took < PROMISED_SECONDS, f"all had ended after {took:.1f} s, promised: {PROMISED_SECONDS:.0f}")


def _stacks(run: Path) -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in (run / "stacks").iterdir()}


def _link_tries(bench: Bench) -> Iterator[Try]:
    yield Try("of two", lambda: _cut_off(bench))


def _cut_off(bench: Bench) -> None:
    folder, typed = bench.new_folder("cut-off"), bench.arguments(STEPS)
    with hosts() as both, world(bench.launch, folder, typed, 2, hosts=both) as running:
        running.wait_for_step(5)
        _ip("-n", both[1].name, "link", "set", both[1].interface, "down")
        codes, took = running.end()
        _expect_in_time(took)
        expect(codes == [1, 1], f"ended with {codes}")
        sentence = running.sentence
        speaker = json.loads((running.run / "fault.json").read_text(encoding="utf-8"))["rank"]
        expect(named_rank(sentence) == 1 - speaker, f"rank {speaker} speaks: {sentence}")
        words = "cannot be reached" if speaker else "gives no sign of life"
        named = f"on {both[1 - speaker].name}" in sentence and words in sentence
        expect(named, f"the peer is not named: {sentence}")


@contextmanager
def hosts() -> Iterator[list[Host]]:
    """Two network name spaces with a cable between them. Raises NotHere where they are not allowed."""
    if shutil.which("ip") is None:
        raise NotHere("the command ip is not there")
    mark = os.getpid() % 10_000
    names = [f"lbb{mark}a", f"lbb{mark}b"]
    try:
        try:
            for name in names:
                _ip("netns", "add", name)
        except subprocess.CalledProcessError as error:
            raise NotHere(f"network name spaces are not allowed here: {error.stderr.strip()}") from None
        found = [Host(name, f"{name}0", f"10.213.7.{last}") for last, name in enumerate(names, start=1)]
        one, two = found
        cable = ("type", "veth", "peer", two.interface, "netns", two.name)
        _ip("-n", one.name, "link", "add", one.interface, *cable)
        for host in found:
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.interface)
            _ip("-n", host.name, "link", "set", host.interface, "up")
            _ip("-n", host.name, "link", "set", "lo", "up")
        yield found
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


ROWS = (
    Row(
        "stop",
        "SIGSTOP of a rank",
        f"all end within the timeout + 5 s, here {PROMISED_SECONDS:.0f} s; the rank is named and killed; stacks",
        _stop_tries,
    ),
    Row(
        "sleep", "data or a save that never comes", "the same; what the rank was doing is said", _sleep_tries
    ),
    Row("cut-link", "a cut link between two network name spaces", "the same; the peer is named", _link_tries),
)
