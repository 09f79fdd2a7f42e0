"""From the paths a user gives to the files to read, in a fixed order.

A folder stands for all files below it, sorted by their path relative to it; hidden ones are left out. With
`--format auto` the suffix decides; what is neither text nor JSON Lines is left out and counted.
"""

import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data_prep.options import Format
from pretrain.errors import UsageError

TEXT_SUFFIXES = frozenset({"", ".txt", ".text", ".md", ".rst"})
JSONL_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})


@dataclass(frozen=True)
class InputFile:
    path: Path
    format: Literal["text", "jsonl"]
    bytes: int
    modified_ns: int


@dataclass(frozen=True)
class InputFiles:
    """The files to read, and the suffixes of those left out with their counts."""

    files: tuple[InputFile, ...]
    ignored: dict[str, int]

    @property
    def total_bytes(self) -> int:
        return sum(file.bytes for file in self.files)

    def digest(self) -> str:
        """Changes when a file is added, removed, renamed or rewritten."""
        lines = [f"{file.path}\0{file.bytes}\0{file.modified_ns}\n" for file in self.files]
        return hashlib.sha256("".join(lines).encode(errors="surrogateescape")).hexdigest()


def find_files(paths: tuple[str, ...], chosen: Format) -> InputFiles:
    """Raises UsageError for a path that is missing, matches nothing or has an unknown suffix."""
    ignored: Counter[str] = Counter()
    found: dict[Path, InputFile] = {}
    for given in paths:
        for path, is_explicit in _expand(given):
            format_ = _format_of(path) if chosen == "auto" else chosen
            if format_ is None and is_explicit:
                raise UsageError(
                    f"{path}: the suffix {path.suffix!r} says neither text nor JSON Lines; "
                    "give --format text or jsonl, or convert (decompress) the file first."
                )
            if format_ is None:
                ignored[path.suffix] += 1
                continue
            status = path.stat()
            found.setdefault(path, InputFile(path, format_, status.st_size, status.st_mtime_ns))
    if not found:
        raise UsageError(f"There is no text or JSON Lines file in {', '.join(paths)}; check --input.")
    return InputFiles(tuple(found.values()), dict(sorted(ignored.items())))


def _expand(given: str) -> Iterator[tuple[Path, bool]]:
    """(file, whether the user named it rather than its folder)."""
    path = Path(given)
    if path.is_dir():
        for file in _below(path):
            yield file, False
    elif path.is_file():
        yield path, True
    elif path.exists():
        raise UsageError(f"{path} is neither a file nor a folder; --input reads ordinary files, twice.")
    elif glob.has_magic(given):
        matches = sorted(glob.glob(given, recursive=True))
        if not matches:
            raise UsageError(f"No file matches --input {given}; check the pattern.")
        for match in matches:
            if Path(match).is_dir():
                yield from ((file, False) for file in _below(Path(match)))
            else:
                yield Path(match), False
    else:
        raise UsageError(f"--input {given} does not exist; check the path.")


def _below(folder: Path) -> Iterator[Path]:
    names: list[str] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        names += [os.path.join(root, name) for name in files if not name.startswith(".")]
    return (path for path in map(Path, sorted(names)) if path.is_file())


def _format_of(path: Path) -> Literal["text", "jsonl"] | None:
    suffix = path.suffix.lower()
    if suffix in JSONL_SUFFIXES:
        return "jsonl"
    return "text" if suffix in TEXT_SUFFIXES else None
