"""The loops over the samples of some rows: laying out, and selecting and replacing what is to be predicted.

Compiled: each touches a token a few times and makes no copy. They check nothing; `rows` and `mask` give them
arrays of the right sizes, and the spans of a plan lie within the tokens that it was made of.
"""

import numpy as np

from pretrain.compiled import compiled
from pretrain.data.draws import below64, draw64
from pretrain.data.options import POSITION_BITS

_HALF = np.uint64(32)
_LOW_HALF = np.uint64((1 << 32) - 1)
# The order of a sample's tokens or words: draw (32 bits), then number (16 bits).
_POSITION = np.uint64(POSITION_BITS)
_NUMBERS = np.uint64((1 << POSITION_BITS) - 1)
_KEY_BITS = 32 + POSITION_BITS
_MOST_BUCKET_BITS = 12


@compiled
def lay_out(
    tokens: np.ndarray,
    samples: np.ndarray,
    row_ends: np.ndarray,
    spans: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    special: tuple[int, int, int],
    per_token: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    starts: np.ndarray,
    segments: np.ndarray,
) -> int:
    """Writes rows; returns the number of segments, which are samples and paddings.

    `row_ends` [rows]: samples up to the end of each row. `spans`: A's start and length, B's start and length, of
    all samples of the window. `special`: ids of [CLS], [SEP], [PAD]. Written are `per_token`, input ids, token
    types, positions, numbers of samples, [rows, seq_len] each; `starts` [samples], places in the flattened rows;
    and `segments`, the lengths of the segments, in order.
    """
    a_start, a_length, b_start, b_length = spans
    cls, sep, pad = special
    input_ids, token_types, positions, sample_ids = per_token
    seq_len = input_ids.shape[1]
    number, num_segments = 0, 0
    for row in range(len(row_ends)):
        ids, types, place, numbers = input_ids[row], token_types[row], positions[row], sample_ids[row]
        first, at = number, 0
        while number < row_ends[row]:
            sample = samples[number]
            a, b = a_length[sample], b_length[sample]
            begin, sep_at = at, at + 1 + a
            at = sep_at + 1
            ids[begin], ids[sep_at] = cls, sep
            source = a_start[sample]
            for i in range(a):
                ids[begin + 1 + i] = tokens[source + i]
            types[begin:at] = 0
            if b > 0:
                source = b_start[sample]
                for i in range(b):
                    ids[at + i] = tokens[source + i]
                types[at : at + b + 1] = 1
                at += b + 1
                ids[at - 1] = sep
            for i in range(at - begin):
                place[begin + i] = i
            numbers[begin:at] = number - first + 1
            starts[number] = row * seq_len + begin
            segments[num_segments] = at - begin
            num_segments += 1
            number += 1
        if at < seq_len:
            ids[at:], types[at:], place[at:], numbers[at:] = pad, 0, 0, 0
            segments[num_segments] = seq_len - at
            num_segments += 1
    return num_segments


@compiled
def select_tokens(
    draw_key: np.uint64,
    samples: np.ndarray,
    lengths: tuple[np.ndarray, np.ndarray],
    counts: np.ndarray,
    index: np.ndarray,
    positions: np.ndarray,
) -> None:
    """The `counts` tokens with the smallest draws of each sample, ascending, into `index` (into `samples`) and
    `positions`; these have one item more than there are selected tokens. `lengths`: of A and B, of all samples
    of the window."""
    a_length, b_length = lengths
    longest = _longest(samples, a_length, b_length)
    keys, candidates = np.empty(longest, dtype=np.uint64), np.empty(longest, dtype=np.uint64)
    shift, buckets = _buckets(longest)
    at = 0
    for i in range(len(samples)):
        sample = samples[i]
        a, length = a_length[sample], a_length[sample] + b_length[sample]
        for j in range(length):
            keys[j] = _key(draw_key, sample, _position(j, a), j)
        last = _smallest(keys[:length], counts[i], shift, buckets, candidates)
        for j in range(length):
            index[at], positions[at] = i, _position(j, a)
            at += keys[j] <= last


