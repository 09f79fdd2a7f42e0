"""Which rank everybody is waiting for, from what is known of all.

The first of these that holds: it is gone; it is stopped, or gives no sign of life while others do; it keeps the store
and cannot be reached; it is behind the others; it is not in an exchange while others are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pretrain.watch.beats import Beat

Kind = Literal["gone", "stopped", "silent", "unreachable", "missing", "behind", "busy", "unknown"]
_MAX_NAMED = 8


@dataclass(frozen=True)
class Peer:
    """What this process knows of a rank: its last beat, since when there was no new one, and its state by proc(5)
    where it is a process of this machine."""

    rank: int
    beat: Beat | None
    silence: float  # seconds; 0 of this process itself
    state: str | None = None


@dataclass(frozen=True)
class Verdict:
    """Who, and what is wrong with them; nobody where no rank differs from the others."""

    kind: Kind
    culprits: Sequence[Peer]


def gone(peers: Sequence[Peer]) -> list[Peer]:
    """Processes of this machine that have ended without a word."""
    return [peer for peer in peers if peer.state in ("gone", "Z", "X", "x")]


def judge(peers: Sequence[Peer], *, in_contact: bool, silent_after: float) -> Verdict:
    """`peers`: all ranks, this process among them. `silent_after`: seconds without a beat that say something is wrong.
    Without contact to the store, the beats are old and say nothing of who is behind."""
    if found := gone(peers):
        return Verdict("gone", found)
    if found := [peer for peer in peers if peer.state in ("T", "t")]:
        return Verdict("stopped", found)
    if not in_contact:
        keeper = [peer for peer in peers if peer.rank == 0 and peer.silence > 0]
        return Verdict("unreachable" if keeper else "unknown", keeper)
    if found := [peer for peer in peers if peer.beat is None]:
        return Verdict("missing", found)
    if found := [peer for peer in peers if peer.silence > silent_after]:
        return Verdict("silent", found)
    turns = {peer.beat.doing.turn for peer in peers if peer.beat is not None}
    if len(turns) > 1:
        behind = [peer for peer in peers if peer.beat is not None and peer.beat.doing.turn == min(turns)]
        return Verdict("behind", behind)
    busy = [peer for peer in peers if peer.beat is not None and not peer.beat.exchanging]
    if 0 < len(busy) < len(peers) or len(peers) == 1:
        return Verdict("busy", busy)
    return Verdict("unknown", [])


def anyone_moves(peers: Sequence[Peer], limit: float, silent_after: float) -> bool:
    """Whether a rank that is alive has done something new within `limit` seconds."""
    return any(
        peer.beat is not None and peer.silence <= silent_after and peer.beat.still + peer.silence < limit
        for peer in peers
    )


def sentence(verdict: Verdict, own: Beat, seconds: float, stacks: str | None) -> str:
    """What is said to the user: rank, host, process, step, what it was doing and since when."""
    when = "before the first step" if own.doing.step is None else f"in step {own.doing.step}"
    threads = "" if stacks is None else f"; the stacks of its threads are in {stacks}"
    waited = f"{seconds:.0f} s"
    if not verdict.culprits:
        return (
            f"No rank has moved for {waited} {when}, and none differs from the others: rank {own.rank} on "
            f"{own.host} is at {own.where} ({own.doing.what}){threads}."
        )
    first, *more = verdict.culprits
    said = {
        "gone": f"is gone {when}: it was killed or crashed{_last_seen(first, own)}",
        "stopped": f"is stopped {when} and was ended; the others have waited for {waited}{_last_seen(first, own)}",
        "silent": f"gives no sign of life {when}; the others have waited for {waited}{_last_seen(first, own)}",
        "unreachable": f"cannot be reached {when}: its machine or the link to it is down{_last_seen(first, own)}",
        "missing": f"has not joined the others, who have waited for {waited} {when}",
        "behind": f"holds up the others {when}, for {waited}{_last_seen(first, own)}{threads}",
        "busy": f"has done nothing new {when} for {waited}{_last_seen(first, own)}{threads}",
    }[verdict.kind]
    return f"{_name(first)} {said}.{_also(more)}"


def _name(peer: Peer) -> str:
    if peer.beat is None:
        return f"Rank {peer.rank}"
    return f"Rank {peer.rank} (process {peer.beat.process.pid} on {peer.beat.host})"


def _last_seen(peer: Peer, own: Beat) -> str:
    """What it was doing when it last gave a sign of life."""
    beat = peer.beat
    if beat is None:
        return ""
    what = beat.doing.what if beat.doing.step == own.doing.step else beat.doing.text
    return f", last seen {what} ({beat.where})"


def _also(more: Sequence[Peer]) -> str:
    if not more:
        return ""
    names = ", ".join(str(peer.rank) for peer in more[:_MAX_NAMED])
    return f" Likewise rank {names}{', ...' * (len(more) > _MAX_NAMED)}."
