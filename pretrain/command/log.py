"""`python -m pretrain log RUN`: what all ranks of a run have said, as one log."""

import argparse
import re
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

from pretrain.command.line import Command
from pretrain.errors import UsageError
from pretrain.run_folder import RunFolder
from pretrain.said.merge import Log, files_of, lines_of

_UNITS = ("days", "hours", "minutes", "seconds")
_AGO = re.compile("".join(rf"(?:(?P<{unit}>[0-9]{{1,9}}){unit[0]})?" for unit in _UNITS))
_CLOCK = re.compile(r"[0-9]{2}:[0-9]{2}(:[0-9]{2})?")


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", metavar="RUN", type=Path, help="the folder of the run, which may be going on"
    )
    parser.add_argument(
        "--rank", metavar="N", type=int, action="append", help="of this rank alone; several times"
    )
    parser.add_argument(
        "--since",
        metavar="TIME",
        help="from then on: 90s, 10m, 1h30m or 2d ago, the last 21:46 or 21:46:31 (UTC), or a date as 2026-01-31T12:00",
    )


def _run(arguments: argparse.Namespace) -> None:
    """Raises UsageError where there is no such log, DataError for what is no file."""
    folder = RunFolder(arguments.folder).logs
    files = files_of(folder)
    if not files:
        raise UsageError(f"{folder} holds no rank's log: give the folder of a run that has begun.")
    if arguments.rank is not None:
        missing = [rank for rank in arguments.rank if rank not in files]
        if missing:
            raise UsageError(
                f"--rank {missing[0]}: {folder} has logs of {len(files)} rank(s), up to {max(files)}."
            )
        files = {rank: files[rank] for rank in sorted(set(arguments.rank))}
    since = None if arguments.since is None else since_of(arguments.since, datetime.now(UTC))
    for line in Log().printed(lines_of(files, since)):
        print(line)


def since_of(said: str, now: datetime) -> datetime:
    """Raises UsageError for what is no time."""
    ago = _AGO.fullmatch(said) if said else None
    try:
        if ago is not None:
            return now - timedelta(**{unit: int(count or 0) for unit, count in ago.groupdict().items()})
        if _CLOCK.fullmatch(said):
            today = datetime.combine(now.date(), time.fromisoformat(said), UTC)
            return today if today <= now else today - timedelta(days=1)
        found = datetime.fromisoformat(said)
    except (ValueError, OverflowError):
        raise UsageError(
            f"--since is {said!r}; expected 90s, 10m, 1h30m or 2d ago, a time of UTC as 21:46 or 21:46:31, or a date "
            "as 2026-01-31T12:00."
        ) from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found


COMMAND = Command(
    name="log",
    summary="what all ranks of a run have said as one log, merged by time, with repeated lines folded",
    add_arguments=_add_arguments,
    run=_run,
)
