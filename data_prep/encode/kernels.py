"""The compiled inner loop of encoding: cut text into words and look each one up.

The text is UTF-8, sentences end with NUL, and `PADDING` zero bytes follow the last one. A `Cut` says by tables
of bytes where words begin and end:

1. bytes of class WHITE separate chunks, END ends a sentence;
2. a chunk that holds a byte of class WHOLE (not plain ASCII) is one word as it is;
3. any other chunk falls into runs of one class, and single bytes of class ALONE; contractions as in GPT-2.

The key of a word is its bytes: with A-Z folded to a-z, if the cut folds; after a space, if the cut keeps the space
before a word. A key of up to 16 bytes is two integers, compared exactly. A longer one is a hash and, in the other
integer, where its bytes lie and how many they are, and these are compared; no UTF-8 begins with the byte that marks
it, so the two kinds never meet. Beside its key lies what a word gives (see `gathering`): most words cost one look at
one place of memory, for which a busy machine waits longest.
Keys longer than `MAX_KEY_BYTES` are not looked up, nor chunks of class WHOLE longer than `MAX_WHOLE_BYTES`: such a
chunk is half a sentence of a script without spaces, which never comes again.

Numba makes int64 and uint64 together a float64: positions in the loop over words are uint64, elsewhere int64.
"""

from typing import Any, NamedTuple

import numpy as np

from data_prep.encode.gathering import NO_TOKENS, PENDING
from pretrain.compiled import compiled

WHITE, END, WHOLE, ALONE, FIRST_RUN = range(5)

PADDING = 16
MAX_KEY_BYTES = 128
MAX_WHOLE_BYTES = 48
_SHORT_KEY_BYTES = np.uint64(16)

_U0, _U1, _U2, _U8, _U32, _U56 = (np.uint64(number) for number in (0, 1, 2, 8, 32, 56))
_SPACE = np.uint64(ord(" "))
_MIX_0, _MIX_1 = np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)  # of MurmurHash3
_LONG = np.uint64(0xFF << 56)
_LONG_AT, _LONG_AT_MASK, _LONG_KEY_MASK = (
    np.uint64(16),
    np.uint64((1 << 40) - 1),
    np.uint64(0xFF << 56 | 0xFFFF),
)
_LOW_MASKS = np.array([(1 << 8 * min(count, 8)) - 1 for count in range(17)], dtype=np.uint64)
_HIGH_MASKS = np.array([(1 << 8 * max(count - 8, 0)) - 1 for count in range(17)], dtype=np.uint64)
# A byte gets its top bit where it is at least "A", and where it is more than "Z".
_FROM_A, _OVER_Z = np.uint64(0x3F3F3F3F3F3F3F3F), np.uint64(0x2525252525252525)
_TOP_BITS = np.uint64(0x8080808080808080)


class Cut(NamedTuple):
    """How a tokenizer's words lie in text: `classes` uint8 [256], by byte."""

    classes: np.ndarray
    folds: bool
    keeps_space: bool
    space_before_first: bool
    has_contractions: bool


class Table(NamedTuple):
    """Open addressing: `slots` uint64 [power of two, 3] holds the two integers of a key and what it gives, 0 where no
    key is.

    `counts` int64: entries, most entries, bytes of long keys. `long_bytes` uint8 are these.
    """

    slots: np.ndarray
    counts: np.ndarray
    long_bytes: np.ndarray


class Found(NamedTuple):
    """What a scan finds: what each word gives, uint64; where in them each sentence ends, int64; the keys of new
    entries, uint8, a line break after each; their slots, int64; how many bytes and how many entries these are.
    """

    words: np.ndarray
    ends: np.ndarray
    new_keys: np.ndarray
    new_slots: np.ndarray
    num_new: np.ndarray


@compiled
def _mixed(low: np.uint64, high: np.uint64) -> np.uint64:
    mixed = ((low ^ (low >> _U32)) * _MIX_0) ^ (high * _MIX_1)
    return mixed ^ (mixed >> _U32)


@compiled
def _folded(eight: np.uint64) -> np.uint64:
    """Eight ASCII bytes with A-Z as a-z."""
    return eight | (((eight + _FROM_A) & ~(eight + _OVER_Z) & _TOP_BITS) >> _U2)


