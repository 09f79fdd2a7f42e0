"""What becomes of a run of Megatron documents, case by case."""

import numpy as np
import pytest

from data_prep.megatron.cleaning import Cleaned, Cleaner
from data_prep.megatron.indexed import Run
from pretrain.data.store import SpecialIds, StoreLayout
from pretrain.errors import DataError

PAD, UNK, CLS, SEP, MASK = range(5)
LAYOUT = StoreLayout(
    20, SpecialIds(pad=PAD, unk=UNK, cls=CLS, sep=SEP, mask=MASK), (PAD, UNK, CLS, SEP, MASK)
)
EVEN_BEGINS = np.arange(20) % 2 == 0


def clean(documents: list[list[list[int]]], eod_id: int | None = None) -> Cleaned:
    sequences = [sequence for document in documents for sequence in document]
    run = Run(
        tokens=np.array([token for sequence in sequences for token in sequence], dtype=np.int32),
        sequence_lengths=np.array([len(each) for each in sequences], dtype=np.int64),
        document_lengths=np.array([len(each) for each in documents], dtype=np.int64),
        first_sequence=100,
    )
    return Cleaner(LAYOUT, EVEN_BEGINS, eod_id).clean(run, "a.bin")


def documents_of(cleaned: Cleaned) -> list[list[list[int]]]:
    documents = cleaned.hashed.documents
    sentences = np.split(documents.tokens, np.cumsum(documents.sentence_lengths)[:-1])
    ends = np.cumsum(documents.document_lengths).tolist()
    return [
        [each.tolist() for each in sentences[end - length : end]]
        for end, length in zip(ends, documents.document_lengths.tolist(), strict=True)
    ]


def test_plain_text_stays() -> None:
    documents = [[[6, 7, 9], [11, 8]], [[13]]]
    cleaned = clean(documents)
    assert documents_of(cleaned) == documents
    # Each sentence begins a word, whatever its first token is; elsewhere the table decides.
    assert cleaned.hashed.documents.word_starts.tolist() == [True, False, False, True, True, True]
    counts = (cleaned.num_markers, cleaned.num_special_replaced, cleaned.num_unknown)
    assert counts == (0, 0, 0)
    assert cleaned.hashed.documents.tokens.dtype == np.uint16


def test_markers_at_the_ends_go_and_special_ids_inside_become_unknown() -> None:
    cleaned = clean([[[CLS, 6, SEP], [CLS, 7, SEP, 8, MASK, UNK, SEP, SEP]], [[9, PAD]]])
    assert documents_of(cleaned) == [[[6], [7, UNK, 8, UNK, UNK]], [[9]]]
    assert cleaned.num_markers == 6
    assert cleaned.num_special_replaced == 2
    assert cleaned.num_unknown == 3


def test_a_mask_at_the_end_is_no_marker() -> None:
    assert documents_of(clean([[[6, MASK]]])) == [[[6, UNK]]]


def test_what_is_empty_goes() -> None:
    cleaned = clean([[[], [6], [SEP]], [], [[CLS, SEP], []], [[7], []]])
    assert documents_of(cleaned) == [[[6]], [[7]]]
    assert (cleaned.num_empty_documents, cleaned.num_empty_sequences) == (2, 5)


def test_nothing_is_left() -> None:
    cleaned = clean([[[SEP]], []])
    assert documents_of(cleaned) == []
    assert (cleaned.num_empty_documents, len(cleaned.hashed.hashes)) == (2, 0)


def test_an_end_of_document_beyond_the_vocabulary() -> None:
    cleaned = clean([[[6], [7, 21]], [[8, 21, 9, 21]]], eod_id=21)
    assert documents_of(cleaned) == [[[6], [7]], [[8, UNK, 9]]]
    assert (cleaned.num_markers, cleaned.num_special_replaced) == (2, 1)


@pytest.mark.parametrize("token", [20, 21, -1, 70_000])
def test_an_id_outside_the_vocabulary_is_named(token: int) -> None:
    advice = "no token has a negative one: copy the file" if token < 0 else f".* has 20: .* --eod-id {token}"
    with pytest.raises(DataError, match=rf"a\.bin has the id {token} in sequence 102, and .*{advice}"):
        clean([[[6], [CLS]], [[7, token]]])


def test_equal_documents_have_equal_hashes_however_they_were_stored() -> None:
    hashes = clean([[[6, 7], [8]], [[6], [7, 8, SEP]], [[6, 7, 9]]]).hashed.hashes
    assert hashes[0] == hashes[1] != hashes[2]
