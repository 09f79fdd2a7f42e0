"""Next-sentence pairs as in BERT (Devlin et al. 2018, section 3.1 and appendix A.2).

Sentences of a document are gathered until they reach a target length: mostly all that fits, at times a
random shorter one. The chunk is cut between two of its sentences. In half of the pairs B is the rest of the
chunk; in the other half B is gathered in another document, and the rest goes back to be gathered again. The
longer of the two then loses tokens at either end until the pair fits.

Every sentence has draws of its own, keyed by its number, for the case that a chunk begins with it. What would
happen is thus computed for all sentences at once:

1. for each sentence, where a chunk beginning there would end and be cut;
2. a walk from chunk to chunk, the only loop, which meets one sentence per sample;
3. for the samples met, the random segments and the truncation, again all at once.

Two choices differ from the reference implementation. The shorter target is drawn for each sample, not for
each document. And a chunk of one sentence, which can only be a random pair, is made up for by turning other
random pairs into actual ones: otherwise short documents make far more than half of the pairs random, and a
model that always answers "random" looks as if it had learned.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from pretrain.data.options import SamplingOptions
from pretrain.data.samples import SamplePlan, WindowText
from pretrain.rng import hash64

IS_NEXT, IS_RANDOM = 0, 1
_MIN_TARGET_TOKENS = 2
_SENTENCES_AT_ONCE = 1 << 18
_COUNTER_BITS = 48


class _Draw(IntEnum):
    """What a draw decides; the draws of one sentence differ by this number."""

    SHORT = 0
    SHORT_TARGET = 1
    LABEL = 2
    CUT = 3
    OTHER_DOCUMENT = 4
    OTHER_SENTENCE = 5
    TRIM_A = 6
    TRIM_B = 7


@dataclass(frozen=True)
class _Chunks:
    """Sentence numbers: A is [first, cut), the rest of the chunk [cut, end)."""

    first: np.ndarray
    cut: np.ndarray
    end: np.ndarray
    label: np.ndarray


def plan_nsp(text: WindowText, options: SamplingOptions, draw_key: int) -> SamplePlan:
    """All pairs of a window. B of a random pair is in another document; with one document none is random."""
    chunks = _walk(text, options, draw_key)
    lone = chunks.end - chunks.first == 1
    a_start, a_end = text.offsets[chunks.first], text.offsets[chunks.cut]
    b_start, b_end = a_end.copy(), text.offsets[chunks.end]
    random = np.flatnonzero(chunks.label == IS_RANDOM)
    if random.size:
        first, a_length = chunks.first[random], (a_end - a_start)[random]
        b_start[random], b_end[random] = _random_segments(text, first, a_length, options, draw_key)
    elif lone.any():  # No other document: a lone sentence is cut in two.
        a_end[lone] = b_start[lone] = (a_start + b_end + 1)[lone] // 2

    kept = b_end > b_start
    dropped_tokens = int((a_end - a_start)[~kept].sum())
    a_start, a_end, b_start, b_end = a_start[kept], a_end[kept], b_start[kept], b_end[kept]
    first, label = chunks.first[kept], chunks.label[kept]
    a_length, b_length = fit_pair(a_end - a_start, b_end - b_start, options.max_text_tokens)
    trim_a, trim_b = a_end - a_start - a_length, b_end - b_start - b_length
    return SamplePlan(
        a_start=a_start + _coin_sum(trim_a, draw_key, _Draw.TRIM_A, first),
        a_length=a_length,
        b_start=b_start + _coin_sum(trim_b, draw_key, _Draw.TRIM_B, first),
        b_length=b_length,
        nsp_label=label,
        num_window_tokens=text.num_tokens,
        num_truncated_tokens=int(trim_a.sum() + trim_b[label == IS_NEXT].sum()),
        num_dropped_sentences=int((~kept).sum()),
        num_dropped_tokens=dropped_tokens,
        num_cut_sentences=text.num_cut,
        num_lone_pairs=int((lone[kept] & (label == IS_RANDOM)).sum()),
    )


def fit_pair(a_length: np.ndarray, b_length: np.ndarray, max_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """Lengths after taking one token at a time from the longer segment, or from B where they are equal, until
    both have at most `max_tokens` together; in closed form."""
    half = max_tokens // 2
    both_long = np.minimum(a_length, b_length) > half
    room_a = max_tokens - np.minimum(b_length, half)
    room_b = max_tokens - np.minimum(a_length, half)
    fitted_a = np.where(both_long, max_tokens - half, np.minimum(a_length, room_a))
    fitted_b = np.where(both_long, half, np.minimum(b_length, room_b))
    return fitted_a, fitted_b


def _walk(text: WindowText, options: SamplingOptions, draw_key: int) -> _Chunks:
    """The chunks that are met from the first sentence on, each beginning where the one before left off.

    A chunk of one sentence is one random pair too many; turning a random pair into an actual one makes up for
    two. `owed` is the difference not yet made up for.
    """
    end, cut, coin = _possible_chunks(text, options, draw_key)
    ends, cuts, coins = end.data, cut.data, coin.data
    firsts: list[int] = []
    randoms: list[bool] = []
    num_sentences, any_random = text.num_sentences, text.num_documents > 1
    sentence, owed = 0, 0
    while sentence < num_sentences:
        firsts.append(sentence)
        chunk_end = ends[sentence]
        if chunk_end == sentence + 1:
            is_random = any_random
            owed += 1
        elif coins[sentence] and owed >= 2:
            is_random = False
            owed -= 2
        else:
            is_random = any_random and bool(coins[sentence])
        randoms.append(is_random)
        sentence = cuts[sentence] if is_random else chunk_end
    first = np.array(firsts, dtype=np.int64)
    return _Chunks(first, cut[first], end[first], np.where(randoms, IS_RANDOM, IS_NEXT))


def _possible_chunks(
    text: WindowText, options: SamplingOptions, draw_key: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(end, cut) int32 and (coin for a random pair) bool of the chunk that would begin with each sentence."""
    end = np.repeat(text.document_first[1:].astype(np.int32), np.diff(text.document_first))
    cut = np.empty_like(end)
    coin = np.empty(len(end), dtype=bool)
    for low in range(0, text.num_sentences, _SENTENCES_AT_ONCE):
        part = slice(low, min(low + _SENTENCES_AT_ONCE, text.num_sentences))
        sentences = np.arange(part.start, part.stop)
        reach = text.offsets[low : part.stop + options.max_text_tokens + 1]  # No sentence is empty.
        wanted = text.offsets[part] + _target_lengths(sentences, options, draw_key)
        end[part] = np.minimum(low + np.searchsorted(reach, wanted), end[part])
        places = np.maximum(end[part] - sentences - 1, 1)
        cut[part] = sentences + 1 + _below(_draw(draw_key, _Draw.CUT, sentences), places)
        coin[part] = _draw(draw_key, _Draw.LABEL, sentences) >> np.uint64(63)
    return end, cut, coin


