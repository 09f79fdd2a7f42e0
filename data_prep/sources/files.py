"""From the paths a user gives to the files to read, in a fixed order.

A folder stands for all files below it, sorted by their path; hidden ones are left out. With `--format auto` the
suffix decides, after the suffix of a compression; what no format claims is left out and counted.
"""

import errno
import glob
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from data_prep.options import Format
from pretrain.errors import DataError, UsageError

Compression = Literal["gz", "zst", "xz", "bz2"]
FileFormat = Literal["text", "jsonl", "csv", "parquet", "arrow"]

_SUFFIXES: MappingProxyType[FileFormat, tuple[str, ...]] = MappingProxyType(
    {
        "text": ("", ".txt", ".text", ".md", ".rst"),
        "jsonl": (".jsonl", ".ndjson", ".json"),
        "csv": (".csv", ".tsv"),
        "parquet": (".parquet",),
        "arrow": (".arrow", ".feather"),
    }
)
FORMATS = MappingProxyType({suffix: name for name, suffixes in _SUFFIXES.items() for suffix in suffixes})
COMPRESSIONS: MappingProxyType[str, Compression] = MappingProxyType(
    {".gz": "gz", ".zst": "zst", ".xz": "xz", ".bz2": "bz2"}
)
_LEAVE_ALONE = "leave the input alone while a store is built, and start again."
# What says no for good; anything else (EIO, ESTALE, ...) is of the machine, and may be over later.
_REFUSALS = frozenset(
    {errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG}
)
# Formats that are read from anywhere, and have compressions of their own.
_COLUMNAR = frozenset({"parquet", "arrow"})
# What `datasets.save_to_disk` writes beside the Arrow files.
_DATASET_NOTES = frozenset({"dataset_dict.json", "dataset_info.json", "state.json"})


@dataclass(frozen=True)
class InputFile:
    """A file as it was when it was listed."""

    path: Path
    format: FileFormat
    bytes: int
    modified_ns: int
    compression: Compression | None = None


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
    found: dict[str, InputFile] = {}
    for given in paths:
        for path, is_explicit in _expand(given):
            format_, compression = _kind_of(path, chosen)
            if format_ is None and is_explicit:
                raise UsageError(
                    f"{path}: the suffix {_suffixes(path)!r} says nothing of a format that is read; give --format "
                    "text, jsonl, csv, parquet or arrow, or convert (decompress) the file first."
                )
            if format_ is None:
                ignored[_suffixes(path)] += 1
                continue
            status = path.stat()
            file = InputFile(path, format_, status.st_size, status.st_mtime_ns, compression)
            found.setdefault(os.path.realpath(path), file)
    if not found:
        raise UsageError(
            f"There is no text, JSON Lines, CSV, Parquet or Arrow file in {', '.join(paths)}; check --input."
        )
    return InputFiles(tuple(found.values()), dict(sorted(ignored.items())))


@contextmanager
def opened(file: InputFile) -> Iterator[FileIO]:
    """The file, unbuffered; raises DataError if it is not the one that was listed, now or once it was read, UsageError
    if it may not be read, and OSError, which names it, for an error of the machine."""
    try:
        with file.path.open("rb", buffering=0) as raw:
            _check_unchanged(file, os.fstat(raw.fileno()))
            yield raw
            _check_unchanged(file, file.path.stat())
    except FileNotFoundError:
        raise DataError(f"{file.path} was there when the build began and is gone; {_LEAVE_ALONE}") from None
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise OSError(error.errno, error.strerror or str(error), str(file.path)) from None
        raise UsageError(f"{file.path} cannot be read: {error.strerror or error}.") from None


def _check_unchanged(file: InputFile, status: os.stat_result) -> None:
    if (status.st_size, status.st_mtime_ns) != (file.bytes, file.modified_ns):
        was = f"{file.bytes:,} bytes when the build began, {status.st_size:,} now"
        raise DataError(f"{file.path} changed while it was read ({was}, or another time); {_LEAVE_ALONE}")


def _expand(given: str) -> Iterator[tuple[Path, bool]]:
    """(file, whether the user named it rather than its folder)."""
    if not given:
        raise UsageError("--input has an empty path; is a variable of the shell unset?")
    path = Path(given)
    if path.is_dir():
        for file in _below(path):
            yield file, False
    elif path.is_file():
        yield path, True
    elif path.exists():
        raise _not_ordinary(path)
    elif glob.has_magic(given):
        matches = sorted(glob.glob(given, recursive=True))
        if not matches:
            raise UsageError(f"No file matches --input {given}; check the pattern.")
        for match in map(Path, matches):
            if match.is_dir():
                yield from ((file, False) for file in _below(match))
            elif match.is_file():
                yield match, False
            else:
                raise _not_ordinary(match)
    else:
        raise UsageError(f"--input {given} does not exist; check the path.")


def _not_ordinary(path: Path) -> UsageError:
    return UsageError(f"{path} is neither a file nor a folder; --input reads ordinary files, more than once.")


def _below(folder: Path) -> Iterator[Path]:
    """All files but hidden ones, in order of their paths; links are followed, each folder once."""
    names: list[str] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        if os.path.realpath(root) in seen:
            folders.clear()
            continue
        seen.add(os.path.realpath(root))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        is_dataset = "dataset_dict.json" in files or any(name.endswith(".arrow") for name in files)
        names += [
            os.path.join(root, name)
            for name in files
            if not name.startswith(".") and not (is_dataset and name in _DATASET_NOTES)
        ]
    for path in map(Path, sorted(names)):
        if path.is_file():
            yield path
        elif not path.exists():
            raise UsageError(f"{path} is a link to nothing; repair or remove it.")


def _refuse(error: OSError) -> None:
    if error.errno not in _REFUSALS:
        raise error
    raise UsageError(
        f"{error.filename} cannot be read: {error.strerror or error}; what is in it would be missing."
    )


def compression_of(path: Path) -> Compression | None:
    return COMPRESSIONS.get(path.suffix.lower())


def _kind_of(path: Path, chosen: Format) -> tuple[FileFormat | None, Compression | None]:
    compression = compression_of(path)
    inner = path.with_suffix("") if compression else path
    format_ = FORMATS.get(inner.suffix.lower()) if chosen == "auto" else chosen
    if format_ in _COLUMNAR and compression:
        return None, compression
    return format_, compression


def _suffixes(path: Path) -> str:
    return "".join(path.suffixes[-2:]) if compression_of(path) else path.suffix
