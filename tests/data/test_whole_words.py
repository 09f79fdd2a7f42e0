"""Whole-word masking: against the rule in words, closed forms for few words, and one word that is all the text."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.mask import Masking, count_masked, ordinary_ids
from pretrain.data.options import SamplingOptions
from pretrain.data.samples import SamplePlan
from tests.data.fakes import ALL_SPECIAL_IDS, SPECIAL_IDS, VOCAB_SIZE
from tests.data.reference_masking import plan_of_lengths, select_words

NUM_SAMPLES = 30_000
lengths_strategy = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=15)
keys = st.integers(0, 2**64 - 1)


def masking(draw_key: int, probability: float = 0.15) -> Masking:
    options = SamplingOptions(128, "nsp", packing=True, mask_probability=probability, whole_words=True)
    return Masking(options, SPECIAL_IDS["mask"], ordinary_ids(VOCAB_SIZE, ALL_SPECIAL_IDS), draw_key)


def equal_samples(word_lengths: list[int], num_samples: int = NUM_SAMPLES) -> tuple[SamplePlan, np.ndarray]:
    """Samples of A alone, all of words of these lengths; and where words begin."""
    length = sum(word_lengths)
    plan = plan_of_lengths(np.full(num_samples, length), np.zeros(num_samples, dtype=np.int64))
    starts = np.zeros(length, dtype=np.bool_)
    starts[np.cumsum([0, *word_lengths[:-1]])] = True
    return plan, np.tile(starts, num_samples)


def selections(word_lengths: list[int], num_selected: int) -> Counter[tuple[int, ...]]:
    """How often each set of positions, counted from 0, is selected."""
    plan, starts = equal_samples(word_lengths)
    length = sum(word_lengths)
    index, positions = masking(9, num_selected / length).select(plan, np.arange(NUM_SAMPLES), starts)
    assert np.bincount(index).tolist() == [num_selected] * NUM_SAMPLES
    return Counter(map(tuple, (positions - 1).reshape(NUM_SAMPLES, num_selected).tolist()))


@given(
    lengths=lengths_strategy,
    draw_key=keys,
    probability=st.floats(0.01, 1.0),
    share=st.sampled_from([0.0, 0.1, 0.5, 0.8, 1.0]),
)
def test_selected_are_those_of_the_rule_in_words(
    lengths: list[tuple[int, int]], draw_key: int, probability: float, share: float
) -> None:
    plan = plan_of_lengths(*np.array(lengths).T)
    starts = np.random.default_rng(draw_key).random(plan.num_window_tokens) < share
    samples = np.arange(len(lengths))[::-1].copy()
    index, positions = masking(draw_key, probability).select(plan, samples, starts)
    for number, sample in enumerate(samples.tolist()):
        expected = select_words(plan, sample, probability, draw_key, starts)
        assert positions[index == number].tolist() == expected
        assert len(expected) == count_masked(plan.text_lengths[[sample]], probability)[0]


@given(lengths=lengths_strategy, draw_key=keys, probability=st.floats(0.01, 1.0))
def test_words_of_one_token_are_masked_as_tokens_are(
    lengths: list[tuple[int, int]], draw_key: int, probability: float
) -> None:
    plan = plan_of_lengths(*np.array(lengths).T)
    samples, starts = np.arange(len(lengths)), np.ones(plan.num_window_tokens, dtype=np.bool_)
    words = masking(draw_key, probability).select(plan, samples, starts)
    tokens = masking(draw_key, probability).select(plan, samples)
    assert [part.tolist() for part in words] == [part.tolist() for part in tokens]


@given(lengths=lengths_strategy, draw_key=keys)
def test_at_most_one_word_of_a_sample_is_selected_in_part(
    lengths: list[tuple[int, int]], draw_key: int
) -> None:
    plan = plan_of_lengths(*np.array(lengths).T)
    starts = np.random.default_rng(draw_key).random(plan.num_window_tokens) < 0.6
    index, positions = masking(draw_key, 0.3).select(plan, np.arange(len(lengths)), starts)
    for sample, (a, b) in enumerate(lengths):
        begins = plan.a_start[sample]
        first = [
            True,
            *starts[begins + 1 : begins + a],
            *([True] if b else []),
            *starts[begins + a + 1 :][: b - 1],
        ]
        word = np.cumsum(first[: a + b])
        chosen = positions[index == sample]
        text = chosen - 1 - (chosen > a)
        sizes, taken = np.bincount(word), np.bincount(word[text], minlength=word[-1] + 1)
        assert ((taken > 0) & (taken < sizes)).sum() <= 1


# A word of two tokens (positions 0 and 1) and two of one (2 and 3), in all six orders of their draws.
@pytest.mark.parametrize(
    ("num_selected", "expected"),
    [
        # Whatever comes first, the first word of one token is selected.
        (1, {(2,): 1 / 2, (3,): 1 / 2}),
        # The long word first; or a short one, after which only the other one fits.
        (2, {(0, 1): 1 / 3, (2, 3): 2 / 3}),
        # The long word among the first two; or both short ones and then half of the long one.
        (3, {(0, 1, 2): 1 / 3, (0, 1, 3): 1 / 3, (0, 2, 3): 1 / 6, (1, 2, 3): 1 / 6}),
        (4, {(0, 1, 2, 3): 1.0}),
    ],
)
def test_words_of_two_lengths_in_closed_form(
    num_selected: int, expected: dict[tuple[int, ...], float]
) -> None:
    counts = selections([2, 1, 1], num_selected)
    assert counts.keys() == expected.keys()
    for chosen, share in expected.items():
        deviation = np.sqrt(NUM_SAMPLES * share * (1 - share))
        assert abs(counts[chosen] - NUM_SAMPLES * share) <= 5 * deviation


def test_words_of_one_length_are_equally_likely() -> None:
    """Ten words of three tokens, two of them selected: each pair of words in 1 of 45 samples."""
    counts = selections([3] * 10, 6)
    assert len(counts) == 45
    chi_square = sum((count - NUM_SAMPLES / 45) ** 2 / (NUM_SAMPLES / 45) for count in counts.values())
    assert chi_square < 78.7  # 99.9% point for 44 degrees of freedom
    assert all(sorted(chosen) == list(chosen) and chosen[2] == chosen[0] + 2 for chosen in counts)


def test_text_that_is_one_word_is_masked_token_by_token() -> None:
    plan, starts = equal_samples([30])
    index, positions = masking(4).select(plan, np.arange(NUM_SAMPLES), starts)
    # 4.5 of 30 tokens rounded up, each of them alike: Binomial(30000, 1/6).
    counts = np.bincount(positions, minlength=31)[1:]
    assert len(index) == 5 * NUM_SAMPLES
    assert np.abs(counts - NUM_SAMPLES / 6).max() < 5 * np.sqrt(NUM_SAMPLES * 5 / 36)


def test_the_first_token_of_a_segment_begins_a_word() -> None:
    """A and B of two tokens each, none of which begins a word in the text: A or B is selected, whole."""
    plan = plan_of_lengths(np.full(1000, 2), np.full(1000, 2))
    starts = np.zeros(plan.num_window_tokens, dtype=np.bool_)
    _, positions = masking(2, 0.5).select(plan, np.arange(1000), starts)
    counts = Counter(map(tuple, positions.reshape(1000, 2).tolist()))
    assert counts.keys() == {(1, 2), (4, 5)}
    assert abs(counts[1, 2] - 500) < 5 * np.sqrt(250)
