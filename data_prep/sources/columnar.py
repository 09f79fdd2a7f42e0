"""The text column of Parquet and Arrow files (IPC files and streams, such as `datasets.save_to_disk` writes).

They are read by `pyarrow` and not through `datasets`, which for local files names a broken one in a log only, takes
a whole row group at once, and writes lock files into the user's home.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO

import pyarrow as pa
import pyarrow.parquet as pq

from data_prep.sources.chunks import CHUNK_BYTES
from data_prep.sources.files import InputFile, opened
from data_prep.sources.rows import Batch
from pretrain.errors import DataError

_MAX_ROWS_PER_BATCH = 1 << 14
_READ_BUFFER_BYTES = 1 << 18
_IPC_FILE_MAGIC = b"ARROW1"


def columnar_batches(file: InputFile, column: str) -> Iterator[Batch]:
    """All rows; raises DataError for a damaged file, a missing column and one that holds no text.

    Of Parquet some pages are held at a time, of Arrow the column in one record batch.
    """
    with opened(file) as raw, _damage_named(file):
        if file.format == "parquet":
            yield from _parquet_batches(raw, file, column)
        elif _is_ipc_file(raw):
            yield from _ipc_file_batches(raw, file, column)
        else:
            yield from _ipc_stream_batches(raw, file, column)


def columnar_schema(file: InputFile) -> pa.Schema:
    with opened(file) as raw, _damage_named(file):
        if file.format == "parquet":
            return pq.ParquetFile(_arrow_file(raw)).schema_arrow
        reader = pa.ipc.open_file if _is_ipc_file(raw) else pa.ipc.open_stream
        return reader(_arrow_file(raw)).schema


def is_string(kind: pa.DataType) -> bool:
    """Strings of all layouts, dictionary-encoded ones too."""
    if pa.types.is_dictionary(kind):
        return is_string(kind.value_type)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def utf8_rows(array: pa.Array) -> list[bytes | None]:
    """The bytes of each text, None for a null."""
    return array.cast(pa.large_binary()).to_pylist()


def index_of(column: str, schema: pa.Schema, path: str) -> int:
    """Raises DataError where there is no such column, or no text in it."""
    index = schema.names.index(column) if column in schema.names else -1
    if index < 0:
        found = ", ".join(map(repr, schema.names)) or "none"
        raise DataError(f"{path} has no column {column!r}; it has {found}: choose one with --text-column.")
    if schema.names.count(column) > 1:
        raise DataError(f"{path} has several columns named {column!r}; give each a name of its own.")
    kind = schema.field(index).type
    if not (is_string(kind) or pa.types.is_null(kind) or _is_bytes(kind)):
        raise DataError(f"{path}: the column {column!r} holds {kind} where text is expected.")
    return index


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)


def _parquet_batches(raw: FileIO, file: InputFile, column: str) -> Iterator[Batch]:
    reader = pq.ParquetFile(_arrow_file(raw), pre_buffer=False, buffer_size=_READ_BUFFER_BYTES)
    index_of(column, reader.schema_arrow, str(file.path))
    metadata = reader.metadata
    sizes = [
        each.total_uncompressed_size
        for group in map(metadata.row_group, range(metadata.num_row_groups))
        for each in map(group.column, range(group.num_columns))
        if each.path_in_schema == column
    ]
    row_bytes = max(1, sum(sizes) // max(1, metadata.num_rows))
    num_rows = min(_MAX_ROWS_PER_BATCH, max(1, CHUNK_BYTES // row_bytes))
    rows_done = 0
    for batch in reader.iter_batches(num_rows, columns=[column], use_threads=False):
        before, rows_done = rows_done, rows_done + batch.num_rows
        yield Batch(utf8_rows(batch.column(0)), _share(file, before, rows_done, metadata.num_rows))


def _ipc_file_batches(raw: FileIO, file: InputFile, column: str) -> Iterator[Batch]:
    index = index_of(column, pa.ipc.open_file(_arrow_file(raw)).schema, str(file.path))
    options = pa.ipc.IpcReadOptions(included_fields=[index], use_threads=False)
    reader = pa.ipc.open_file(_arrow_file(raw), options=options)
    for number in range(reader.num_record_batches):
        share = _share(file, number, number + 1, reader.num_record_batches)
        yield from _parts(reader.get_batch(number).column(0), share)


def _ipc_stream_batches(raw: FileIO, file: InputFile, column: str) -> Iterator[Batch]:
    raw.seek(0)
    index = index_of(column, pa.ipc.open_stream(_arrow_file(raw)).schema, str(file.path))
    raw.seek(0)
    options = pa.ipc.IpcReadOptions(included_fields=[index], use_threads=False)
    before = 0
    for batch in pa.ipc.open_stream(_arrow_file(raw), options=options):
        before, share = raw.tell(), raw.tell() - before
        yield from _parts(batch.column(0), share)


def _parts(array: pa.Array, num_bytes: int) -> Iterator[Batch]:
    """A record batch may be large: its rows become bytes a few at a time."""
    num_rows = max(1, len(array) * CHUNK_BYTES // max(CHUNK_BYTES, array.nbytes))
    for start in range(0, len(array), num_rows):
        yield Batch(utf8_rows(array.slice(start, num_rows)), num_bytes if start == 0 else 0)


def _share(file: InputFile, begin: int, end: int, whole: int) -> int:
    """Of the file's bytes, so that all shares add up to them."""
    return file.bytes * end // whole - file.bytes * begin // whole


def _arrow_file(raw: FileIO) -> pa.PythonFile:
    return pa.PythonFile(raw, mode="r")


def _is_ipc_file(raw: FileIO) -> bool:
    magic = raw.read(len(_IPC_FILE_MAGIC))
    raw.seek(0)
    return magic == _IPC_FILE_MAGIC


@contextmanager
def _damage_named(file: InputFile) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, EOFError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the file, not of what is in it
            raise
        name = "Parquet" if file.format == "parquet" else "Arrow"
        reason = str(error).partition("\n")[0].rstrip(".") or "it ends early"
        raise DataError(
            f"{file.path} cannot be read as {name} ({reason}); copy, download or make it again."
        ) from None
