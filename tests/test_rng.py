"""Draws against published values, and their independence of what else is drawn."""

import numpy as np

from pretrain.rng import generator, hash64, key


def test_key_is_the_digest_of_its_parts() -> None:
    """`printf 42/mask/1/2 | b2sum -l 64`, least significant byte first."""
    assert key(42, "mask", 1, 2) == int.from_bytes(bytes.fromhex("de69297fd544e1c5"), "little")


def test_keys_differ_wherever_their_parts_do() -> None:
    keys = [
        key(1, "a"),
        key(1, "b"),
        key(2, "a"),
        key(1, "a", 0),
        key(1, "a", 0, 0),
        key(1, "a", 1, 23),
        key(1, "a", 12, 3),
        key(1, "a", 123),
    ]
    assert len(set(keys)) == len(keys)
    assert all(0 <= each < 1 << 64 for each in keys)


def test_hash64_is_splitmix64() -> None:
    """The first outputs of the authors' reference program for the seeds 0 and 1234567."""
    counters = np.arange(3, dtype=np.uint64)
    assert hash64(0, counters).tolist() == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert hash64(1234567, counters).tolist() == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


def test_a_draw_does_not_depend_on_the_others() -> None:
    counters = np.array([9, 3, 2**40, 3, 0], dtype=np.int64)
    together = hash64((1 << 64) - 5, counters)
    assert together.tolist() == [int(hash64((1 << 64) - 5, counters[i : i + 1])[0]) for i in range(5)]
    assert together[1] == together[3]


def test_draws_are_uniform() -> None:
    bits = np.unpackbits(hash64(7, np.arange(100_000)).view(np.uint8)).reshape(-1, 64)
    # Five standard deviations of a fair coin.
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 5 * 0.5 / 100_000**0.5


def test_generators_are_separate_and_repeatable() -> None:
    first = generator(1, "pairs", 3).random(4)
    assert np.array_equal(first, generator(1, "pairs", 3).random(4))
    assert not np.array_equal(first, generator(1, "pairs", 4).random(4))
