"""Heartbeats through a real store: out, in, and one end for all."""

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from pretrain.watch.activity import Doing
from pretrain.watch.beats import Beat, Beats, End
from pretrain.watch.processes import ProcessId
from tests.end_to_end.runs import free_port

INTERVAL = 0.05


def beat(rank: int, number: int = 1) -> Beat:
    return Beat(
        rank, "node/1", ProcessId(10 + rank, 3), number, Doing(2, 5, "saving"), 0.25, "run.py:3", False
    )


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def beats_of(rank: int, connect: Callable[[], Any], ranks: int = 2) -> Beats:
    return Beats(connect, rank, range(ranks), ranks, INTERVAL, time.monotonic)


def test_beats_reach_the_others_and_the_first_end_holds() -> None:
    port = free_port()

    def connect(keeps: bool = False) -> dist.TCPStore:
        return dist.TCPStore(
            "127.0.0.1", port, None, keeps, timedelta(seconds=3), wait_for_workers=False, multi_tenant=True
        )

    keeper = connect(keeps=True)
    one, two = beats_of(0, connect), beats_of(1, connect)
    assert one.last_of(1) is None
    assert one.silence(1) == float("inf")
    one.own = beat(0)
    wait_for(lambda: two.last_of(0))
    assert two.last_of(0) == beat(0)
    wait_for(lambda: two.silence(0) > 4 * INTERVAL)  # the same beat again is no sign of life
    one.own = beat(0, number=2)
    wait_for(lambda: two.silence(0) < 4 * INTERVAL)
    assert two.read_all(5.0)

    first, second = End(1, 75, "one", True), End(0, 1, "two", True)
    assert two.claim(first, 5.0) == first
    assert one.claim(second, 5.0) == first
    wait_for(lambda: one.end == two.end == first)
    for each in (one, two):
        each.close()
    del keeper


def test_who_was_introduced_is_known_before_a_beat_comes_in_and_silent_from_then_on() -> None:
    store = dist.HashStore()
    beats = beats_of(0, lambda: store)
    beats.know([beat(0), beat(1)])
    assert (beats.last_of(0), beats.last_of(1)) == (None, beat(1))
    wait_for(lambda: 4 * INTERVAL < beats.silence(1) < 20)
    store.set("beat/1", json.dumps(asdict(beat(1, number=2))))
    wait_for(lambda: beats.last_of(1) == beat(1, number=2))
    beats.know([beat(1)])  # is no news then
    assert beats.last_of(1) == beat(1, number=2)
    beats.close()


def test_a_store_that_is_gone_is_noticed_and_never_waited_for() -> None:
    store: list[Any] = [dist.HashStore()]

    def connect() -> Any:
        if not store:
            raise RuntimeError("nobody is there")
        return Breaking(store)

    beats = beats_of(0, connect)
    assert beats.seconds_without_contact is None or beats.seconds_without_contact < 1
    wait_for(lambda: beats.seconds_without_contact is not None)
    store.clear()
    wait_for(lambda: (beats.seconds_without_contact or 0) > 4 * INTERVAL)
    began = time.monotonic()
    assert beats.claim(End(0, 1, "gone", True), 0.3) is None
    assert not beats.read_all(0.3)
    assert time.monotonic() - began < 2
    beats.close()


class Breaking:
    """A store until its list is empty."""

    def __init__(self, store: list[Any]) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        if not self._store:
            raise RuntimeError("Connection was closed")
        return getattr(self._store[0], name)
