"""Draws one at a time, inside compiled loops of other files: what they compute must never change.

Counters and draws are np.uint64.
"""

import numpy as np

from pretrain.compiled import compiled

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_1, _27, _30, _31, _32 = (np.uint64(number) for number in (1, 27, 30, 31, 32))


@compiled
def draw64(draw_key: np.uint64, counter: np.uint64) -> np.uint64:
    """The draw of one counter, as `pretrain.rng.hash64` gives it."""
    z = (counter + _1) * _GOLDEN + draw_key
    z = (z ^ (z >> _30)) * _MIX_1
    z = (z ^ (z >> _27)) * _MIX_2
    return z ^ (z >> _31)


@compiled
def below64(draw: np.uint64, bound: int) -> int:
    """Uniform in range(bound), 0 < bound < 2**31, from the high half of a draw."""
    return int(np.int64((draw >> _32) * np.uint64(bound) >> _32))
