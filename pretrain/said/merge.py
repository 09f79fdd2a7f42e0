"""The files of all ranks as one log.

1. each file is read as a stream, in pieces, and is not kept open: there may be thousands;
2. the streams are merged by time, each in its own order whatever the clock of its machine did;
3. the same line of many ranks within some seconds is one line with all of them; said again by them soon after, it is
   counted, and the count is said when it has ended.
"""

import re
import stat
from collections import Counter, OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from heapq import merge
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from pretrain.errors import DataError
from pretrain.files import kind_problem
from pretrain.said.lines import parsed, without_controls, without_times

SAME_LINE = timedelta(seconds=5)  # between the first and the last rank that says it
SAID_AGAIN = timedelta(seconds=30)
MAX_LINE_BYTES = 1 << 20
_PIECE_BYTES = 1 << 15  # of each of thousands of files
_MOST_RANGES = 6  # of ranks before a line
_QUOTED_CHARACTERS = 60
_NAME = re.compile(r"rank-([0-9]{1,9})\.log")
_LAST = datetime.max.replace(tzinfo=UTC)


class Line(NamedTuple):
    """What a rank has said."""

    at: datetime
    rank: int
    text: str


def files_of(folder: Path) -> dict[int, Path]:
    """By rank, in order. Raises DataError for what is no file."""
    found = {}
    for path in folder.glob("rank-*.log"):
        name = _NAME.fullmatch(path.name)
        if name is not None:
            problem = kind_problem(str(path), stat.S_ISREG, "regular file")
            if problem is not None:
                raise DataError(problem)
            found[int(name[1])] = path
    return dict(sorted(found.items()))


def lines_of(files: dict[int, Path], since: datetime | None = None) -> Iterator[Line]:
    """Of all these files, by time."""
    streams = [_read(path, rank) for rank, path in files.items()]
    for line in merge(*streams, key=lambda line: (line.at, line.rank)):
        if since is None or line.at >= since:
            yield line


def _read(path: Path, rank: int) -> Iterator[Line]:
    """A line without a time is of the time of the one before; a last one without an end was cut by a kill."""
    at: datetime | None = None
    for raw in _raw_lines(path):
        text = raw.decode("utf-8", errors="replace")
        found = parsed(text.rstrip("\n"))
        if found is not None:
            # A clock that was set back: what was said later stays later.
            at, text = found[0] if at is None else max(at, found[0]), found[1]
        if at is not None:
            is_cut = not raw.endswith(b"\n")
            yield Line(at, rank, without_controls(text) + " (cut short)" * is_cut)


def _raw_lines(path: Path) -> Iterator[bytes]:
    offset = 0
    while True:
        with open(path, "rb") as file:
            file.seek(offset)
            piece = []
            while file.tell() - offset < _PIECE_BYTES and (line := file.readline(MAX_LINE_BYTES)):
                piece.append(line)
        if not piece:
            return
        offset += sum(map(len, piece))
        yield from piece


@dataclass
class _Group:
    """One line, the ranks that have said it, and how often each."""

    text: str
    first: datetime
    last: datetime
    counts: Counter[int] = field(default_factory=Counter)

    def takes(self, line: Line) -> bool:
        joins = line.rank in self.counts or line.at - self.first <= SAME_LINE
        return joins and line.at - self.last <= SAID_AGAIN


class Log:
    """Lines as they are printed: a line of each day, then the time, the ranks and what they have said."""

    def __init__(self) -> None:
        self._groups: dict[str, list[_Group]] = {}  # by what they say beside a time
        self._unsaid: deque[_Group] = deque()  # by the time of their first line
        self._open: OrderedDict[int, _Group] = OrderedDict()  # by the time of their last line
        self._day = ""
        self._said: _Group | None = None

    def printed(self, lines: Iterable[Line]) -> Iterator[str]:
        """All of them, `lines` by time."""
        for line in lines:
            yield from self._due(line.at)
            self._take(line)
        yield from self._due(_LAST)

    def _take(self, line: Line) -> None:
        groups = self._groups.setdefault(without_times(line.text), [])
        group = next((each for each in groups if each.takes(line)), None)
        if group is None:
            group = _Group(line.text, line.at, line.at)
            groups.append(group)
            self._unsaid.append(group)
        group.counts[line.rank] += 1
        group.last = line.at
        self._open[id(group)] = group
        self._open.move_to_end(id(group))

    def _due(self, now: datetime) -> Iterator[str]:
        """What can have no more ranks, or no more repetitions, at this time."""
        while self._open:
            oldest = next(iter(self._open.values()))
            ended = oldest.last + SAID_AGAIN
            if self._unsaid and self._unsaid[0].first + SAME_LINE <= ended:
                if self._unsaid[0].first + SAME_LINE >= now:
                    return
                yield from self._head(self._unsaid.popleft())
            elif ended < now:
                yield from self._tail(oldest)
            else:
                return

    def _head(self, group: _Group) -> Iterator[str]:
        day = group.first.strftime("%Y-%m-%d")
        if day != self._day:
            self._day = day
            yield f"--- {day} (UTC) ---"
        self._said = group
        yield f"{group.first:%H:%M:%S} {marked(sorted(group.counts))} {group.text}"

    def _tail(self, group: _Group) -> Iterator[str]:
        del self._open[id(group)]
        key = without_times(group.text)
        self._groups[key].remove(group)
        if not self._groups[key]:
            del self._groups[key]
        more = max(group.counts.values()) - 1
        if more:
            # Where something else was said in between: which line this is about.
            quoted = "" if self._said is group else f": {group.text[:_QUOTED_CHARACTERS]}"
            said = f"... {more:,} time{'s' * (more > 1)} more until {group.last:%H:%M:%S}{quoted}"
            self._said = None
            yield f"{' ' * 8} {marked(sorted(group.counts))} {said}"


def marked(ranks: Sequence[int]) -> str:
    """[rank 3], [ranks 0-511], [ranks 0-3, 7]; `ranks` ascending."""
    ranges = []
    for _, run in groupby(enumerate(ranks), key=lambda pair: pair[1] - pair[0]):
        each = [rank for _, rank in run]
        ranges.append(str(each[0]) if len(each) == 1 else f"{each[0]}-{each[-1]}")
    more = ", ..." if len(ranges) > _MOST_RANGES else ""
    count = f"{len(ranks):,} " if more else ""
    return f"[{count}rank{'s' * (len(ranks) > 1)} {', '.join(ranges[:_MOST_RANGES])}{more}]"