@compiled
def _byte(text: np.ndarray, at: int, folds: bool) -> np.uint8:
    byte = text[at]
    return byte + np.uint8(32) if folds and 65 <= byte <= 90 else byte


@compiled
def _home(low: np.uint64, high: np.uint64) -> np.uint64:
    """Where the search for a key of the table begins: of a long one by its hash and length."""
    return _mixed(low, high & _LONG_KEY_MASK if high >= _LONG else high)


@compiled
def _same_long(
    table: Table, at: int, text: np.ndarray, start: int, end: int, space: int, folds: bool
) -> bool:
    if space and table.long_bytes[at] != 32:
        return False
    at += space - start
    i = start
    while i < end and table.long_bytes[at + i] == _byte(text, i, folds):
        i += 1
    return i == end


@compiled
def _add(
    table: Table, found: Found, slot: np.uint64, text: np.ndarray, word: np.uint64, word_end: np.uint64,
    num_spaces: np.uint64, folds: bool, low: np.uint64, high: np.uint64,
) -> np.uint64:  # fmt: skip
    """What the new key gives, once it is resolved; 0 if there is no room for it."""
    start, end, space = np.int64(word), np.int64(word_end), np.int64(num_spaces)
    entries, most, long_at = table.counts
    if entries == most or long_at + MAX_KEY_BYTES > len(table.long_bytes):
        return _U0
    table.counts[0] += 1
    first, number = found.num_new
    at = first
    if space:
        found.new_keys[at] = 32
        at += 1
    for i in range(start, end):
        found.new_keys[at] = _byte(text, i, folds)
        at += 1
    if at - first > 16:
        high |= np.uint64(long_at) << _LONG_AT
        table.long_bytes[long_at : long_at + at - first] = found.new_keys[first:at]
        table.counts[2] += at - first
    found.new_keys[at] = 10
    found.new_slots[number] = np.int64(slot)
    found.num_new[0], found.num_new[1] = at + 1, number + 1
    given = PENDING | np.uint64(number)
    table.slots[slot, 0], table.slots[slot, 1], table.slots[slot, 2] = low, high, given
    return given


@compiled
def _key(eights: np.ndarray, start: np.uint64, length: np.uint64, space: np.uint64, folds: bool) -> Any:
    """The two integers of a word of up to 16 bytes, after `space` spaces (0 or 1)."""
    low, high = eights[start] & _LOW_MASKS[length], eights[start + _U8] & _HIGH_MASKS[length]
    if folds:
        low, high = _folded(low), _folded(high)
    if space != 0:
        high = (high << _U8) | (low >> _U56)
        low = (low << _U8) | _SPACE
    return low, high


@compiled
def _long_key(text: np.ndarray, start: int, end: int, space: int, folds: bool) -> Any:
    """The two integers of a longer word: a hash, and the length under a mark."""
    low = np.uint64(space)
    for i in range(start, end):
        low = (low ^ np.uint64(_byte(text, i, folds))) * _MIX_0
        low ^= low >> _U32
    return low, _LONG | np.uint64(end - start + space)


@compiled
def _slot_of(slots: np.ndarray, low: np.uint64, high: np.uint64) -> np.uint64:
    """The slot of a key of up to 16 bytes, or the empty one where it belongs."""
    mask = np.uint64(len(slots) - 1)
    slot = _mixed(low, high) & mask
    while slots[slot, 2] != _U0 and (slots[slot, 0] != low or slots[slot, 1] != high):
        slot = (slot + _U1) & mask
    return slot


@compiled
def _look_up_long(
    table: Table, found: Found, text: np.ndarray, word: np.uint64, word_end: np.uint64, num_spaces: np.uint64,
    folds: bool, is_whole: bool,
) -> np.uint64:  # fmt: skip
    """What a word of more than 16 bytes gives, new where it is unknown; 0 if there is no room for it."""
    start, end, space = np.int64(word), np.int64(word_end), np.int64(num_spaces)
    if end - start + space > (MAX_WHOLE_BYTES if is_whole else MAX_KEY_BYTES):
        return NO_TOKENS
    low, high = _long_key(text, start, end, space, folds)
    slots = table.slots
    mask = np.uint64(len(slots) - 1)
    slot = _mixed(low, high) & mask
    while slots[slot, 2] != _U0:
        if slots[slot, 0] == low and slots[slot, 1] & _LONG_KEY_MASK == high:
            at = np.int64((slots[slot, 1] >> _LONG_AT) & _LONG_AT_MASK)
            if _same_long(table, at, text, start, end, space, folds):
                return slots[slot, 2]
        slot = (slot + _U1) & mask
    return _add(table, found, slot, text, word, word_end, num_spaces, folds, low, high)


