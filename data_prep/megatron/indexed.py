"""Megatron-LM's indexed dataset, PREFIX.idx and PREFIX.bin, checked and read in bounded memory.

PREFIX.idx, all little-endian:

    9 bytes    b"MMIDIDX\\x00\\x00"
    uint64     version, 1
    uint8      dtype of the token ids
    uint64     n, number of sequences (sentences, or whole documents)
    uint64     d, number of document indices: one more than there are documents
    int32 [n]  tokens of each sequence
    int64 [n]  where in PREFIX.bin each sequence begins, in bytes
    int64 [d]  the sequence at which each document begins, then n

PREFIX.bin holds the ids, one sequence after another.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pretrain.errors import DataError, UsageError

MAX_DOCUMENT_TOKENS = 1 << 20

_MAGIC = b"MMIDIDX\x00\x00"
_OLDER_MAGIC = b"TNTIDX\x00\x00"
_HEADER = struct.Struct("<9sQBQQ")
_DTYPES = {1: "<u1", 2: "<i1", 3: "<i2", 4: "<i4", 5: "<i8", 8: "<u2"}
_CHECKED_AT_ONCE = 1 << 20
_DOCUMENTS_AT_ONCE = 1 << 13
_AGAIN = "copy the file again, or make the dataset again"


@dataclass(frozen=True)
class Run:
    """Consecutive documents, or a part of a long one.

    tokens [tokens] ids, mapped; sequence_lengths [sequences] int64, tokens of each, may be 0; document_lengths
    [documents] int64, sequences of each, may be 0. `first_sequence`: number of the first in its file.
    `is_cut`: the last document goes on in the next run.
    """

    tokens: np.ndarray
    sequence_lengths: np.ndarray
    document_lengths: np.ndarray
    first_sequence: int
    is_cut: bool = False


@dataclass(frozen=True)
class IndexedDataset:
    """An open dataset whose index has been checked; `open` is the only constructor a caller needs."""

    prefix: str
    dtype: np.dtype
    num_tokens: int
    num_sequences: int
    num_documents: int
    is_sentence_level: bool
    _sizes: np.ndarray
    _pointers: np.ndarray
    _document_starts: np.ndarray
    _tokens: np.ndarray

    @classmethod
    def open(cls, prefix: str) -> "IndexedDataset":
        """Read the index once, a part at a time; raises UsageError for files that are not there and DataError, which
        names file and place, for files that are not such a dataset or do not fit each other."""
        prefix = prefix.removesuffix(".idx").removesuffix(".bin")
        index, content = Path(f"{prefix}.idx"), Path(f"{prefix}.bin")
        for path in (index, content):
            if not path.is_file():
                raise UsageError(
                    f"--input {prefix}: there is no file {path}; give the path of .idx and .bin without it."
                )
        dtype, num_sequences, num_indices = _read_header(index)
        sizes = _mapped(index, "<i4", num_sequences, _HEADER.size)
        pointers = _mapped(index, "<i8", num_sequences, _HEADER.size + sizes.nbytes)
        starts = _mapped(index, "<i8", num_indices, _HEADER.size + sizes.nbytes + pointers.nbytes)
        num_tokens = _check_sequences(index, sizes, pointers, dtype.itemsize)
        actual = content.stat().st_size
        if actual != num_tokens * dtype.itemsize:
            raise DataError(
                f"{content} has {actual:,} bytes, {index} says {num_tokens * dtype.itemsize:,}; {_AGAIN}."
            )
        return cls(
            prefix=prefix,
            dtype=dtype,
            num_tokens=num_tokens,
            num_sequences=num_sequences,
            num_documents=num_indices - 1,
            is_sentence_level=_check_documents(index, starts, num_sequences),
            _sizes=sizes,
            _pointers=pointers,
            _document_starts=starts,
            _tokens=_mapped(content, dtype.str, num_tokens, 0),
        )

    def runs(self, max_tokens: int = MAX_DOCUMENT_TOKENS) -> Iterator[Run]:
        """All documents in order, in runs of at most `max_tokens`; a longer document is cut, between sequences if
        possible."""
        document = 0
        while document < self.num_documents:
            starts = np.array(self._document_starts[document : document + _DOCUMENTS_AT_ONCE + 1])
            tokens = self._first_tokens(starts)
            count = int(np.searchsorted(tokens, tokens[0] + max_tokens, side="right")) - 1
            first, last = int(starts[0]), int(starts[max(count, 1)])
            if count:
                lengths = np.array(self._sizes[first:last], dtype=np.int64)
                content = self._tokens[int(tokens[0]) : int(tokens[count])]
                yield Run(content, lengths, np.diff(starts[: count + 1]), first)
            else:
                yield from self._pieces(first, last, int(tokens[0]), max_tokens)
            document += max(count, 1)

    def _first_tokens(self, sequences: np.ndarray) -> np.ndarray:
        """The token at which each of the sequences begins; the number of tokens for the one after the last."""
        firsts = np.full(len(sequences), self.num_tokens, dtype=np.int64)
        exists = sequences < self.num_sequences
        firsts[exists] = self._pointers[sequences[exists]] // self.dtype.itemsize
        return firsts

    def _pieces(self, sequence: int, end: int, token: int, max_tokens: int) -> Iterator[Run]:
        """One document, sequences [sequence, end), in pieces of at most `max_tokens`."""
        while sequence < end:
            lengths = np.array(self._sizes[sequence : min(end, sequence + max_tokens)], dtype=np.int64)
            ends = np.cumsum(lengths)
            count = max(1, int(np.searchsorted(ends, max_tokens, side="right")))
            size, is_last = int(ends[count - 1]), sequence + count == end
            content = self._tokens[token : token + size]
            if size <= max_tokens:
                yield Run(content, lengths[:count], np.array([count]), sequence, is_cut=not is_last)
            else:  # one sequence, too long by itself
                for start in range(0, size, max_tokens):
                    piece = content[start : start + max_tokens]
                    is_cut = not is_last or start + max_tokens < size
                    yield Run(piece, np.array([len(piece)]), np.array([1]), sequence, is_cut)
            sequence, token = sequence + count, token + size


def _read_header(path: Path) -> tuple[np.dtype, int, int]:
    """(dtype, number of sequences, number of document indices), agreeing with the size of the file."""
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
    if header.startswith(_OLDER_MAGIC):
        raise DataError(
            f"{path} is a dataset of the older kind (TNTIDX); make it again with --dataset-impl mmap."
        )
    if len(header) < _HEADER.size and header and _MAGIC.startswith(header[: len(_MAGIC)]):
        raise DataError(
            f"{path} ends early: it has {len(header)} bytes, and the header alone has {_HEADER.size}; {_AGAIN}."
        )
    if not header.startswith(_MAGIC):
        raise DataError(f"{path} is no index of a Megatron-LM dataset: it does not begin with {_MAGIC!r}.")
    _, version, code, num_sequences, num_indices = _HEADER.unpack(header)
    if version != 1:
        raise DataError(f"{path} has version {version} at byte {len(_MAGIC)}; this program reads version 1.")
    if code not in _DTYPES:
        raise DataError(
            f"{path} has dtype code {code} at byte {len(_MAGIC) + 8}, which is no integer type; {_AGAIN}."
        )
    expected = _HEADER.size + 12 * num_sequences + 8 * num_indices
    actual = path.stat().st_size
    if actual == expected + num_sequences and num_sequences:
        raise DataError(
            f"{path} has a mode for each sequence: a multimodal dataset, of which no store can be made."
        )
    if actual != expected or not num_indices:
        raise DataError(
            f"{path} has {actual:,} bytes; with {num_sequences:,} sequences and {num_indices:,} document indices, "
            f"as it says at byte {_HEADER.size - 16}, it would have {expected:,}; {_AGAIN}."
        )
    return np.dtype(_DTYPES[code]), num_sequences, num_indices


def _mapped(path: Path, dtype: str, count: int, offset: int) -> np.ndarray:
    """A plain array over the mapped file (an empty one cannot be mapped)."""
    if not count:
        return np.empty(0, dtype)
    return np.asarray(np.memmap(path, dtype=dtype, mode="r", offset=offset, shape=(count,)))


def _check_sequences(path: Path, sizes: np.ndarray, pointers: np.ndarray, itemsize: int) -> int:
    """Number of tokens; raises DataError unless each sequence begins where the one before ends."""
    end = 0
    for first in range(0, len(sizes), _CHECKED_AT_ONCE):
        part = np.array(sizes[first : first + _CHECKED_AT_ONCE], dtype=np.int64)
        if part.min() < 0:
            number = first + int(np.argmax(part < 0))
            raise DataError(f"{path}: sequence {number} has {int(sizes[number])} tokens; {_AGAIN}.")
        ends = end + np.cumsum(part)
        wrong = pointers[first : first + _CHECKED_AT_ONCE] != (ends - part) * itemsize
        if wrong.any():
            number = first + int(np.argmax(wrong))
            raise DataError(
                f"{path}: sequence {number} begins at byte {int(pointers[number]):,} of the .bin file, the one before "
                f"it ends at {int((ends - part)[number - first]) * itemsize:,}; {_AGAIN}."
            )
        end = int(ends[-1])
    return end


def _check_documents(path: Path, starts: np.ndarray, num_sequences: int) -> bool:
    """Whether a document has several sequences; raises DataError unless the starts rise from 0 to the end."""
    if int(starts[0]) != 0 or int(starts[-1]) != num_sequences:
        raise DataError(
            f"{path}: its documents go from sequence {int(starts[0]):,} to {int(starts[-1]):,}, not from 0 to "
            f"{num_sequences:,}; {_AGAIN}."
        )
    most = 0
    for first in range(0, len(starts) - 1, _CHECKED_AT_ONCE):
        steps = np.diff(starts[first : first + _CHECKED_AT_ONCE + 1])
        if steps.min() < 0:
            number = first + int(np.argmax(steps < 0))
            raise DataError(f"{path}: document {number} ends before it begins; {_AGAIN}.")
        most = max(most, int(steps.max()))
    return most > 1
