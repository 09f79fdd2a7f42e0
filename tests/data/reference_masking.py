"""Masking formulated twice more: over all tokens at once in NumPy, and whole words in plain words."""

import numpy as np

from pretrain.data.mask import count_masked
from pretrain.data.samples import SamplePlan, ranges, starts_of
from pretrain.rng import hash64

_HALF, _POSITION, _INDEX = np.uint64(32), np.uint64(16), np.uint64(48)
_POSITIONS, _LOW_HALF = np.uint64((1 << 16) - 1), np.uint64((1 << 32) - 1)


def plan_of_lengths(a_length: np.ndarray, b_length: np.ndarray) -> SamplePlan:
    """Samples whose segments lie one after another: A, B, A, B and so on."""
    begins = starts_of(np.stack([a_length, b_length], axis=1).ravel())
    labels = np.zeros_like(a_length)
    return SamplePlan(begins[:-1:2], a_length, begins[1::2], b_length, labels, int(begins[-1]))


def select_tokens(
    plan: SamplePlan, samples: np.ndarray, mask_probability: float, draw_key: int
) -> tuple[np.ndarray, np.ndarray]:
    """All keys of fewer than 65,536 samples, sorted at once."""
    a_length, b_length = plan.a_length[samples], plan.b_length[samples]
    text_lengths = a_length + b_length
    starts = np.cumsum(text_lengths) - text_lengths
    spans = np.stack([a_length, b_length], axis=1).ravel()
    shifts = np.stack([1 - starts, 2 - starts], axis=1).astype(np.uint64)
    index = np.arange(len(samples), dtype=np.uint64)[:, None]
    places = np.arange(int(text_lengths.sum()), dtype=np.uint64)
    sample = samples.astype(np.uint64)[:, None]
    counters = places + np.repeat((shifts + (sample << _POSITION)).ravel(), spans)
    keys = places + np.repeat((shifts + (index << _INDEX)).ravel(), spans)
    keys |= hash64(draw_key, counters) >> _HALF << _POSITION
    keys.sort()
    chosen = keys[ranges(starts, count_masked(text_lengths, mask_probability))]
    ordered = np.sort(chosen >> _INDEX << _POSITION | chosen & _POSITIONS)
    return (ordered >> _POSITION).astype(np.int64), (ordered & _POSITIONS).astype(np.int64)


def select_words(
    plan: SamplePlan, sample: int, mask_probability: float, draw_key: int, word_starts: np.ndarray
) -> list[int]:
    """Positions selected in one sample, word by word."""

    def draw(key: int, position: int) -> int:
        return int(hash64(key, np.array([sample << 16 | position]))[0]) >> 32

    a, b = int(plan.a_length[sample]), int(plan.b_length[sample])
    words: list[list[int]] = []
    for length, start, shift in ((a, plan.a_start[sample], 1), (b, plan.b_start[sample], a + 2)):
        for place in range(length):
            if place == 0 or word_starts[start + place]:
                words.append([])
            words[-1].append(shift + place)
    words.sort(key=lambda word: (draw(draw_key, word[0]), word[0]))
    left = int(count_masked(np.array([a + b]), mask_probability)[0])
    selected: list[int] = []
    skipped: list[list[int]] = []
    for word in words:
        if len(word) <= left:
            selected += word
            left -= len(word)
        elif left:
            skipped.append(word)
    if left:
        key = draw_key ^ 1 << 62
        selected += sorted(skipped[0], key=lambda position: (draw(key, position), position))[:left]
    return sorted(selected)


def replace(
    tokens: np.ndarray,
    counters: np.ndarray,
    shares: tuple[float, float],
    mask_id: int,
    ordinary_ids: np.ndarray,
    draw_key: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(input ids, is [MASK]); `shares` of [MASK] and of random tokens."""
    draws = hash64(draw_key ^ 1 << 63, counters)
    share, number = draws & _LOW_HALF, draws >> _HALF
    is_mask = share < np.uint64(round(shares[0] * 2**32))
    is_random = ~is_mask & (share < np.uint64(round(sum(shares) * 2**32)))
    random_ids = ordinary_ids[number * np.uint64(len(ordinary_ids)) >> _HALF]
    return np.where(is_mask, mask_id, np.where(is_random, random_ids, tokens)), is_mask
