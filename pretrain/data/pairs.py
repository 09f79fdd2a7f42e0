"""What next-sentence and sentence-order pairs share: chunks of sentences, and fitting a pair into a sample.

Sentences of a document are gathered until they reach a target length: mostly all that fits, at times a random
shorter one. The chunk is cut between two of its sentences, into what A and B are made of (BERT's procedure,
Devlin et al. 2018, appendix A.2, which ALBERT took over). The longer of the two then loses tokens at either end
until the pair fits.

Every sentence has draws of its own, keyed by its number, for the case that a chunk begins with it. The shorter
target is drawn for each sample, not for each document as in the reference implementation.
"""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from pretrain.compiled import compiled
from pretrain.data.draws import below64, draw64
from pretrain.data.options import SamplingOptions
from pretrain.data.samples import SamplePlan, WindowText
from pretrain.rng import hash64

_MIN_TARGET_TOKENS = 2
_COUNTER_BITS = 48
_PURPOSE, _53_BITS, _1_BIT, _1 = (np.uint64(number) for number in (_COUNTER_BITS, 64 - 53, 63, 1))


class Draw(IntEnum):
    """What a draw decides; the draws of one sentence differ by this number."""

    SHORT = 0
    SHORT_TARGET = 1
    LABEL = 2
    CUT = 3
    OTHER_DOCUMENT = 4
    OTHER_SENTENCE = 5
    TRIM_A = 6
    TRIM_B = 7
    BACKWARD = 8


# numba takes plain integers only.
_SHORT, _SHORT_TARGET, _LABEL, _CUT = (int(purpose) for purpose in list(Draw)[:4])
_BACKWARD = int(Draw.BACKWARD)


@dataclass(frozen=True)
class Chunks:
    """Sentence numbers, int64: the first part is [first, cut), the rest of the chunk [cut, end).

    `coin`: bool, what the draw of the label says. `target`: tokens at which the chunk was full.
    """

    first: np.ndarray
    cut: np.ndarray
    end: np.ndarray
    coin: np.ndarray
    target: np.ndarray

    @property
    def is_lone(self) -> np.ndarray:
        """Chunks of one sentence, of which `cut` is the end."""
        return self.end - self.first == 1


@dataclass(frozen=True)
class Pairs:
    """Spans of tokens [start, end) before they are fitted, one entry per pair; `first`: the chunk's sentence.

    `b_is_own`: B comes from the chunk and is shown nowhere else. An empty B means that A has no partner.
    """

    first: np.ndarray
    a_start: np.ndarray
    a_end: np.ndarray
    b_start: np.ndarray
    b_end: np.ndarray
    label: np.ndarray
    b_is_own: np.ndarray


def gather(
    text: WindowText,
    options: SamplingOptions,
    draw_key: int,
    *,
    rest_goes_back: bool = False,
    either_way: bool = False,
) -> Chunks:
    """The chunks that are met from the first sentence of each document on, each beginning where the one before
    left off; with `either_way`, half of the documents are gathered from their last sentence on.

    With `rest_goes_back`, a chunk whose coin is 1 gives back what lies behind its cut, to be gathered again, and
    a chunk of one sentence has the coin 1 whatever it drew. As each of these is one too many, the coin of another
    chunk is then turned to 0 for every two of them.
    """
    threshold = int(options.short_sample_probability * (1 << 53))
    columns = _gather(
        text.offsets,
        text.document_first,
        np.uint64(draw_key),
        options.max_text_tokens,
        np.uint64(threshold),
        rest_goes_back,
        either_way,
    )
    return Chunks(columns[0], columns[1], columns[2], columns[3] == 1, columns[4])


