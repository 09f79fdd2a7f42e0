"""The decompressed content of a file, block by block in bounded memory.

The libraries' own file objects would let two kinds of damage pass: `zstandard` ends a truncated file without a
word, and `bz2` and `lzma` take a damaged second member for the end. So members are decompressed one by one here,
from small inputs: a few bytes can stand for megabytes of zeros.
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Protocol

import zstandard

from data_prep.sources.files import Compression, InputFile, compression_of, opened
from pretrain.errors import DataError

BLOCK_BYTES = 1 << 20
_COMPRESSED_BLOCK_BYTES = 1 << 13
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_ZSTD_MAX_WINDOW = 1 << 31  # as `zstd --long=31` writes
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Decompressor(Protocol):
    """Of one member of a compressed file."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class Content:
    """Bytes of a file that were read and not yet taken; `held` begins at byte `offset` of the content."""

    def __init__(self, raw: FileIO, blocks: Iterator[bytes], offset: int) -> None:
        self.held = b""
        self.offset = offset
        self.has_ended = False
        self._raw, self._blocks, self._accounted = raw, blocks, offset
        if offset == 0:
            self.fill(len(BYTE_ORDER_MARK))
            if self.held.startswith(BYTE_ORDER_MARK):
                self.take(len(BYTE_ORDER_MARK))

    def fill(self, num_bytes: int) -> None:
        """Hold at least so many bytes, or all there are."""
        parts, size = [self.held], len(self.held)
        while size < num_bytes and not self.has_ended:
            block = next(self._blocks, b"")
            self.has_ended = not block
            parts.append(block)
            size += len(block)
        self.held = b"".join(parts)

    def take(self, num_bytes: int) -> bytes:
        """The first bytes held, which are held no longer."""
        taken, self.held = self.held[:num_bytes], self.held[num_bytes:]
        self.offset += num_bytes
        return taken

    def account(self) -> int:
        """Bytes of the file itself that were read since the last call."""
        before, self._accounted = self._accounted, self._raw.tell()
        return self._accounted - before


@contextmanager
def opened_content(
    file: InputFile, begin: int = 0, end: int | None = None, block_bytes: int = BLOCK_BYTES
) -> Iterator[Content]:
    """The content from byte `begin` to `end` (of a file that is not compressed), without a byte-order mark."""
    with opened(file) as raw:
        if file.compression is None:
            raw.seek(begin)
            yield Content(raw, _plain(raw, file.bytes if end is None else end, block_bytes), begin)
        else:
            yield Content(raw, decompressed(raw, file.path, file.compression), 0)


def plain_content(raw: FileIO, position: int, end: int) -> Content:
    """From where an open file stands, `position`, to byte `end`."""
    return Content(raw, _plain(raw, end, BLOCK_BYTES), position)


def decompressed(raw: FileIO, path: Path, compression: Compression) -> Iterator[bytes]:
    """Blocks of all members; raises DataError where the file ends early or is damaged."""
    num_bytes = 0
    try:
        for block in _members(raw, _NEW_DECOMPRESSOR[compression]):
            num_bytes += len(block)
            yield from (block[i : i + BLOCK_BYTES] for i in range(0, len(block), BLOCK_BYTES))
    except EOFError:
        raise DataError(
            f"{path} ends early, at byte {num_bytes} of its decompressed content; copy or download it again."
        ) from None
    except (zlib.error, lzma.LZMAError, zstandard.ZstdError, ValueError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # of the file, not of what is in it
            raise
        raise DataError(
            f"{path} is damaged behind byte {num_bytes} of its decompressed content ({error}); "
            "copy or download it again."
        ) from None


def line_number(path: Path, offset: int) -> int:
    """Number, from 1, of the line that holds byte `offset` of the content; reads all that comes before."""
    newlines, position = 0, 0
    compression = compression_of(path)
    with path.open("rb", buffering=0) as raw:
        blocks = (
            _plain(raw, offset, BLOCK_BYTES) if compression is None else decompressed(raw, path, compression)
        )
        for block in blocks:
            newlines += block.count(b"\n", 0, offset - position)
            position += len(block)
            if position >= offset:
                break
    return newlines + 1


def _plain(raw: FileIO, end: int, block_bytes: int) -> Iterator[bytes]:
    position = raw.tell()
    while position < end and (block := raw.read(min(block_bytes, end - position))):
        position += len(block)
        yield block


def _members(raw: FileIO, new: Callable[[], Decompressor]) -> Iterator[bytes]:
    """Raises EOFError at the end of a file that is not the end of a member; zeros between members are padding."""
    member: Decompressor | None = new()
    while data := raw.read(_COMPRESSED_BLOCK_BYTES):
        while data:
            if member is None:
                data = data.lstrip(b"\0")
                if not data:
                    break
                member = new()
            yield member.decompress(data)
            data = b""
            if member.eof:
                data, member = member.unused_data, None
    if member is not None:
        raise EOFError


def _new_gzip() -> Decompressor:
    return zlib.decompressobj(_GZIP_WINDOW)


def _new_zstandard() -> Decompressor:
    return zstandard.ZstdDecompressor(max_window_size=_ZSTD_MAX_WINDOW).decompressobj()


_NEW_DECOMPRESSOR: dict[Compression, Callable[[], Decompressor]] = {
    "gz": _new_gzip,
    "zst": _new_zstandard,
    "xz": lzma.LZMADecompressor,
    "bz2": bz2.BZ2Decompressor,
}
