"""Random draws as pure functions of (seed, purpose, indices).

No draw depends on how many draws came before it, so a run that is stopped, cut differently or spread over
other ranks makes the same choices. Three forms serve three needs: `key` derives a 64-bit key, `generator`
gives a NumPy generator of its own for one purpose, `hash64` draws for many counters at once.
"""

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def key(seed: int, purpose: str, *indices: int) -> int:
    """A 64-bit key that is distinct for each (seed, purpose, indices)."""
    text = "/".join([str(seed), purpose, *map(str, indices)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def generator(seed: int, purpose: str, *indices: int) -> np.random.Generator:
    """A counter-based (Philox) generator for one purpose."""
    return np.random.Generator(np.random.Philox(key=key(seed, purpose, *indices)))


def hash64(draw_key: int, counters: np.ndarray) -> np.ndarray:
    """Uniform uint64 draws, one for each counter and independent of which other counters are asked for.

    The finaliser of SplitMix64 (Steele, Lea, Flood 2014) over `key + (counter + 1) * golden ratio`.
    """
    with np.errstate(over="ignore"):
        z = counters.astype(np.uint64)
        z += np.uint64(1)
        z *= _GOLDEN
        z += np.uint64(draw_key)
        z ^= z >> np.uint64(30)
        z *= _MIX_1
        z ^= z >> np.uint64(27)
        z *= _MIX_2
        z ^= z >> np.uint64(31)
        return z
