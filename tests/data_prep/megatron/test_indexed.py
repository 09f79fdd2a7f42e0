"""Reading Megatron's files: all tokens in order and in bounded runs, and a sentence for each kind of damage."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data_prep.megatron.indexed import IndexedDataset
from pretrain.errors import DataError, UsageError
from tests.data_prep.megatron.datasets import CODES, Document, write_dataset

SEVERAL: list[Document] = [
    [[5, 6, 7], [8], []],
    [],
    [[9, 10]],
    [[], []],
    [[11] * 30, [12] * 4, [13] * 4, [], [14]],
    [[5, 6]],
    [],
]
HEADER = struct.Struct("<9sQBQQ")


def read_back(dataset: IndexedDataset, max_tokens: int) -> list[Document]:
    """The documents of all runs; a document that is cut goes on, and so does a sequence that was cut."""
    documents: list[Document] = []
    is_open, last_sequence = False, -1
    for run in dataset.runs(max_tokens):
        assert len(run.tokens) <= max_tokens
        ends = np.cumsum(run.sequence_lengths)
        assert len(run.tokens) == (int(ends[-1]) if len(ends) else 0)
        sequences = [part.tolist() for part in np.split(run.tokens, ends[:-1])] if len(ends) else []
        assert sum(run.document_lengths) == len(sequences)
        number = run.first_sequence
        for length in run.document_lengths.tolist():
            mine, sequences = sequences[:length], sequences[length:]
            if not is_open:
                documents.append(mine)
            elif number == last_sequence:
                documents[-1][-1] += mine[0]
                documents[-1] += mine[1:]
            else:
                documents[-1] += mine
            number += length
            is_open = False
        is_open, last_sequence = run.is_cut, number - 1
    assert not is_open
    return documents


@pytest.mark.parametrize("dtype", CODES)
@pytest.mark.parametrize("max_tokens", [1, 4, 7, 8, 9, 30, 1000])
def test_all_comes_back_however_it_is_cut(tmp_path: Path, dtype: str, max_tokens: int) -> None:
    dataset = IndexedDataset.open(str(write_dataset(tmp_path / "a", SEVERAL, dtype)))
    assert read_back(dataset, max_tokens) == SEVERAL
    assert (dataset.num_documents, dataset.num_sequences, dataset.num_tokens) == (7, 12, 47)
    assert dataset.is_sentence_level


def test_only_long_documents_are_cut_and_between_sequences_if_possible(tmp_path: Path) -> None:
    dataset = IndexedDataset.open(str(write_dataset(tmp_path / "a", SEVERAL)))
    runs = [
        (run.document_lengths.tolist(), run.sequence_lengths.tolist(), run.is_cut) for run in dataset.runs(9)
    ]
    assert runs == [
        ([3, 0, 1, 2], [3, 1, 0, 2, 0, 0], False),
        ([1], [9], True),
        ([1], [9], True),
        ([1], [9], True),
        ([1], [3], True),
        ([4], [4, 4, 0, 1], False),
        ([1, 0], [2], False),
    ]


def test_a_run_is_filled_to_the_last_token(tmp_path: Path) -> None:
    dataset = IndexedDataset.open(
        str(write_dataset(tmp_path / "a", [[[5] * 4], [[6] * 5], [[7] * 9], [[8]]]))
    )
    assert [run.sequence_lengths.tolist() for run in dataset.runs(9)] == [[4, 5], [9], [1]]


def test_many_documents_go_over_several_reads(tmp_path: Path) -> None:
    documents: list[Document] = [[[number % 200 + 5]] for number in range(20_000)]
    dataset = IndexedDataset.open(str(write_dataset(tmp_path / "a", documents)))
    assert read_back(dataset, 1 << 20) == documents
    assert not dataset.is_sentence_level


@pytest.mark.parametrize("ending", [".idx", ".bin"])
def test_the_ending_may_be_given(tmp_path: Path, ending: str) -> None:
    prefix = write_dataset(tmp_path / "a", SEVERAL)
    assert IndexedDataset.open(f"{prefix}{ending}").num_tokens == 47


def test_an_empty_dataset(tmp_path: Path) -> None:
    nothing: list[list[Document]] = [[], [[], []]]
    for documents in nothing:
        dataset = IndexedDataset.open(str(write_dataset(tmp_path / "a", documents)))
        assert read_back(dataset, 10) == documents


def edited(place: int, new: bytes) -> Callable[[bytes], bytes]:
    return lambda content: content[:place] + new + content[place + len(new) :]


SIZES = HEADER.size
POINTERS = SIZES + 4 * 12
DOCUMENTS = POINTERS + 8 * 12
DAMAGES: dict[str, tuple[str, Callable[[bytes], bytes], str]] = {
    "magic": (".idx", edited(0, b"X"), "does not begin with"),
    "older kind": (".idx", edited(0, b"TNTIDX\x00\x00"), "dataset-impl mmap"),
    "empty": (".idx", lambda content: b"", "does not begin with"),
    "only a header": (
        ".idx",
        lambda content: content[:20],
        "ends early: it has 20 bytes, and the header alone has 34; copy",
    ),
    "not even the magic": (".idx", lambda content: content[:5], "ends early: it has 5 bytes"),
    "version": (".idx", edited(9, b"\x02"), "version 2"),
    "float": (".idx", edited(17, b"\x06"), "dtype code 6"),
    "no such dtype": (".idx", edited(17, b"\x63"), "dtype code 99"),
    "too many sequences": (".idx", edited(18, b"\xff\xff"), "bytes; with 65,535 sequences"),
    "short": (".idx", lambda content: content[:-1], "it would have"),
    "long": (".idx", lambda content: content + b"\x00", "it would have"),
    "modes": (".idx", lambda content: content + bytes(12), "multimodal"),
    "size below zero": (".idx", edited(SIZES + 4, struct.pack("<i", -1)), "sequence 1 has -1 tokens"),
    "size": (".idx", edited(SIZES + 4, struct.pack("<i", 2)), "sequence 2 begins at byte 8"),
    "last size": (".idx", edited(POINTERS - 4, struct.pack("<i", 3)), "a.bin has 94 bytes"),
    "pointer": (".idx", edited(POINTERS + 8, struct.pack("<q", 7)), "sequence 1 begins at byte 7"),
    "document falls": (
        ".idx",
        edited(DOCUMENTS + 16, struct.pack("<q", 2)),
        "document 1 ends before it begins",
    ),
    "first document": (".idx", edited(DOCUMENTS, struct.pack("<q", 1)), "go from sequence 1 to 12"),
    "last document": (".idx", edited(DOCUMENTS + 56, struct.pack("<q", 11)), "go from sequence 0 to 11"),
    "content short": (".bin", lambda content: content[:-1], "a.bin has 93 bytes"),
    "content long": (".bin", lambda content: content + b"\x00\x00", "a.bin has 96 bytes"),
}


@pytest.mark.parametrize(("ending", "damage", "sentence"), DAMAGES.values(), ids=DAMAGES)
def test_each_damage_is_named(
    tmp_path: Path, ending: str, damage: Callable[[bytes], bytes], sentence: str
) -> None:
    prefix = write_dataset(tmp_path / "a", SEVERAL)
    path = Path(f"{prefix}{ending}")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError) as caught:
        IndexedDataset.open(str(prefix))
    assert sentence in str(caught.value)
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize("ending", [".idx", ".bin"])
def test_a_missing_file_is_named(tmp_path: Path, ending: str) -> None:
    prefix = write_dataset(tmp_path / "a", SEVERAL)
    Path(f"{prefix}{ending}").unlink()
    with pytest.raises(UsageError, match=f"no file .*a{ending}"):
        IndexedDataset.open(str(prefix))
