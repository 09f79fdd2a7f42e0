"""Collectives by hand: NCCL's formulas in round figures."""

import pytest

from pretrain.plan.collectives import Group, Link, Network, all_reduce_seconds, ring_seconds

START = 8.4e-6
# 100 bytes a second inside and 10 between; hops of 1/8 and of 1 second.
SLOW = Network(Link(100.0, 0.125), Link(10.0, 1.0))
NO_HOPS = Network(Link(100.0, 0.0), Link(10.0, 0.0))


def test_one_node_without_hops() -> None:
    """Of 800 bytes on 4 ranks three quarters pass each link: 600 / 100; an all-reduce twice."""
    assert ring_seconds(800, Group(4, 1), NO_HOPS) == pytest.approx(6 + START)
    assert all_reduce_seconds(800, Group(4, 1), NO_HOPS) == pytest.approx(12 + START)


def test_hops() -> None:
    """8 ranks on 2 nodes: 6 hops inside and one between; links out of a node are 4 x 10."""
    group = Group(8, 2)
    assert ring_seconds(8000, group, SLOW) == pytest.approx(6 / 8 + 1 + 7000 / 40 + START)
    assert all_reduce_seconds(8000, group, SLOW) == pytest.approx(2 * (6 / 8 + 1 + 7000 / 40) + START)


def test_what_is_small_goes_up_and_down_a_tree() -> None:
    """64 ranks on 16 nodes: 3 hops inside and 4 between, against 48 and 15 round the ring; a quarter of 4 x 10."""
    found = all_reduce_seconds(8, Group(64, 16), SLOW)
    assert found == pytest.approx(2 * (3 / 8 + 4 + 8 / 10) + START)
    large = all_reduce_seconds(64_000, Group(64, 16), SLOW)
    assert large == pytest.approx(2 * (48 / 8 + 15 + 63_000 / 40) + START)


def test_the_slowest_link_of_a_ring() -> None:
    """12 links of 10 out of a node are faster than one of 100 in it; a rank alone on its node has one of them."""
    wide, single = Group(24, 2), Group(2, 2)
    assert ring_seconds(24_000, wide, NO_HOPS) == pytest.approx(23_000 / 100 + START)
    assert ring_seconds(200, single, NO_HOPS) == pytest.approx(100 / 10 + START)


def test_one_rank_exchanges_nothing() -> None:
    assert ring_seconds(1e9, Group(1, 1), SLOW) == all_reduce_seconds(1e9, Group(1, 1), SLOW) == 0