@compiled
def _gather(
    offsets: np.ndarray,
    document_first: np.ndarray,
    draw_key: np.uint64,
    longest: int,
    short_below: np.uint64,
    rest_goes_back: bool,
    either_way: bool,
) -> np.ndarray:
    """The columns of `Chunks`, [5, chunks] int64; at most one chunk begins with a sentence."""
    columns = np.empty((5, len(offsets) - 1), dtype=np.int64)
    number, owed = 0, 0
    for document in range(len(document_first) - 1):
        low, high = document_first[document], document_first[document + 1]
        backward = either_way and _draw(draw_key, _BACKWARD, low) >> _1_BIT == _1
        while low < high:
            sentence = high - 1 if backward else low
            target = longest
            if _draw(draw_key, _SHORT, sentence) >> _53_BITS < short_below:
                draw = _draw(draw_key, _SHORT_TARGET, sentence)
                target = _MIN_TARGET_TOKENS + below64(draw, longest - _MIN_TARGET_TOKENS + 1)
            first, end = sentence, sentence + 1
            while end - first < high - low and offsets[end] - offsets[first] < target:
                first, end = (first - 1, end) if backward else (first, end + 1)
            cut = first + 1 + below64(_draw(draw_key, _CUT, sentence), max(end - first - 1, 1))
            coin = int(np.int64(_draw(draw_key, _LABEL, sentence) >> _1_BIT))
            if rest_goes_back:
                if end == first + 1:
                    coin = 1
                    owed += 1
                elif coin == 1 and owed >= 2:
                    coin = 0
                    owed -= 2
            columns[0, number], columns[1, number], columns[2, number] = first, cut, end
            columns[3, number], columns[4, number] = coin, target
            number += 1
            if backward:
                high = first
            else:
                low = cut if rest_goes_back and coin == 1 else end
    return columns[:, :number].copy()


@compiled
def _draw(draw_key: np.uint64, purpose: int, sentence: int) -> np.uint64:
    """`draws` for one sentence."""
    return draw64(draw_key, np.uint64(sentence) | np.uint64(purpose) << _PURPOSE)


def fitted(
    text: WindowText, pairs: Pairs, options: SamplingOptions, draw_key: int, num_lone_pairs: int
) -> SamplePlan:
    """The samples of `pairs`: those without a partner are dropped and counted, the others lose what is too much."""
    kept = pairs.b_end > pairs.b_start
    first, a_start, b_start = pairs.first[kept], pairs.a_start[kept], pairs.b_start[kept]
    a_all, b_all = pairs.a_end[kept] - a_start, pairs.b_end[kept] - b_start
    a_length, b_length = fit_pair(a_all, b_all, options.max_text_tokens)
    trim_a, trim_b = a_all - a_length, b_all - b_length
    return SamplePlan(
        a_start=a_start + coin_sum(trim_a, draw_key, Draw.TRIM_A, first),
        a_length=a_length,
        b_start=b_start + coin_sum(trim_b, draw_key, Draw.TRIM_B, first),
        b_length=b_length,
        nsp_label=pairs.label[kept],
        num_window_tokens=text.num_tokens,
        num_truncated_tokens=int(trim_a.sum() + trim_b[pairs.b_is_own[kept]].sum()),
        num_dropped_sentences=int((~kept).sum()),
        num_dropped_tokens=int((pairs.a_end - pairs.a_start)[~kept].sum()),
        num_cut_sentences=text.num_cut,
        num_lone_pairs=num_lone_pairs,
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


def draws(draw_key: int, purpose: Draw, sentences: np.ndarray) -> np.ndarray:
    """One uint64 draw for each sentence."""
    return hash64(draw_key, sentences.astype(np.uint64) | np.uint64(purpose << _COUNTER_BITS))


def below(values: np.ndarray, bound: np.ndarray | int) -> np.ndarray:
    """Uniform int64 in range(bound), bound < 2**31, from the high half of each draw."""
    return ((values >> np.uint64(32)) * np.asarray(bound, dtype=np.uint64) >> np.uint64(32)).astype(np.int64)


def coin_sum(tosses: np.ndarray, draw_key: int, purpose: Draw, first: np.ndarray) -> np.ndarray:
    """Heads among `tosses` fair coins, Binomial(tosses, 1/2): of the tokens that a segment loses, those that
    it loses at the front. Counts the bits of as many draws as are needed."""
    heads = np.zeros(len(tosses), dtype=np.int64)
    open_, word = np.flatnonzero(tosses), 0
    while open_.size:
        left = np.minimum(tosses[open_] - 64 * word, 64).astype(np.uint64)
        bits = draws(draw_key, purpose, first[open_] + (word << 40)) >> (np.uint64(64) - left)
        heads[open_] += np.bitwise_count(bits)
        word += 1
        open_ = open_[tosses[open_] > 64 * word]
    return heads