@compiled
def _contraction(text: np.ndarray, at: np.uint64, folds: bool) -> np.uint64:
    """Bytes of the English contraction behind the apostrophe at `at`, as GPT-2's pattern knows them, or 0."""
    a, b = _byte(text, at + _U1, folds), _byte(text, at + _U2, folds)
    if a == 115 or a == 116 or a == 109 or a == 100:  # s t m d
        return _U1
    if (a == 114 and b == 101) or (a == 118 and b == 101) or (a == 108 and b == 108):  # re ve ll
        return _U2
    return _U0


@compiled
def _word_end(
    text: np.ndarray, classes: np.ndarray, at: np.uint64, may_contract: bool, folds: bool
) -> np.uint64:
    """Where the run of one class that begins at `at` ends, or the contraction."""
    if may_contract and text[at] == 39:
        extra = _contraction(text, at, folds)
        if extra > 0:
            return at + _U1 + extra
    end = at + _U1
    while classes[text[end]] == classes[text[at]]:
        end += _U1
    return end


@compiled
def scan(
    text: np.ndarray, eights: np.ndarray, start: np.uint64, cut: Cut, table: Table, found: Found
) -> tuple[Any, Any]:
    """Whole sentences from byte `start` on: (byte after the last of them, number of sentences).

    `eights` is a view of the text as uint64 with a stride of one byte. Ends early, before a sentence, when the
    table is full.
    """
    # Taken out of their tuples once: numba counts a reference each time an array is.
    classes, cut_folds, keeps_space, space_before_first, has_contractions = cut
    slots, words, ends = table.slots, found.words, found.ends
    num_sentences = num_words = _U0
    i = sentence_start = start
    space = has_word = _U0
    end_of_text = np.uint64(len(text) - PADDING)
    while i < end_of_text:
        kind = classes[text[i]]
        if kind <= END:
            i += _U1
            space = has_word
            if kind == END:
                ends[num_sentences] = num_words
                num_sentences += _U1
                sentence_start, space, has_word = i, _U0, _U0
            continue
        if not keeps_space:
            space = _U0
        elif has_word == 0 and space_before_first:
            space = _U1
        has_word = _U1
        chunk, first_word, first_space = i, num_words, space
        while kind > END:
            end = i + _U1
            if kind == WHOLE:
                i, num_words, space = chunk, first_word, first_space
                while classes[text[end]] > END:
                    end += _U1
            elif kind >= FIRST_RUN:
                end = _word_end(text, classes, i, has_contractions and space == 0, cut_folds)
            is_whole = kind == WHOLE
            folds = cut_folds and not is_whole
            if end - i + space <= _SHORT_KEY_BYTES:
                low, high = _key(eights, i, end - i, space, folds)
                slot = _slot_of(slots, low, high)
                given = slots[slot, 2]
                if given == _U0:
                    given = _add(table, found, slot, text, i, end, space, folds, low, high)
            else:
                given = _look_up_long(table, found, text, i, end, space, folds, is_whole)
            if given == _U0:
                return sentence_start, num_sentences
            words[num_words] = given
            num_words += _U1
            i, space = end, _U0
            kind = classes[text[i]]
    return i, num_sentences


@compiled
def rehash(old: np.ndarray, new: np.ndarray) -> None:
    """Put the used slots of `old` into the empty slots `new`."""
    mask = np.uint64(len(new) - 1)
    for i in range(len(old)):
        if old[i, 2] != _U0:
            slot = _home(old[i, 0], old[i, 1]) & mask
            while new[slot, 2] != _U0:
                slot = (slot + np.uint64(1)) & mask
            new[slot] = old[i]
