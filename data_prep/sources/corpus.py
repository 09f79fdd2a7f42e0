"""A corpus: segments of chunks in a fixed order, and a bounded sample of its texts for training a tokenizer."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from data_prep.documents import Intake
from data_prep.options import InputOptions
from data_prep.sources.boundaries import newlines_of
from data_prep.sources.chunks import CHUNK_BYTES, Chunk, line_chunks, text_chunks
from data_prep.sources.columnar import columnar_batches
from data_prep.sources.content import opened_content
from data_prep.sources.delimited import delimited_batches, find_delimiter
from data_prep.sources.files import InputFiles, find_files
from data_prep.sources.reading import read_chunk
from data_prep.sources.rows import row_chunks
from data_prep.sources.segments import Share, byte_range, plan_segments
from data_prep.sources.text_column import USUAL_COLUMN, find_column, has_columns
from pretrain.errors import UsageError

_SAMPLE_CHUNK_BYTES = 1 << 16


class Corpus(Protocol):
    """What a build reads from."""

    @property
    def total_bytes(self) -> int:
        """About the sum of all chunks' `num_bytes`; 0 where it is not known."""

    @property
    def num_segments(self) -> int: ...

    def chunks(self, segment: int) -> Iterator[Chunk]:
        """All chunks of a segment: the same ones each time, a function of the input and the options alone."""

    def sample(self, limit_bytes: int) -> Iterator[str]:
        """Texts of about `limit_bytes` in all, the same ones each time."""

    def describe(self) -> dict[str, Any]:
        """What report.json says about the input."""


@dataclass(frozen=True)
class FileCorpus:
    """The documents of files; its sample takes the same share from the beginning of each file.

    `column` holds the text where files have columns. `delimiter` separates the fields of CSV, None where it is the
    usual one.
    """

    inputs: InputFiles
    options: InputOptions
    column: str | None
    delimiter: str | None
    segments: tuple[tuple[Share, ...], ...] = field(repr=False)

    @property
    def total_bytes(self) -> int:
        return self.inputs.total_bytes

    @property
    def num_segments(self) -> int:
        return len(self.segments)

    def chunks(self, segment: int) -> Iterator[Chunk]:
        for share in self.segments[segment]:
            yield from self._chunks(share, CHUNK_BYTES)

    def sample(self, limit_bytes: int) -> Iterator[str]:
        taken, passed = 0, 0
        for file in self.inputs.files:
            passed += file.bytes
            # Of text behind the compression there may be more than `passed`: the limit is what counts.
            quota = limit_bytes * passed / max(1, self.total_bytes)
            # Many small files: those after which the quota is already met are left out whole.
            if taken > quota:
                continue
            for text in self._texts(Share(file)):
                yield text
                taken += len(text)
                if taken > quota:
                    break

    def describe(self) -> dict[str, Any]:
        files = self.inputs.files
        return {
            "files": len(files),
            "bytes": self.total_bytes,
            "formats": dict(sorted(Counter(file.format for file in files).items())),
            "compressions": dict(
                sorted(Counter(file.compression for file in files if file.compression).items())
            ),
            "text_column": self.column,
            "delimiter": self.delimiter,
            "digest": self.inputs.digest(),
            "ignored_files_by_suffix": self.inputs.ignored,
        }

    def _texts(self, share: Share) -> Iterator[str]:
        for chunk in self._chunks(share, _SAMPLE_CHUNK_BYTES):
            yield from read_chunk(chunk, self.options, Intake())

    def _chunks(self, share: Share, chunk_bytes: int) -> Iterator[Chunk]:
        file, on_bad_text, column = share.file, self.options.on_bad_text, self.column or USUAL_COLUMN
        path = str(file.path)
        if file.format in ("parquet", "arrow"):
            yield from row_chunks(columnar_batches(file, column), path, on_bad_text, chunk_bytes)
            return
        begin, end = byte_range(share, self.options)
        if begin == end:
            return
        with opened_content(file, begin, end, chunk_bytes) as content:
            if file.format == "text":
                yield from text_chunks(content, file.path, newlines_of(self.options.documents), chunk_bytes)
            elif file.format == "jsonl":
                yield from line_chunks(content, file.path, column, on_bad_text, chunk_bytes)
            else:
                batches = delimited_batches(content, file, column, self.delimiter, chunk_bytes)
                yield from row_chunks(batches, path, on_bad_text, chunk_bytes)


def open_files(options: InputOptions) -> FileCorpus:
    """The files that `options` name; raises UsageError where a path or the column of the text is not clear."""
    inputs = find_files(options.paths, options.format)
    if options.text_column is not None and not any(map(has_columns, inputs.files)):
        raise UsageError(
            f"--text-column {options.text_column}: all of the input is plain text, which has no columns; drop it, or "
            "say with --format what the files are."
        )
    delimiter = find_delimiter(inputs.files)
    column = options.text_column or find_column(inputs.files, delimiter)
    return FileCorpus(inputs, options, column, delimiter, plan_segments(inputs.files, options))
