"""Draws one at a time are those of all at once."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.draws import below64, draw64
from pretrain.data.pairs import below
from pretrain.rng import hash64

uint64s = st.integers(0, 2**64 - 1)


@given(draw_key=uint64s, counter=uint64s, bound=st.integers(1, 2**31 - 1))
def test_a_draw_is_that_of_the_vectorised_one(draw_key: int, counter: int, bound: int) -> None:
    expected = hash64(draw_key, np.array([counter], dtype=np.uint64))
    drawn = draw64(np.uint64(draw_key), np.uint64(counter))
    assert int(drawn) == int(expected[0])
    assert below64(np.uint64(drawn), bound) == int(below(expected, bound)[0])
