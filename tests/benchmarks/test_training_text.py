"""The text of a store in the forms that peers read."""

from pathlib import Path

import numpy as np
import pytest

from pretrain.data.store import Documents, SpecialIds, StoreLayout, StoreWriter, TokenStore
from tests.benchmarks.training_text import make_table, mean_tokens, open_lines, open_samples

CLS, SEP = 2, 3
# Two documents: sentences of 3, 5 and 1 tokens, and one of 9.
SENTENCES = [[10, 11, 12], [13, 14, 15, 16, 17], [18], [20, 21, 22, 23, 24, 25, 26, 27, 28]]
SEQ_LEN = 6


@pytest.fixture
def store(tmp_path: Path) -> TokenStore:
    special = SpecialIds(pad=0, unk=1, cls=CLS, sep=SEP, mask=4)
    layout = StoreLayout(64, special, (0, 1, 2, 3, 4), block_tokens=100, shard_tokens=1000)
    tokens = np.concatenate(SENTENCES).astype(np.uint32)
    with StoreWriter(tmp_path / "store", layout) as writer:
        (writer.tokenizer_path / "tokenizer.json").write_text("{}")
        documents = Documents(
            tokens=tokens,
            sentence_lengths=np.array([len(each) for each in SENTENCES], dtype=np.uint32),
            document_lengths=np.array([3, 1], dtype=np.uint32),
            word_starts=np.ones(len(tokens), dtype=np.bool_),
        )
        writer.add("train", documents)
        writer.finish({"options": {}})
    return TokenStore.open(tmp_path / "store")


def ids(store: TokenStore, form: str) -> list[list[int]]:
    found: list[list[int]] = make_table(store, form, SEQ_LEN, "train")["input_ids"].to_pylist()
    return found


def test_a_line_is_a_sentence_cut_off_where_it_is_too_long(store: TokenStore) -> None:
    assert ids(store, "lines") == [
        [CLS, 10, 11, 12, SEP],
        [CLS, 13, 14, 15, 16, SEP],
        [CLS, 18, SEP],
        [CLS, 20, 21, 22, 23, SEP],
    ]


def test_pieces_hold_every_token_and_none_of_two_documents(store: TokenStore) -> None:
    assert ids(store, "pieces") == [
        [CLS, 10, 11, 12, 13, SEP],
        [CLS, 14, 15, 16, 17, SEP],
        [CLS, 18, SEP],
        [CLS, 20, 21, 22, 23, SEP],
        [CLS, 24, 25, 26, 27, SEP],
        [CLS, 28, SEP],
    ]


def test_concatenated_text_is_cut_wherever_a_row_ends(store: TokenStore) -> None:
    joined = [token for sentence in SENTENCES for token in (CLS, *sentence, SEP)]
    assert ids(store, "concatenated") == [joined[start : start + 6] for start in range(0, 24, 6)]


def test_samples_have_the_columns_of_run_mlm_and_are_written_once(store: TokenStore, tmp_path: Path) -> None:
    samples = open_samples(tmp_path / "samples", store, "lines", SEQ_LEN)
    assert samples[2] == {
        "input_ids": [CLS, 18, SEP],
        "token_type_ids": [0, 0, 0],
        "attention_mask": [1, 1, 1],
        "special_tokens_mask": [1, 0, 1],
        "length": 3,
    }
    assert mean_tokens(samples) == (5 + 6 + 3 + 6) / 4
    [folder] = (tmp_path / "samples").iterdir()
    changed = (folder / "state.json").stat().st_mtime_ns
    assert open_samples(tmp_path / "samples", store, "lines", SEQ_LEN)[3] == samples[3]
    assert (folder / "state.json").stat().st_mtime_ns == changed


def test_a_store_of_lines_has_the_sentences_as_documents(store: TokenStore, tmp_path: Path) -> None:
    path = open_lines(tmp_path / "lines", store.path)
    lines = TokenStore.open(path)
    split = lines.split("train")
    assert (split.num_documents, split.num_tokens, lines.special_ids) == (4, 18, store.special_ids)
    assert ids(lines, "pieces")[2:4] == [[CLS, 17, SEP], [CLS, 18, SEP]]  # no piece is of two sentences
    assert lines.split("train").block(0).word_starts().all()
    changed = (path / "manifest.json").stat().st_mtime_ns
    assert open_lines(tmp_path / "lines", store.path) == path
    assert (path / "manifest.json").stat().st_mtime_ns == changed
