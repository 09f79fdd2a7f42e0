"""Segments: the units in which a build is shared out over machines, each of about `segment_bytes` of input.

A big plain file is cut at multiples of `segment_bytes`: the documents that begin in a range are the segment's.
A big file that cannot be entered in the middle is a segment, and so is a run of small files.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

from data_prep.options import InputOptions
from data_prep.sources.boundaries import first_start, newlines_of
from data_prep.sources.files import InputFile, opened


@dataclass(frozen=True, slots=True)
class Share:
    """The documents of a file that begin from byte `begin` up to `end`; all of them where `end` is None."""

    file: InputFile
    begin: int = 0
    end: int | None = None


def plan_segments(files: Iterable[InputFile], options: InputOptions) -> tuple[tuple[Share, ...], ...]:
    """A pure function of the files' order, sizes and formats and of the options; at least one segment."""
    limit = options.segment_bytes
    segments: list[tuple[Share, ...]] = []
    run: list[Share] = []
    size = 0
    for file in files:
        if run and size + file.bytes > limit:
            segments.append(tuple(run))
            run, size = [], 0
        if file.bytes > limit and newlines_between(file, options):
            bounds = [*range(0, file.bytes, limit), file.bytes]
            segments += [(Share(file, *pair),) for pair in pairwise(bounds)]
            continue
        run.append(Share(file))
        size += file.bytes
    if run or not segments:
        segments.append(tuple(run))
    return tuple(segments)


def newlines_between(file: InputFile, options: InputOptions) -> int:
    """How many newlines separate its documents, 0 where it can only be read from its beginning."""
    if file.compression is not None:
        return 0
    if file.format == "jsonl":
        return 1
    return newlines_of(options.documents) if file.format == "text" else 0


def byte_range(share: Share, options: InputOptions) -> tuple[int, int | None]:
    """From the first document of the share to the first of the next."""
    if share.end is None:
        return 0, None
    newlines = newlines_between(share.file, options)
    with opened(share.file) as raw:
        begin = first_start(raw, share.begin, newlines)
        # A document that spans the whole share is not read once more.
        end = begin if begin >= share.end else first_start(raw, share.end, newlines)
    return begin, end
