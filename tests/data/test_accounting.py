"""No text without a count, whatever the documents are like, and random segments never from the same document."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.plan import plan_window
from pretrain.data.samples import SamplePlan
from pretrain.data.store import Documents as StoredDocuments
from pretrain.data.store import StoreWriter
from pretrain.data.stream import RowStream
from pretrain.errors import DataError
from tests.data.fakes import (
    ALL_SPECIAL_IDS,
    SPECIAL_IDS,
    VOCAB_SIZE,
    Documents,
    FakeSplit,
    fake_block,
    random_documents,
)
from tests.data.stored import layout_of, write_store

OBJECTIVES = ["nsp", "sop", "mlm"]
documents_strategy = st.lists(
    st.lists(st.integers(1, 40) | st.just(1) | st.integers(100, 400), min_size=1, max_size=8),
    min_size=1,
    max_size=10,
)


def options_for(objective: str, seq_len: int = 32, **changes: float) -> SamplingOptions:
    return SamplingOptions(seq_len, objective, packing=True, **changes)  # type: ignore[arg-type]


def stream_of(split: object, options: SamplingOptions) -> RowStream:
    return RowStream(split, SPECIAL_IDS, ALL_SPECIAL_IDS, VOCAB_SIZE, options, 5)  # type: ignore[arg-type]


def spans_of(plan: SamplePlan, objective: str) -> list[range]:
    """Spans of tokens shown, without random segments."""
    has_own_b = (plan.nsp_label == 0) if objective == "nsp" else (plan.b_length > 0)
    a = [range(start, start + length) for start, length in zip(plan.a_start, plan.a_length, strict=True)]
    b = [
        range(start, start + length)
        for start, length in zip(plan.b_start[has_own_b], plan.b_length[has_own_b], strict=True)
    ]
    return a + b


def check_accounts(plan: SamplePlan, documents: Documents, objective: str) -> None:
    """Tokens are shown once or counted; a document of which nothing is shown is among the dropped."""
    spans = spans_of(plan, objective)
    shown = np.bincount([token for span in spans for token in span], minlength=plan.num_window_tokens)
    assert plan.num_window_tokens == sum(map(sum, documents)) == len(shown)
    assert shown.max(initial=0) <= 1
    assert shown.sum() + plan.num_truncated_tokens + plan.num_dropped_tokens == plan.num_window_tokens
    ends = np.cumsum([sum(document) for document in documents])
    lost = [end - sum(document) for document, end in zip(documents, ends, strict=True)
            if not shown[end - sum(document) : end].any()]  # fmt: skip
    assert len(lost) <= plan.num_dropped_sentences
    document = np.repeat(np.arange(len(documents)), [sum(each) for each in documents])
    assert all(len({*document[span]}) == 1 for span in spans)


@pytest.mark.parametrize("objective", OBJECTIVES)
@given(
    documents=documents_strategy, draw_key=st.integers(0, 2**64 - 1), seq_len=st.sampled_from([8, 9, 32, 128])
)
@example(documents=[[1]], draw_key=0, seq_len=8)
@example(documents=[[1], [1], [1]], draw_key=0, seq_len=8)
@example(documents=[[5], [1], [400]], draw_key=1, seq_len=8)
def test_every_token_of_every_document_is_accounted_for(
    objective: str, documents: Documents, draw_key: int, seq_len: int
) -> None:
    options = options_for(objective, seq_len, short_sample_probability=0.3)
    check_accounts(plan_window([fake_block(documents)], options, draw_key), documents, objective)


@settings(max_examples=50)
@given(documents=documents_strategy.filter(lambda each: len(each) > 1), draw_key=st.integers(0, 2**64 - 1))
def test_random_segments_come_from_other_documents(documents: Documents, draw_key: int) -> None:
    """Every token of every span mapped back to its document, after cutting and truncation."""
    plan = plan_window([fake_block(documents)], options_for("nsp", 16), draw_key)
    document = np.repeat(np.arange(len(documents)), [sum(each) for each in documents])
    for a, n, b, m, label in zip(*plan.spans, plan.nsp_label, strict=True):
        (of_a,), (of_b,) = set(document[a : a + n].tolist()), set(document[b : b + m].tolist())
        assert (of_a != of_b) == (label == 1)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("shard_tokens", [1, 100_000])
def test_phases_of_one_store_each_have_all_of_its_text(
    tmp_path: Path, objective: str, shard_tokens: int
) -> None:
    """128 tokens, then 512; also where each document is a block and a shard of its own."""
    documents = [*random_documents(25), [700, 3], [1], [2], [900]]
    store = write_store(tmp_path / "store", documents, min(shard_tokens, 1000), shard_tokens)
    split = store.split("train")
    for seq_len in (128, 512):
        stream = stream_of(split, options_for(objective, seq_len, window_blocks=4))
        windows = [stream.window(1, number) for number in range(stream.windows_per_epoch)]
        assert sorted(block for window in windows for block in window.blocks) == list(range(split.num_blocks))
        assert sum(window.plan.num_window_tokens for window in windows) == split.num_tokens
        for window in windows:
            check_accounts(
                window.plan, documents_of([split.block(index) for index in window.blocks]), objective
            )
        batch = stream.epoch_rows(1)
        assert batch.batch(0, batch.num_rows).input_ids.shape == (batch.num_rows, seq_len)


def documents_of(blocks: Sequence[object]) -> Documents:
    documents: Documents = []
    for block in blocks:
        lengths = iter(block.sentence_lengths.tolist())  # type: ignore[attr-defined]
        counts = block.document_lengths.tolist()  # type: ignore[attr-defined]
        documents += [[next(lengths) for _ in range(count)] for count in counts]
    return documents


@pytest.mark.parametrize("objective", ["sop", "mlm"])
def test_one_document_serves_all_objectives_but_nsp(objective: str) -> None:
    batch = stream_of(FakeSplit([[20, 30, 5]]), options_for(objective)).step(Cursor(0, 0, 0), 9).batch(0, 9)
    assert batch.num_masked >= batch.num_samples >= 9


def test_a_window_of_one_document_has_actual_pairs_only() -> None:
    """Every document a block and a window of its own: there is no other to take a segment from."""
    options = options_for("nsp", window_blocks=1)
    stream = stream_of(FakeSplit([[9] * 12, [8] * 15], block_tokens=1), options)
    for window in range(2):
        plan = stream.window(0, window).plan
        assert plan.num_actual_pairs == plan.num_samples > 2


def test_documents_of_one_sentence_each_are_refused_for_nsp_alone() -> None:
    split = FakeSplit([[20]] * 50)
    with pytest.raises(DataError, match=r"Every document .* train split .* data\.objective to sop or mlm"):
        stream_of(split, options_for("nsp")).step(Cursor(0, 0, 0), 1)
    for objective in ("sop", "mlm"):
        assert stream_of(split, options_for(objective)).step(Cursor(0, 0, 0), 5).num_rows == 5


@pytest.mark.parametrize("documents", [[*([[20]] * 50), [20, 20]], [[300]] * 20])
def test_documents_that_can_make_an_actual_pair_are_not_refused(documents: Documents) -> None:
    """One document of two sentences, or sentences so long that they come in pieces."""
    assert stream_of(FakeSplit(documents), options_for("nsp")).step(Cursor(0, 0, 0), 9).num_pairs >= 9


@pytest.mark.parametrize(("sentences", "documents"), [([3, 0, 2], [3]), ([3, 2], [2, 0])])
def test_a_store_refuses_what_is_empty(tmp_path: Path, sentences: list[int], documents: list[int]) -> None:
    """Sampling counts on it: no sentence without tokens, no document without sentences."""
    tokens = np.arange(5, 5 + sum(sentences), dtype=np.uint16)
    sentence_lengths, document_lengths = (np.array(each, np.uint32) for each in (sentences, documents))
    added = StoredDocuments(tokens, sentence_lengths, document_lengths, np.ones(len(tokens), dtype=np.bool_))
    with (
        pytest.raises(ValueError, match="a sentence without tokens or a document without sentences"),
        StoreWriter(tmp_path / "store", layout_of(300, 300)) as writer,
    ):
        writer.add("train", added)
