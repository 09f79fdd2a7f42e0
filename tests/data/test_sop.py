"""Sentence-order pairs against the procedure in words, and that nothing but the text tells the order."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.options import SamplingOptions
from pretrain.data.pairs import Draw, coin_sum
from pretrain.data.plan import plan_window
from pretrain.data.samples import SamplePlan
from pretrain.data.sop import IN_ORDER, SWAPPED
from tests.data.draws import Draws
from tests.data.fakes import Documents, demo_like_documents, fake_block, random_documents

documents_strategy = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=12), min_size=1, max_size=12)
keys = st.integers(0, 2**64 - 1)
Segment = list[int]


def options_for(seq_len: int = 32, **changes: float) -> SamplingOptions:
    return SamplingOptions(seq_len, "sop", packing=True, **changes)  # type: ignore[arg-type]


def plan_of(documents: Documents, options: SamplingOptions, draw_key: int = 1) -> SamplePlan:
    return plan_window([fake_block(documents)], options, draw_key)


def segments_of(plan: SamplePlan) -> list[tuple[Segment, Segment, int]]:
    columns = (plan.a_start, plan.a_length, plan.b_start, plan.b_length, plan.nsp_label)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return [([*range(a, a + n)], [*range(b, b + m)], label) for a, n, b, m, label in rows]


def reference_pairs(
    documents: Documents, options: SamplingOptions, draw_key: int
) -> list[tuple[Segment, Segment, int]]:
    """Over lists of token numbers, sentence by sentence; every sentence shorter than a sample."""
    draws, pairs, token, sentence = Draws(options, draw_key), [], 0, 0
    for document in documents:
        numbered: list[tuple[int, Segment]] = []
        for length in document:
            numbered.append((sentence, list(range(token, token + length))))
            token, sentence = token + length, sentence + 1
        from_end = draws.coin(Draw.BACKWARD, numbered[0][0])
        while numbered:
            begin = numbered[-1 if from_end else 0][0]
            chunk: list[tuple[int, Segment]] = []
            while numbered and sum(len(text) for _, text in chunk) < draws.target(begin):
                chunk.append(numbered.pop(-1 if from_end else 0))
            chunk.sort()
            texts = [text for _, text in chunk]
            is_swapped = draws.coin(Draw.LABEL, begin)
            if len(texts) > 1:
                num_first = 1 + draws.below(Draw.CUT, begin, len(texts) - 1)
                first, second = list(chain(*texts[:num_first])), list(chain(*texts[num_first:]))
            else:
                half = len(texts[0]) // 2 if is_swapped else (len(texts[0]) + 1) // 2
                first, second = texts[0][:half], texts[0][half:]
            a, b = (second, first) if is_swapped else (first, second)
            if a and b:
                limit = options.max_text_tokens
                a, b = draws.truncated(a, b, limit, chunk[0][0])
                pairs.append((a, b, SWAPPED if is_swapped else IN_ORDER))
    return pairs


@given(
    documents=st.lists(st.lists(st.integers(1, 29), min_size=1, max_size=12), min_size=1, max_size=12),
    draw_key=keys,
)
def test_pairs_are_those_of_the_procedure_in_words(documents: Documents, draw_key: int) -> None:
    options = options_for(short_sample_probability=0.3)
    assert segments_of(plan_of(documents, options, draw_key)) == reference_pairs(documents, options, draw_key)


@given(documents=documents_strategy, draw_key=keys)
def test_a_pair_is_of_one_document_and_its_label_says_the_order(documents: Documents, draw_key: int) -> None:
    plan = plan_of(documents, options_for(), draw_key)
    document = np.repeat(np.arange(len(documents)), [sum(lengths) for lengths in documents])
    for a, b, label in segments_of(plan):
        assert len({*document[a], *document[b]}) == 1
        assert label == (IN_ORDER if a[-1] < b[0] else SWAPPED)
        assert len(a) + len(b) <= 29


def test_the_segments_of_a_pair_that_fits_follow_each_other() -> None:
    options = options_for(128, short_sample_probability=0.0)
    plan = plan_of([[10] * 8 for _ in range(500)], options)
    assert plan.num_samples == 500
    for a, b, _ in segments_of(plan):
        assert sorted(a + b) == list(range(min(a + b), min(a + b) + 80))


def test_half_of_the_pairs_are_swapped() -> None:
    plan = plan_of(random_documents(6000), options_for(128), 3)
    assert abs(plan.nsp_label.sum() - plan.num_samples / 2) < 5 * np.sqrt(plan.num_samples) / 2
    assert plan.num_actual_pairs == (plan.nsp_label == IN_ORDER).sum()


def test_one_document_is_enough() -> None:
    plan = plan_of([[10] * 400], options_for(64), 2)
    assert plan.num_samples > 50
    assert set(plan.nsp_label.tolist()) == {IN_ORDER, SWAPPED}


def test_a_lone_sentence_is_cut_in_two_and_one_token_is_dropped_and_counted() -> None:
    """The half that comes first in the sample has the odd token, whichever half it is."""
    plan = plan_of([[9], [1], [2]] * 100, options_for())
    for a, b, label in segments_of(plan):
        assert (len(a), len(b)) in ((5, 4), (1, 1))
        assert (b[0] == a[-1] + 1) if label == IN_ORDER else (a[0] == b[-1] + 1)
    assert plan.num_samples == 200
    assert (plan.num_dropped_sentences, plan.num_dropped_tokens, plan.num_truncated_tokens) == (100, 100, 0)


@pytest.mark.parametrize("documents", ["demo", "lone", "short"])
def test_lengths_do_not_tell_the_order(documents: str) -> None:
    """Not the difference of A and B, neither its mean nor its sign; gathered from the front only, they would."""
    lengths = {
        "demo": demo_like_documents(3000),
        "lone": [[9]] * 20_000,
        "short": random_documents(6000, sentences=3.0),
    }
    plan = plan_of(lengths[documents], options_for(128), 5)
    difference = plan.a_length - plan.b_length
    swapped = plan.nsp_label == SWAPPED
    for values in (difference, np.sign(difference)):
        error = np.sqrt(values.var() * (1 / swapped.sum() + 1 / (~swapped).sum()))
        assert abs(values[swapped].mean() - values[~swapped].mean()) <= 5 * error


def test_sentences_longer_than_a_sample_come_in_pieces_that_are_paired() -> None:
    plan = plan_of([[100]], options_for(short_sample_probability=0.0))
    assert plan.num_cut_sentences == 1
    # Eight pieces of 12 or 13 tokens: chunks of three are too long by 7 to 10 tokens.
    assert plan.text_lengths.tolist()[0] == 29
    assert int(plan.text_lengths.sum()) + plan.num_truncated_tokens == 100


def test_the_tokens_cut_off_are_taken_from_both_ends() -> None:
    assert 0 < coin_sum(np.array([40]), 3, Draw.TRIM_A, np.array([0]))[0] < 40
