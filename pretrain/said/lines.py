"""A line of a rank's file: its time in UTC to the millisecond, a space, and the text without control characters."""

import re
from datetime import UTC, datetime

_STAMP_CHARACTERS = len("2026-01-02T03:04:05.678Z")
# Escape sequences of terminals (ECMA-48), and all other control characters but the tab.
_CONTROLS = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])|[\x00-\x08\x0a-\x1f\x7f-\x9f]"
)

_TIMES = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[ T][0-9]{2}:[0-9]{2}:[0-9]{2}(?:[.,][0-9]+)?")


def without_controls(text: str) -> str:
    """Colours and movements of the cursor mean nothing in a file, and much in the terminal of who reads it."""
    return _CONTROLS.sub("", text).rstrip()


def stamped(text: str, at: datetime | None = None) -> str:
    """Said at this time, or now."""
    time = (at or datetime.now(UTC)).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return f"{time} {text}"


def without_times(text: str) -> str:
    """What a line says beside the time that a logger has put into it."""
    return _TIMES.sub("", text)


def parsed(line: str) -> tuple[datetime, str] | None:
    """When, and what; None where the line has no time."""
    stamp, text = line[:_STAMP_CHARACTERS], line[_STAMP_CHARACTERS + 1 :]
    if len(stamp) < _STAMP_CHARACTERS or not stamp.endswith("Z"):
        return None
    try:
        return datetime.fromisoformat(stamp), text
    except ValueError:
        return None
