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


# 8 GPUs a node, with the hops of NCCL's own table: 160 GB/s leave a node.
A100 = Network(Link(235e9, 3.4e-6), Link(20e9, 9.6e-6))
US = 1e-6


@pytest.mark.parametrize(
    ("num_bytes", "group", "expected"),
    [
        # LL round the ring of one node, a quarter of 235 GB/s; an all-reduce's 14 hops.
        (8, Group(8, 1), (3.6 + 14 * 0.47) * US + 2 * 8 * 7 / 8 / (235e9 / 4)),
        # LL up and down the tree, whose hops inside are 1.8 times as long: 80 GB/s / 3.8.
        (8, Group(256, 32), (4.4 + 2 * (7 * 0.52 * 1.8 + 5 * 5.0)) * US + 2 * 8 / (80e9 / 3.8)),
        # LL128, the same way: 0.915 of 105 GB/s.
        (4e6, Group(256, 32), (4.4 + 2 * (7 * 1.2 + 5 * 8.5)) * US + 2 * 4e6 / (0.915 * 105e9)),
        # LL128 round the ring: 0.92 of 160 GB/s.
        (
            *(700e6, Group(256, 32)),
            (10 + 2 * (224 * 1.9 + 31 * 4.0)) * US + 2 * 700e6 * 255 / 256 / (0.92 * 160e9),
        ),
        # Simple, 80 GB/s out of 4 GPUs; what is large starts and hops 1.9 times as slowly.
        (1e9, Group(8, 2), 1.9 * (8.4 + 2 * (6 * 3.4 + 9.6)) * US + 2 * 1e9 * 7 / 8 / 80e9),
        # GPUs alone on their nodes: 0.7 of 20 GB/s by LL128, log2 of 6 nodes is 2 in whole hops of the tree.
        (3e5, Group(6, 6), (4.4 + 2 * 2 * 8.5) * US + 2 * 3e5 / (0.915 * 0.9 * 20e9)),
    ],
)
def test_the_quickest_of_ring_and_tree(num_bytes: float, group: Group, expected: float) -> None:
    assert all_reduce_seconds(num_bytes, group, A100) == pytest.approx(expected)


def test_a_gather_of_each_protocol() -> None:
    """Of 16 GPUs alone on their nodes, and of 8 on one."""
    assert ring_seconds(16, Group(16, 16), A100) == pytest.approx((3.6 + 15 * 2.7) * US + 15 / (20e9 / 4))
    by_ll128 = (10 + 15 * 4.0) * US + 15e5 / (0.7 * 20e9)
    assert ring_seconds(16e5, Group(16, 16), A100) == pytest.approx(by_ll128)
    by_simple = (8.4 + 15 * 9.6) * US + 15e6 / 20e9
    assert ring_seconds(16e6, Group(16, 16), A100) == pytest.approx(by_simple)
    assert ring_seconds(8, Group(8, 1), A100) == pytest.approx((3.6 + 7 * 0.47) * US + 7 / (235e9 / 3))


def test_longer_hops_are_longer_by_every_protocol() -> None:
    """Twice as long between nodes: 5 of LL's, up and down."""
    slow = Network(A100.inside, Link(20e9, 2 * 9.6e-6))
    more = all_reduce_seconds(8, Group(256, 32), slow) - all_reduce_seconds(8, Group(256, 32), A100)
    assert more == pytest.approx(2 * 5 * 5.0 * US)


def test_the_slowest_link_of_a_ring() -> None:
    """12 links of 10 out of a node are faster than one of 100 in it; a rank alone on its node has one of them."""
    wide, single = Group(24, 2), Group(2, 2)
    assert ring_seconds(24_000, wide, NO_HOPS) == pytest.approx(23_000 / 100 + START)
    assert ring_seconds(200, single, NO_HOPS) == pytest.approx(100 / 10 + START)


def test_one_rank_exchanges_nothing() -> None:
    assert ring_seconds(1e9, Group(1, 1), SLOW) == all_reduce_seconds(1e9, Group(1, 1), SLOW) == 0
