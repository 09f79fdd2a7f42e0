"""The draws that pairs are made by, one at a time, for procedures in words."""

import numpy as np

from pretrain.data.options import SamplingOptions
from pretrain.data.pairs import Draw
from pretrain.rng import hash64


class Draws:
    """What is drawn for a sentence of a window."""

    def __init__(self, options: SamplingOptions, draw_key: int) -> None:
        self._options, self._key = options, draw_key

    def target(self, sentence: int) -> int:
        longest = self._options.max_text_tokens
        is_short = self._word(Draw.SHORT, sentence) / 2**64 < self._options.short_sample_probability
        return 2 + self.below(Draw.SHORT_TARGET, sentence, longest - 1) if is_short else longest

    def coin(self, purpose: Draw, sentence: int) -> bool:
        return self._word(purpose, sentence) >> 63 == 1

    def below(self, purpose: Draw, sentence: int, bound: int) -> int:
        return (self._word(purpose, sentence) >> 32) * bound >> 32

    def truncated(self, a: list[int], b: list[int], limit: int, sentence: int) -> tuple[list[int], list[int]]:
        """A token at a time from the longer one, or from B, at the end that a coin says."""
        a, b, taken = a[:], b[:], {Draw.TRIM_A: 0, Draw.TRIM_B: 0}
        while len(a) + len(b) > limit:
            purpose, longer = (Draw.TRIM_A, a) if len(a) > len(b) else (Draw.TRIM_B, b)
            number = taken[purpose]
            word = self._word(purpose, sentence + (number // 64 << 40))
            longer.pop(0 if word >> (63 - number % 64) & 1 else -1)
            taken[purpose] += 1
        return a, b

    def _word(self, purpose: Draw, counter: int) -> int:
        return int(hash64(self._key, np.array([purpose << 48 | counter]))[0])
