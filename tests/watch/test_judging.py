"""Whom everybody is waiting for: cases made by hand."""

from typing import Any

import pytest

from pretrain.watch.activity import Doing
from pretrain.watch.beats import Beat
from pretrain.watch.judging import Peer, anyone_moves, judge, sentence
from pretrain.watch.processes import ProcessId

SILENT_AFTER = 4.0


def peer(rank: int, state: str | None = "S", silence: float = 0.5, **changes: Any) -> Peer:
    """A rank of three that waits for the others in step 7."""
    if rank == 0 and "own" not in changes:
        silence = 0.0
    changes.pop("own", None)
    settings: dict[str, Any] = {
        "rank": rank,
        "machine": "node-a/4026531836",
        "process": ProcessId(100 + rank, 5),
        "number": 9,
        "doing": Doing(40, 7, "adding up losses"),
        "still": 30.0,
        "where": "distributed_c10d.py:9",
        "exchanging": True,
    }
    return Peer(rank, Beat(**(settings | changes)), silence, state)


WAITING = [peer(0), peer(1), peer(2)]
DATA = Doing(37, 7, "waiting for data")
BUSY: dict[str, Any] = {"exchanging": False, "where": "loop.py:5"}


@pytest.mark.parametrize(
    ("peers", "in_contact", "kind", "ranks"),
    [
        (WAITING, True, "unknown", []),
        ([peer(0), peer(1, "Z"), peer(2)], True, "gone", [1]),
        ([peer(0), peer(1, "gone"), peer(2, "Z")], False, "gone", [1, 2]),
        ([peer(0), peer(1, "T"), peer(2, doing=DATA)], True, "stopped", [1]),
        ([peer(0, "T", 9.0, own=False), peer(1), peer(2)], False, "stopped", [0]),
        ([peer(0, None, 9.0, own=False), peer(1, None, 9.0), peer(2)], False, "unreachable", [0]),
        ([peer(0), peer(1, None, 9.0), peer(2)], True, "silent", [1]),
        ([peer(0), Peer(1, None, float("inf")), peer(2)], True, "missing", [1]),
        ([peer(0), peer(1), peer(2, doing=DATA, **BUSY)], True, "behind", [2]),
        ([peer(0), peer(1, **BUSY), peer(2)], True, "busy", [1]),
        ([peer(0, **BUSY), peer(1, **BUSY), peer(2, **BUSY)], True, "unknown", []),
        ([peer(0, **BUSY)], True, "busy", [0]),
    ],
)
def test_the_culprit(peers: list[Peer], in_contact: bool, kind: str, ranks: list[int]) -> None:
    verdict = judge(peers, in_contact=in_contact, silent_after=SILENT_AFTER)
    assert (verdict.kind, [each.rank for each in verdict.culprits]) == (kind, ranks)


@pytest.mark.parametrize(
    ("one", "moves"),
    [
        (peer(1), False),
        (peer(1, still=2.0), True),
        (peer(1, still=9.6), False),  # half a second ago it had stood still for 9.6
        (peer(1, silence=9.0, still=0.0), False),  # whatever it did then, nobody knows that it lives
    ],
)
def test_somebody_gets_on(one: Peer, moves: bool) -> None:
    assert anyone_moves([peer(0), one, peer(2)], limit=10.0, silent_after=SILENT_AFTER) == moves


def test_what_is_said() -> None:
    own = peer(0).beat
    assert own is not None
    behind = judge(
        [peer(0), peer(1, doing=DATA, **BUSY), peer(2)], in_contact=True, silent_after=SILENT_AFTER
    )
    assert sentence(behind, own, 30.4, "runs/x/stacks/rank-00001.txt") == (
        "Rank 1 (process 101 on node-a) holds up the others in step 7, for 30 s, last seen waiting for data "
        "(loop.py:5); the stacks of its threads are in runs/x/stacks/rank-00001.txt."
    )
    dead = judge([peer(0), *(peer(each, "gone") for each in range(1, 12))], in_contact=True, silent_after=1)
    assert sentence(dead, own, 1.0, None) == (
        "Rank 1 (process 101 on node-a) is gone in step 7: it was killed or crashed, last seen adding up losses "
        "(distributed_c10d.py:9). Likewise rank 2, 3, 4, 5, 6, 7, 8, 9, ...."
    )
    early = peer(0, doing=Doing(3, None, "building model and engine")).beat
    assert early is not None
    missing = judge([peer(0), Peer(1, None, float("inf"))], in_contact=True, silent_after=SILENT_AFTER)
    assert sentence(missing, early, 1800.0, None) == (
        "Rank 1 has not joined the others, who have waited for 1800 s before the first step."
    )
