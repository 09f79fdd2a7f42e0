"""How fast a run is: as somebody says, or as a finished run was."""

import json
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from statistics import median
from typing import Any

from pretrain.errors import DataError, UsageError
from pretrain.files import json_object, read_bounded
from pretrain.run_folder import RunFolder

_MAX_CONFIG_BYTES = 1 << 26
# The first steps of a start also load, compile and warm up.
_FIRST_STEPS = 3


@dataclass(frozen=True)
class Rate:
    """Real tokens per second over all ranks, where the figure is from, and of how many ranks and rows of a step, if it
    is known."""

    tokens_per_second: float
    origin: str
    ranks: int | None = None
    rows: int | None = None


def measured_rate(path: Path) -> Rate:
    """The median over the steps in a run's metrics.jsonl, but for the first three if there are more, that had as many
    rows as its last step. A last line without an end is being written, and left out.

    Raises UsageError where nothing is there, DataError where it is no list of steps.
    """
    folder = RunFolder(path)
    if not folder.metrics.is_file():
        raise UsageError(f"--run {path} has no metrics.jsonl: name the folder of a run that has taken steps.")
    steps = []
    with folder.metrics.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                steps.append(_step(json.loads(line)))
            except (ValueError, KeyError, TypeError):
                raise DataError(
                    f"{folder.metrics}, line {number} is no record of a step with its tokens_per_second: remove that "
                    "line, or say the rate by --tokens-per-second."
                ) from None
    if not steps:
        raise UsageError(f"--run {path} has taken no step yet: name another run, or say --tokens-per-second.")
    _, rows = steps[-1]
    measured = [tokens for tokens, its_rows in steps[_FIRST_STEPS:] or steps if its_rows == rows]
    about, ranks = _about(folder.config)
    return Rate(median(measured), f"median of {len(measured)} steps of {path}{about}", ranks, rows)


def _step(record: Any) -> tuple[float, int | None]:
    """Tokens per second, and rows. Raises ValueError, KeyError and TypeError."""
    tokens, rows = float(record["tokens_per_second"]), record.get("global_batch")
    if not (isfinite(tokens) and tokens > 0):
        raise ValueError(f"tokens_per_second is {tokens:g}")
    return tokens, None if rows is None else int(rows)


def _about(config: Path) -> tuple[str, int | None]:
    """Engine and ranks of that run, where its config.json says them: a rate holds for its own."""
    try:
        run: Any = json_object(read_bounded(config, _MAX_CONFIG_BYTES)).get("run")
        said = f" ({run['ranks']} ranks, {run['backend']} stage {run['stage']}, {run['precision']})"
        return said, max(1, int(run["ranks"]))
    except (OSError, ValueError, DataError, KeyError, TypeError):  # it is for people, and may be gone
        return "", None
