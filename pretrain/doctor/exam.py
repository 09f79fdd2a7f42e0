"""All checks in order, each with its limit: what one process sees, what ranks see together, and who was not heard.

1. This process takes its place, and the ranks meet; without a meeting each goes on alone.
2. They introduce themselves and look together: versions, places, names, clocks, the folder, stores, the exchange.
3. Each looks at what is its own; one rank of each machine at what is the machine's; rank 0 at what is the run's.
4. Rank 0 collects what all have found, waiting as long as they get on.
"""

import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pretrain.doctor import (
    beginning,
    folder,
    launcher,
    links,
    machine,
    network,
    slurm,
    stores,
    together,
    versions,
)
from pretrain.doctor.finding import Finding, Line, Located, failed, folded, ok, warning
from pretrain.doctor.here import Here
from pretrain.doctor.limits import Late, within
from pretrain.doctor.meeting import (
    COMING_LIMITS,
    TELLING_SECONDS,
    Meeting,
    Unheard,
    absent_ranks,
    open_meeting,
)
from pretrain.doctor.together import Who
from pretrain.errors import DataError, PretrainError
from pretrain.said.quiet import quiet_libraries

SECTIONS = (
    "versions",
    "device",
    "launcher",
    "network",
    "exchange",
    "output folder",
    "store",
    "beginning",
    "SLURM",
)
Scope = Literal["rank", "node", "first"]


@dataclass(frozen=True)
class Check:
    """What one process looks at, in `--seconds`, or `at_least` where it computes; None: as long as it needs."""

    section: str
    name: str
    scope: Scope
    look: Callable[[Here], Iterable[Finding]]
    at_least: float | None = 0.0


# Importing an engine and planning take seconds on a quick machine.
_COMPUTING_SECONDS = 120.0
# In this order: what others need comes first, so that they can say that it is not there, and the plan is made once.
CHECKS = (
    Check("store", "files", "node", stores.check_store),
    Check("launcher", "batch", "first", launcher.check_batch),
    Check("device", "precision", "rank", machine.check_precision),
    Check("store", "model", "first", stores.check_model),
    Check("store", "tokenizer", "node", stores.check_tokenizer),
    Check("versions", "ranges", "node", lambda here: versions.check_ranges(versions.asked_for())),
    Check(
        "versions", "agreement", "node", lambda here: versions.check_agreement(versions.asked_for().packages)
    ),
    Check("versions", "engine", "node", machine.check_engine, _COMPUTING_SECONDS),
    Check("device", "device", "rank", machine.check_device),
    Check("device", "compiler", "node", machine.check_compiler),
    Check("device", "memory", "node", machine.check_memory, _COMPUTING_SECONDS),
    Check("device", "shared memory", "node", machine.check_shared_memory),
    Check("device", "open files", "node", machine.check_open_files),
    Check("device", "cores", "node", launcher.check_threads),
    Check("launcher", "variables", "rank", launcher.check_variables),
    Check(
        *("network", "interfaces", "rank"),
        lambda here: network.check_interfaces(here.variables, network.interfaces_here()),
    ),
    Check("output folder", "lock", "first", folder.check_lock),
    Check("output folder", "writing", "node", folder.check_writable),
    Check("output folder", "room", "first", folder.check_room),
    Check("beginning", "checkpoint", "first", beginning.check_checkpoint, _COMPUTING_SECONDS),
    Check("SLURM", "job", "first", lambda here: slurm.check_job(here.variables, here.seconds)),
)
LAST_CHECK = Check("store", "checksums", "first", stores.check_checksums, None)


@dataclass(frozen=True)
class Exam:
    """What came of it. `speaks`: whether this process says it. `was_heard`: whether rank 0 has what it found."""

    lines: tuple[Line, ...]
    ranks: int
    speaks: bool
    was_heard: bool

    def count(self, verdict: str) -> int:
        return sum(line.finding.verdict == verdict for line in self.lines)

    @property
    def exit_code(self) -> int:
        """3 where nothing but stores or checkpoints has failed, by damage."""
        wrong = [line.finding for line in self.lines if line.finding.verdict == "failed"]
        if not wrong:
            return 0
        return (DataError if all(each.is_damage for each in wrong) else PretrainError).exit_code


def examine(here: Here, checks: Sequence[Check] = CHECKS) -> Exam:
    """Everything; on rank 0 with what the others have found. Ends, whoever gives no answer."""
    found: list[Located] = []
    meeting: Meeting | None = None
    lost: Unheard | None = None

    def note(section: str, check: str, findings: Iterable[Finding]) -> None:
        found.extend(Located(section, check, here.rank, here.node, each) for each in findings)

    try:
        with quiet_libraries():
            meeting = within(_longest_wait(here), lambda: open_meeting(here))
            _look_together(here, meeting, note)
    except Late:
        meeting, lost = None, Unheard(_NO_MEETING)
    except Unheard as error:
        meeting, lost = None, error
    except RuntimeError as error:  # torch's, where rank 0 has gone
        meeting, lost = None, Unheard(str(error).splitlines()[0])
    if lost is not None and here.place is not None:
        note("network", "meeting", [failed(str(lost), lost.remedy)])
    for number, check in enumerate(checks):
        if _is_for(here, check):
            known = [each.finding.found for each in found if each.finding.verdict == "failed"]
            note(check.section, check.name, look(here, check, known))
        if meeting is not None:
            meeting = _reported(here, meeting, "progress", number)
    is_first = here.place is None or here.place.is_first
    if not is_first:
        if meeting is not None:
            meeting = _reported(here, meeting, "findings", [asdict(each) for each in found])
        return Exam(_lines(found), here.ranks, meeting is None, meeting is not None)
    if meeting is not None and here.ranks > 1:
        found += _from_others(here, meeting)
    note(LAST_CHECK.section, LAST_CHECK.name, look(here, LAST_CHECK))
    return Exam(_lines(found), here.ranks, True, True)


