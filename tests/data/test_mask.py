"""Masking: exact counts, the right shares, and the same choice whoever else is asked for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.mask import Masking, count_masked, ordinary_ids
from pretrain.data.options import SamplingOptions
from tests.data import reference_masking
from tests.data.fakes import ALL_SPECIAL_IDS, SPECIAL_IDS, VOCAB_SIZE
from tests.data.reference_masking import plan_of_lengths

OPTIONS = SamplingOptions(128, "nsp", packing=True)
ORDINARY = ordinary_ids(VOCAB_SIZE, ALL_SPECIAL_IDS)
lengths_strategy = st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=40)


def masking(draw_key: int = 1, options: SamplingOptions = OPTIONS) -> Masking:
    return Masking(options, SPECIAL_IDS["mask"], ORDINARY, draw_key)


@pytest.mark.parametrize(
    ("length", "expected"), [(1, 1), (3, 1), (9, 1), (10, 2), (17, 3), (30, 5), (125, 19), (509, 76)]
)
def test_counts_round_half_up(length: int, expected: int) -> None:
    """By hand: 0.15 * 10 = 1.5 -> 2, 0.15 * 30 = 4.5 -> 5, 0.15 * 125 = 18.75 -> 19."""
    assert count_masked(np.array([length]), 0.15).tolist() == [expected]


@given(lengths=lengths_strategy, draw_key=st.integers(0, 2**64 - 1), probability=st.floats(0.01, 1.0))
def test_every_sample_has_its_exact_count_among_its_text(
    lengths: list[tuple[int, int]], draw_key: int, probability: float
) -> None:
    a_length, b_length = np.array(lengths).T
    options = SamplingOptions(128, "nsp", packing=True, mask_probability=probability)
    plan = plan_of_lengths(a_length, b_length)
    index, positions = masking(draw_key, options).select(plan, np.arange(len(a_length)))
    assert np.bincount(index).tolist() == count_masked(a_length + b_length, probability).tolist()
    chosen = list(zip(index.tolist(), positions.tolist(), strict=True))
    assert chosen == sorted(set(chosen))
    for sample, position in chosen:
        a, b = lengths[sample]
        assert 1 <= position <= a or a + 2 <= position <= a + 1 + b


@given(lengths=lengths_strategy, data=st.data())
def test_a_sample_is_masked_alike_whichever_others_are_asked_for(
    lengths: list[tuple[int, int]], data: st.DataObject
) -> None:
    a_length, b_length = np.array(lengths).T
    samples = np.array(data.draw(st.permutations(range(len(lengths)))))[: len(lengths) // 2 + 1]
    plan = plan_of_lengths(a_length, b_length)
    all_index, all_positions = masking().select(plan, np.arange(len(lengths)))
    index, positions = masking().select(plan, samples)
    for number, sample in enumerate(samples):
        assert positions[index == number].tolist() == all_positions[all_index == sample].tolist()


@given(lengths=lengths_strategy, draw_key=st.integers(0, 2**64 - 1), probability=st.floats(0.01, 1.0))
def test_selected_are_those_of_sorting_all_draws(
    lengths: list[tuple[int, int]], draw_key: int, probability: float
) -> None:
    plan = plan_of_lengths(*np.array(lengths).T)
    samples = np.arange(len(lengths))[::-1].copy()
    options = SamplingOptions(128, "nsp", packing=True, mask_probability=probability)
    expected = reference_masking.select_tokens(plan, samples, probability, draw_key)
    selected = masking(draw_key, options).select(plan, samples)
    assert [part.tolist() for part in selected] == [part.tolist() for part in expected]


def test_a_row_of_the_greatest_length_is_masked_alike() -> None:
    plan = plan_of_lengths(np.array([40_000, 3]), np.array([25_533, 0]))
    for probability in (0.15, 1.0):
        options = SamplingOptions(65_536, "nsp", packing=True, mask_probability=probability)
        expected = reference_masking.select_tokens(plan, np.arange(2), probability, 8)
        selected = masking(8, options).select(plan, np.arange(2))
        assert all(np.array_equal(one, other) for one, other in zip(selected, expected, strict=True))


def test_replaced_are_those_of_drawing_for_all_at_once() -> None:
    options = SamplingOptions(128, "nsp", packing=True, mask_token_share=0.37, random_token_share=0.41)
    samples, positions = np.arange(20_000) // 7, np.arange(20_000) % 7 + 1
    tokens = np.arange(20_000) % 900 + 50
    counters, shares = samples << 16 | positions, (0.37, 0.41)
    expected = reference_masking.replace(tokens, counters, shares, SPECIAL_IDS["mask"], ORDINARY, 2**64 - 3)
    replaced = masking(2**64 - 3, options).replace(samples, positions, tokens)
    assert all(np.array_equal(one, other) for one, other in zip(replaced, expected, strict=True))


@given(lengths=lengths_strategy, seed=st.integers(0, 2**32))
def test_with_probability_1_every_text_token_is_selected(lengths: list[tuple[int, int]], seed: int) -> None:
    """Whole words or not."""
    plan = plan_of_lengths(*np.array(lengths).T)
    options = SamplingOptions(128, "nsp", packing=True, mask_probability=1.0)
    word_starts = np.random.default_rng(seed).random(plan.num_window_tokens) < 0.5
    expected = [
        (number, position)
        for number, (a, b) in enumerate(lengths)
        for position in [*range(1, a + 1), *range(a + 2, a + b + 2)]
    ]
    for starts in (None, word_starts):
        selected = masking(seed, options).select(plan, np.arange(len(lengths)), starts)
        assert [*zip(*(part.tolist() for part in selected), strict=True)] == expected


def test_a_probability_near_0_selects_one_token_of_each_sample() -> None:
    plan = plan_of_lengths(np.arange(1, 126), np.zeros(125, dtype=np.int64))
    options = SamplingOptions(128, "nsp", packing=True, mask_probability=1e-9)
    for starts in (None, np.zeros(plan.num_window_tokens, dtype=np.bool_)):
        assert masking(1, options).select(plan, np.arange(125), starts)[0].tolist() == list(range(125))


def test_every_text_token_is_selected_equally_often() -> None:
    num_samples = 20_000
    a_length, b_length = np.full(num_samples, 12), np.full(num_samples, 8)
    _, positions = masking(3).select(plan_of_lengths(a_length, b_length), np.arange(num_samples))
    counts = np.bincount(positions, minlength=22)
    text = np.r_[1:13, 14:22]
    # Three of twenty tokens each: Binomial(20000, 0.15).
    assert np.abs(counts[text] - 3000).max() < 5 * np.sqrt(20_000 * 0.15 * 0.85)
    assert counts.sum() == counts[text].sum()


def test_shares_of_replacement() -> None:
    number = 200_000
    tokens = np.full(number, 700)
    inputs, is_mask = masking(4).replace(np.arange(number) // 10, np.arange(number) % 10 + 1, tokens)
    assert ((inputs == SPECIAL_IDS["mask"]) == is_mask).all()
    other = inputs[~is_mask & (inputs != 700)]
    deviation = np.sqrt(number * 0.1 * 0.9)
    assert abs(int(is_mask.sum()) - 0.8 * number) < 5 * np.sqrt(number * 0.8 * 0.2)
    # One random token in 995 is the original one.
    assert abs(len(other) - 0.1 * number * 994 / 995) < 5 * deviation
    assert not np.isin(other, ALL_SPECIAL_IDS).any()
    assert len(np.unique(other)) == len(ORDINARY) - 1
    assert abs(other.mean() - ORDINARY.mean()) < 5 * ORDINARY.std() / np.sqrt(len(other))


@pytest.mark.parametrize(("mask_share", "random_share"), [(1.0, 0.0), (0.0, 1.0), (0.0, 0.0)])
def test_extreme_shares(mask_share: float, random_share: float) -> None:
    options = SamplingOptions(
        128, "nsp", packing=True, mask_token_share=mask_share, random_token_share=random_share
    )
    tokens = np.full(1000, 2_000)  # outside the vocabulary: no random token is equal
    inputs, is_mask = masking(1, options).replace(np.arange(1000), np.ones(1000, np.int64), tokens)
    assert is_mask.mean() == mask_share
    assert ((inputs != 2_000) & ~is_mask).mean() == random_share


def test_selection_and_replacement_are_independent() -> None:
    """The token with the smallest draw of a sample is [MASK] or replaced like any other."""
    number = 50_000
    options = SamplingOptions(128, "nsp", packing=True, mask_probability=0.02)
    lengths = np.full(number, 40)
    index, positions = masking(5, options).select(plan_of_lengths(lengths, lengths * 0), np.arange(number))
    inputs, is_mask = masking(5, options).replace(index, positions, np.full(number, 2_000))
    assert abs(is_mask.mean() - 0.8) < 5 * np.sqrt(0.16 / number)
    random = inputs[~is_mask & (inputs != 2_000)]
    assert abs(random.mean() - ORDINARY.mean()) < 5 * ORDINARY.std() / np.sqrt(len(random))
