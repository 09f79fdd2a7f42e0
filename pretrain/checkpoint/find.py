"""Which checkpoint is meant: the one that `latest` names, or what else lies there.

Only folders named step-<number> count; whatever else lies there, unfinished folders among it, is nobody's checkpoint.
"""

import re
from pathlib import Path

from pretrain.checkpoint.manifest import BEST_NAME, LATEST_NAME, MANIFEST_NAME
from pretrain.errors import DataError, UsageError
from pretrain.files import read_bounded

_STEP_NAME = re.compile(r"step-[0-9]+")
_MAX_NAME_BYTES = 255


def saved_checkpoints(checkpoints: Path) -> list[Path]:
    """All checkpoints that have got their name, newest step first."""
    found = [path for path in checkpoints.glob("step-*") if _STEP_NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=step_of, reverse=True)


def step_name(step: int) -> str:
    """The name of a checkpoint's folder."""
    return f"step-{step:08d}"


def step_of(checkpoint: Path) -> int:
    """The step that the folder's name says; -1 where it says none."""
    found = re.search(r"step-([0-9]+)", checkpoint.name)
    return -1 if found is None else int(found[1])


def find_checkpoint(checkpoints: Path) -> Path | None:
    """The checkpoint that `latest` names, or None where nothing was ever saved.

    Raises DataError where checkpoints lie there but `latest` is missing or names none of them.
    """
    latest = checkpoints / LATEST_NAME
    saved = saved_checkpoints(checkpoints)
    try:
        name = read_bounded(latest, _MAX_NAME_BYTES).decode(errors="replace").strip()
    except FileNotFoundError:
        if len(saved) > 1:
            raise DataError(
                f"{latest} is missing though {len(saved)} checkpoints lie beside it; name one by --resume {saved[0]}."
            ) from None
        # A kill between the folder's name and `latest`, in a first save; the folder is whole by then.
        return saved[0] if saved else None
    except OSError as error:
        raise DataError(f"{latest} cannot be read: {error.strerror or error}.") from None
    if checkpoints / name in saved:
        return checkpoints / name
    replaced = checkpoints / f".{name}.replaced"
    if _STEP_NAME.fullmatch(name) and replaced.is_dir():
        return replaced  # killed while this very step was saved again
    raise DataError(f"{latest} names {name!r}, which is not there; name a checkpoint by --resume PATH.")


def expect_checkpoint(path: Path, option: str) -> None:
    """Raises UsageError unless what lies at the path that this option gives is a checkpoint, or was one once."""
    if not path.is_dir():
        raise UsageError(f"{option}: {path} is not a folder; give that of a checkpoint.")
    if not _STEP_NAME.fullmatch(path.name) and not (path / MANIFEST_NAME).exists():
        inner = path if path.name == "checkpoints" else path / "checkpoints"
        hint = f" one of the checkpoints in {inner}" if inner.is_dir() else " the folder of a checkpoint"
        raise UsageError(f"{option}: {path} is no checkpoint, it has no {MANIFEST_NAME}; give{hint}.")


def find_best(checkpoints: Path) -> Path | None:
    """The checkpoint that `best` names; None where there is none."""
    try:
        name = read_bounded(checkpoints / BEST_NAME, _MAX_NAME_BYTES).decode(errors="replace").strip()
    except FileNotFoundError:
        return None
    best = checkpoints / name
    return best if best in saved_checkpoints(checkpoints) else None