_NO_MEETING = (
    "whoever listens at MASTER_ADDR:MASTER_PORT gave no answer; expected rank 0, with a store of torch"
)


def _is_for(here: Here, check: Check) -> bool:
    if check.scope == "first":
        return here.place is None or here.place.is_first
    return check.scope == "rank" or here.speaks_for_node


def look(here: Here, check: Check, known: Sequence[str] = ()) -> list[Finding]:
    """What a check finds in its time; where it cannot be made, that. `known`: what is wrong by earlier checks."""
    seconds = max(here.seconds, check.at_least or 0.0)
    try:
        if check.at_least is None:
            return list(check.look(here))
        return within(seconds, lambda: list(check.look(here)))
    except Late:
        return [
            failed(
                f"no answer in {seconds:g} s", "see whether a disk or a service hangs, or give more --seconds"
            )
        ]
    except PretrainError as error:
        reason = "something else has failed" if str(error) in known else str(error)
        return [warning(f"not looked at: {reason}", "mend that first")]
    except Exception as error:  # one check never stops the others
        return [
            failed(f"cannot be looked at: {type(error).__name__}: {error}", "see what is said, and mend it")
        ]


def _look_together(here: Here, meeting: Meeting, note: Callable[[str, str, Iterable[Finding]], None]) -> None:
    """Raises Unheard or Late where this rank falls out of it."""
    place, limit = here.place, _longest_wait(here)
    assert place is not None
    who = Who(here.node, socket.gethostname(), place.local_rank, place.local_world_size)

    def answer(question: Callable[[], Any]) -> Any:
        return within(limit, question)

    answer(meeting.come_alone)
    whos = together.introductions(
        answer(lambda: meeting.gather("coming", asdict(who), COMING_LIMITS * here.seconds))
    )
    own, nodes = together.own_versions(), together.nodes_of(whos.values())
    shared: tuple[tuple[str, str, Callable[[], Iterable[Finding]]], ...] = (
        ("versions", "everywhere", lambda: together.compare_versions(here, meeting, own)),
        ("network", "clocks", lambda: together.compare_clocks(here, meeting)),
        ("output folder", "shared", lambda: together.compare_folders(here, meeting)),
        ("store", "everywhere", lambda: together.compare_stores(here, meeting)),
        ("exchange", "all-reduce", lambda: links.measure_exchange(here, meeting, _nodes(whos))),
    )
    if here.speaks_for_node and here.ranks > 1:
        note("network", "own name", answer(lambda: list(network.check_own_name(here, nodes))))
        note("network", "names", answer(lambda: together.resolve_names(whos)))
    for section, check, action in shared:
        findings = list(answer(action))
        # What is compared is the same on every rank: one says it.
        if place.is_first or section in ("output folder", "exchange"):
            note(section, check, findings)
    if place.is_first and here.ranks > 1 and meeting.is_complete:
        note("launcher", "places", together.compare_places(whos))


def _longest_wait(here: Here) -> float:
    """Of what waits with a limit of its own; longer where it hangs."""
    return (COMING_LIMITS + 3) * here.seconds + TELLING_SECONDS


def _nodes(whos: dict[int, Who]) -> dict[int, str]:
    return {rank: who.node for rank, who in whos.items()}


def _reported(here: Here, meeting: Meeting, what: str, value: Any) -> Meeting | None:
    """None where rank 0 cannot be told any more."""
    try:
        within(here.seconds, lambda: meeting.put_own(what, value))
    except Exception:
        return None
    return meeting


def _from_others(here: Here, meeting: Meeting) -> Iterator[Located]:
    """What the other ranks have found, and who has not been heard."""
    longest = max(check.at_least or 0.0 for check in CHECKS) + COMING_LIMITS * here.seconds
    for findings in meeting.others("findings", "progress", longest).values():
        for each in findings:
            yield Located(**{**each, "finding": Finding(**each["finding"])})
    if meeting.absent:
        missing = absent_ranks(sorted(meeting.absent), meeting.absent)
        finding = failed(
            f"{missing} gave no answer in {here.seconds:g} s ({COMING_LIMITS * here.seconds:g} s for coming)",
            "see what these ranks say themselves, and whether their machines run",
        )
    else:
        finding = ok(f"all {here.ranks} rank(s) have come and answered")
    yield Located("network", "meeting", here.rank, here.node, finding)


def _lines(found: Iterable[Located]) -> tuple[Line, ...]:
    return tuple(folded(found, SECTIONS))
