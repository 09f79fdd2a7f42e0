"""Where torch and DeepSpeed compile their C++ extensions, and the locks that a killed build leaves there.

torch's lock (`torch.utils.file_baton`) is a file that exists while somebody builds: after a SIGKILL it stays, and every
later start waits for it for ever. Whoever builds keeps it open, though, which the kernel knows of the living alone.
"""

import fcntl
import os
from contextlib import suppress
from pathlib import Path

_LOCK_NAME = "lock"
_GUARD_NAME = ".recovering"


def recover_locks(folder: Path) -> list[Path]:
    """Removes locks below `folder` that no process of this machine holds; those that were removed.

    The folder is one machine's and one user's: what others hold could not be seen.
    """
    removed = []
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _GUARD_NAME, "w", encoding="utf-8") as guard:
        # Two at a time might each find a lock stale, and the slower one remove that of the faster one's build.
        fcntl.flock(guard, fcntl.LOCK_EX)
        locks = [path for path in folder.rglob(_LOCK_NAME) if path.is_file()]
        held = _open_files() if locks else set()
        for lock in locks:
            if str(lock.resolve()) not in held:
                lock.unlink(missing_ok=True)
                removed.append(lock)
    return removed


def _open_files() -> set[str]:
    """Paths of everything that processes of this user have open."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            found.add(os.readlink(link))
    return found