def _random_segments(
    text: WindowText, first: np.ndarray, a_length: np.ndarray, options: SamplingOptions, draw_key: int
) -> tuple[np.ndarray, np.ndarray]:
    """(start, end) tokens of a segment out of a document other than that of sentence `first`.

    It begins with any sentence of the document and takes sentences until the pair has its target length or
    the document ends.
    """
    document = _below(_draw(draw_key, _Draw.OTHER_DOCUMENT, first), text.num_documents - 1)
    document += document >= text.document_of(first)
    low, high = text.document_first[document], text.document_first[document + 1]
    start = low + _below(_draw(draw_key, _Draw.OTHER_SENTENCE, first), high - low)
    wanted = np.maximum(_target_lengths(first, options, draw_key) - a_length, 1)
    end = np.minimum(np.searchsorted(text.offsets, text.offsets[start] + wanted), high)
    return text.offsets[start], text.offsets[end]


def _target_lengths(sentences: np.ndarray, options: SamplingOptions, draw_key: int) -> np.ndarray:
    """Text tokens at which a chunk beginning with each sentence is full."""
    longest = options.max_text_tokens
    threshold = int(options.short_sample_probability * (1 << 53))
    is_short = (_draw(draw_key, _Draw.SHORT, sentences) >> np.uint64(11)).astype(np.int64) < threshold
    span = longest - _MIN_TARGET_TOKENS + 1
    short = _MIN_TARGET_TOKENS + _below(_draw(draw_key, _Draw.SHORT_TARGET, sentences), span)
    return np.where(is_short, short, longest)


def _draw(draw_key: int, purpose: _Draw, counters: np.ndarray) -> np.ndarray:
    """One uint64 draw for each counter."""
    return hash64(draw_key, counters.astype(np.uint64) | np.uint64(purpose << _COUNTER_BITS))


def _below(draws: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Uniform int64 in range(bound), bound < 2**31, from the high half of each draw."""
    return ((draws >> np.uint64(32)) * np.asarray(bound, dtype=np.uint64) >> np.uint64(32)).astype(np.int64)


def _coin_sum(tosses: np.ndarray, draw_key: int, purpose: _Draw, first: np.ndarray) -> np.ndarray:
    """Heads among `tosses` fair coins, Binomial(tosses, 1/2): of the tokens that a segment loses, those that
    it loses at the front. Counts the bits of as many draws as are needed."""
    heads = np.zeros(len(tosses), dtype=np.int64)
    open_, word = np.flatnonzero(tosses), 0
    while open_.size:
        left = np.minimum(tosses[open_] - 64 * word, 64).astype(np.uint64)
        bits = _draw(draw_key, purpose, first[open_] + (word << 40)) >> (np.uint64(64) - left)
        heads[open_] += np.bitwise_count(bits)
        word += 1
        open_ = open_[tosses[open_] > 64 * word]
    return heads