@compiled
def select_words(
    draw_keys: tuple[np.uint64, np.uint64],
    samples: np.ndarray,
    spans: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    word_starts: np.ndarray,
    counts: np.ndarray,
    index: np.ndarray,
    positions: np.ndarray,
) -> None:
    """As `select_tokens`, whole words where they fit; `word_starts` is over the window's tokens, `draw_keys` for
    words and for the tokens of a word of which only a part is selected."""
    a_start, a_length, b_start, b_length = spans
    longest = _longest(samples, a_length, b_length)
    keys, spare = np.empty(longest, dtype=np.uint64), np.empty(longest, dtype=np.uint64)
    word_begins = np.empty(longest + 1, dtype=np.int64)
    chosen = np.zeros(longest, dtype=np.bool_)
    shift, buckets = _buckets(longest)
    at = 0
    for i in range(len(samples)):
        sample, left = samples[i], counts[i]
        a, length = a_length[sample], a_length[sample] + b_length[sample]
        num_words = 0
        for j in range(length):
            token = a_start[sample] + j if j < a else b_start[sample] + j - a
            word_begins[num_words] = j
            num_words += word_starts[token] | (j == 0) | (j == a)
        word_begins[num_words] = length
        for word in range(num_words):
            keys[word] = _key(draw_keys[0], sample, _position(word_begins[word], a), word)
        _sort(keys[:num_words], shift, buckets, spare)
        too_long = -1
        for key in keys[:num_words]:
            word = int(np.int64(key & _NUMBERS))
            begin, end = word_begins[word], word_begins[word + 1]
            if end - begin <= left:
                chosen[begin:end] = True
                left -= end - begin
                if left == 0:
                    break
            elif too_long < 0:
                too_long = word
        if left > 0:
            begin, size = word_begins[too_long], word_begins[too_long + 1] - word_begins[too_long]
            for j in range(size):
                keys[j] = _key(draw_keys[1], sample, _position(begin + j, a), j)
            last = _smallest(keys[:size], left, shift, buckets, spare)
            for j in range(size):
                chosen[begin + j] = keys[j] <= last
        for j in range(length):
            index[at], positions[at] = i, _position(j, a)
            at += chosen[j]
            chosen[j] = False


@compiled
def replace_tokens(
    draw_key: np.uint64,
    samples: np.ndarray,
    positions: np.ndarray,
    mask_below: np.uint64,
    random_below: np.uint64,
    mask_id: int,
    ordinary_ids: np.ndarray,
    inputs: np.ndarray,
    is_mask: np.ndarray,
) -> None:
    """Overwrites `inputs`, the selected tokens, by [MASK] or a random one where the low half of a token's draw
    is below the bounds; the high half chooses the random token."""
    for i in range(len(samples)):
        draw = draw64(draw_key, np.uint64(samples[i]) << _POSITION | np.uint64(positions[i]))
        share = draw & _LOW_HALF
        is_mask[i] = share < mask_below
        if share < mask_below:
            inputs[i] = mask_id
        elif share < random_below:
            inputs[i] = ordinary_ids[below64(draw, len(ordinary_ids))]


@compiled
def _position(place: int, a_length: int) -> int:
    """Position in its sample of the text token number `place`: behind [CLS], and B behind A's [SEP] too."""
    return place + 1 + (place >= a_length)


@compiled
def _key(draw_key: np.uint64, sample: int, position: int, number: int) -> np.uint64:
    """By which the token or word `number` of a sample is put in order: the high half of the draw at its position,
    then its number."""
    draw = draw64(draw_key, np.uint64(sample) << _POSITION | np.uint64(position))
    return (draw >> _HALF) << _POSITION | np.uint64(number)


@compiled
def _longest(samples: np.ndarray, a_length: np.ndarray, b_length: np.ndarray) -> int:
    longest = 0
    for sample in samples:
        longest = max(longest, a_length[sample] + b_length[sample])
    return longest


@compiled
def _buckets(longest: int) -> tuple[np.uint64, np.ndarray]:
    """About as many buckets as a sample has tokens, and the shift that leaves of a key the number of its bucket."""
    bits = 1
    while bits < _MOST_BUCKET_BITS and (1 << bits) < longest:
        bits += 1
    return np.uint64(_KEY_BITS - bits), np.empty(1 << bits, dtype=np.int32)


@compiled
def _smallest(
    keys: np.ndarray, count: int, shift: np.uint64, buckets: np.ndarray, spare: np.ndarray
) -> np.uint64:
    """The `count`-th smallest of distinct keys, `count` at least 1: buckets are counted until it is reached, and
    the one that holds it is sorted."""
    buckets[:] = 0
    for value in keys:
        buckets[value >> shift] += 1
    bucket, rank = 0, count
    while buckets[bucket] < rank:
        rank -= buckets[bucket]
        bucket += 1
    size = 0
    for value in keys:
        if value >> shift == np.uint64(bucket):
            spare[size] = value
            size += 1
    _insertion_sort(spare[:size])
    return spare[rank - 1]


@compiled
def _sort(keys: np.ndarray, shift: np.uint64, buckets: np.ndarray, spare: np.ndarray) -> None:
    """Ascending, in place: into buckets, after which hardly a key is far from its place."""
    buckets[:] = 0
    for value in keys:
        buckets[value >> shift] += 1
    end = 0
    for bucket in range(len(buckets)):
        size = buckets[bucket]
        buckets[bucket] = end
        end += size
    for i in range(len(keys)):
        bucket = keys[i] >> shift
        spare[buckets[bucket]] = keys[i]
        buckets[bucket] += 1
    keys[:] = spare[: len(keys)]
    _insertion_sort(keys)


@compiled
def _insertion_sort(keys: np.ndarray) -> None:
    for i in range(1, len(keys)):
        value, j = keys[i], i
        while j > 0 and keys[j - 1] > value:
            keys[j] = keys[j - 1]
            j -= 1
        keys[j] = value
