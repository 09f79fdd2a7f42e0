"""What a check has found, and the same finding of many ranks as one line."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

Verdict = Literal["ok", "warning", "failed"]
MAX_NAMED = 4  # machines or other names in one line


@dataclass(frozen=True)
class Finding:
    """`found`: expected and actual, in a sentence. `remedy`: what to do; empty where `found` ends with it.

    `is_damage`: a store or a checkpoint failed verification, which has an exit code of its own.
    """

    verdict: Verdict
    found: str
    remedy: str = ""
    is_damage: bool = False


def ok(found: str) -> Finding:
    """All is as it should be."""
    return Finding("ok", found)


def warning(found: str, remedy: str) -> Finding:
    """A run can begin, and may not go as it should."""
    return Finding("warning", found, remedy)


def failed(found: str, remedy: str = "", is_damage: bool = False) -> Finding:
    """A run cannot begin, or not come to its end."""
    return Finding("failed", found, remedy, is_damage)


@dataclass(frozen=True)
class Located:
    """A finding of one rank."""

    section: str
    check: str
    rank: int
    node: str
    finding: Finding


@dataclass(frozen=True)
class Line:
    """A finding of the ranks that share it. `others`: ranks that are as well off, by other figures."""

    section: str
    check: str
    finding: Finding
    ranks: tuple[int, ...]
    nodes: tuple[str, ...]
    others: int = 0

    def who(self, world_size: int) -> str:
        """ "ranks 0-3 on n1, n2"; empty in a world of one."""
        if world_size == 1:
            return ""
        nodes = ", ".join(self.nodes) if len(self.nodes) <= MAX_NAMED else f"{len(self.nodes)} machines"
        return f"{named_ranks(self.ranks)} on {nodes}"


def folded(located: Iterable[Located], sections: Sequence[str]) -> list[Line]:
    """By section, check and rank: equal findings in one line, and all that is well of a check, whatever its figures."""
    order = {section: number for number, section in enumerate(sections)}
    lines = []
    in_order = sorted(located, key=lambda each: order[each.section])
    for section, of_section in groupby(in_order, key=lambda each: each.section):
        of_checks: dict[str, list[Located]] = {}
        for each in of_section:
            of_checks.setdefault(each.check, []).append(each)
        for check, found in of_checks.items():
            lines += _lines(section, check, sorted(found, key=lambda each: each.rank))
    return lines


def _lines(section: str, check: str, found: list[Located]) -> list[Line]:
    groups: dict[Finding, list[Located]] = {}
    for each in found:
        groups.setdefault(each.finding, []).append(each)
    well = [finding for finding in groups if finding.verdict == "ok"]
    lines = []
    for finding, members in groups.items():
        if finding in well[1:]:
            continue
        others = sum(len(groups[each]) for each in well[1:]) if finding in well else 0
        ranks = tuple(dict.fromkeys(each.rank for each in members))
        nodes = tuple(dict.fromkeys(each.node for each in members))
        lines.append(Line(section, check, finding, ranks, nodes, others))
    return lines


def named_ranks(ranks: Iterable[int]) -> str:
    """ "rank 3"; "ranks 0-3, 5"."""
    numbers = sorted(ranks)
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]
    return f"rank{'s' * (len(numbers) > 1)} {', '.join(parts)}"
