"""How long one collective of NCCL takes, by its own cost model: a part for every hop and a part for every byte.

Of S bytes (the whole tensor) over n ranks on m nodes, with n / m ranks a node, of which each has a link into its node
and one out of it:

- all-gather and reduce-scatter go round a ring: S (n - 1) / n bytes pass every link, over n - m hops inside nodes and
  m - 1 between them;
- all-reduce is both, twice as many of each; or goes up a tree and down: S bytes twice, n / m - 1 hops inside and log2 m
  between, also twice.

Each goes by one of three protocols: LL, whose hops are short and which has a quarter of the bandwidth; LL128, between;
Simple, which has all of it. The quickest counts. As many rings as a node has ranks run side by side,
each out of the node by another link, so that a ring over many nodes is as fast as the slower of a GPU's link inside and
all links out of the node together.

Figures and formulas: NCCL, src/graph/tuning.cc (commit 01afd20), with NVLink inside nodes and the limits of A100;
Thakur et al. 2005 (doi 10.1177/1094342005051521), sections 4.1 and 4.4; nccl-tests, doc/PERFORMANCE.md (whose "bus
bandwidth" is the bandwidth here). The hops there are of one fabric: where the links here have others, those of all
protocols are as many times as long.

Left out: NCCL's correction for trees of 1 KB to 128 MB, by which they are up to 2.5 times as slow as here; what LL128
reaches at most in one channel; sums inside switches (CollNet, NVLS); and that NCCL's kernels take processors from the
computation that they hide behind.
"""

from dataclasses import dataclass
from math import log2

_US = 1e-6
# NCCL's hops round a ring by Simple, which `Link.hop_seconds` of the two links stand for.
_HOP_INSIDE, _HOP_BETWEEN = 3.4 * _US, 9.6 * _US
_PLATEAU_BYTES = 4096  # of an all-reduce, for each rank, from which it is large
_TREE = 0.9  # of the bandwidth


@dataclass(frozen=True)
class Link:
    """Of one GPU, one way. `bytes_per_second`: what collectives achieve; nccl-tests' bus bandwidth. `hop_seconds`: of a
    ring, by Simple."""

    bytes_per_second: float
    hop_seconds: float


@dataclass(frozen=True)
class Network:
    """A GPU's link to those of its node, and its share of the links to other nodes."""

    inside: Link
    between: Link


@dataclass(frozen=True)
class Group:
    """Ranks that take part, evenly on so many nodes. Other groups may use the other GPUs' links at the same time."""

    ranks: int
    nodes: int


@dataclass(frozen=True)
class _Hops:
    """Seconds to start, of a hop inside a node and of one between nodes. `longer`: those inside, of several nodes."""

    start: float
    inside: float
    between: float
    longer: float = 1.0

    def seconds(self, inside: float, between: float, nodes: int, network: Network) -> float:
        """Of so many, on the links that there are."""
        scale_inside = network.inside.hop_seconds / _HOP_INSIDE * (self.longer if nodes > 1 else 1.0)
        scale_between = network.between.hop_seconds / _HOP_BETWEEN
        return inside * self.inside * scale_inside + between * self.between * scale_between


@dataclass(frozen=True)
class _Ring:
    """Shares of the bandwidth: of a gather on one node, of an all-reduce there, on several nodes, and on several with
    one rank each. `plateau`: how much longer start and hops of a large all-reduce over several nodes take."""

    hops: _Hops
    gather: float
    one_node: float
    nodes: float
    single_ranks: float
    plateau: float = 1.0

    def seconds(self, rounds: int, num_bytes: float, group: Group, network: Network) -> float:
        """So many times round."""
        ranks, nodes = group.ranks, group.nodes
        latency = self.hops.start + rounds * self.hops.seconds(ranks - nodes, nodes - 1, nodes, network)
        if rounds == 2 and nodes > 1 and num_bytes >= _PLATEAU_BYTES * ranks:
            latency *= self.plateau
        share = self.nodes if ranks >= 2 * nodes else self.single_ranks
        if nodes == 1:
            share = self.gather if rounds == 1 else self.one_node
        moved = rounds * num_bytes * (ranks - 1) / ranks
        return latency + moved / (share * _bytes_per_second(group, network))


@dataclass(frozen=True)
class _Tree:
    """Shares of the bandwidth on one node and on several; `most`: bytes per second on up to two nodes and on more."""

    hops: _Hops
    one_node: float
    nodes: float
    most: tuple[float, float]

    def seconds(self, num_bytes: float, group: Group, network: Network) -> float:
        """Up and down."""
        nodes = group.nodes
        hops = 2 * self.hops.seconds(group.ranks / nodes - 1, int(log2(nodes)), nodes, network)
        share = self.nodes if nodes > 1 else self.one_node
        rate = share * min(_TREE * _bytes_per_second(group, network), self.most[nodes > 2])
        return self.hops.start + hops + 2 * num_bytes / rate


# By LL, LL128 and Simple.
_RINGS = (
    _Ring(_Hops(3.6 * _US, 0.47 * _US, 2.7 * _US, 1.8), 1 / 3, 1 / 4, 1 / 4, 1 / 4),
    _Ring(_Hops(10.0 * _US, 1.9 * _US, 4.0 * _US), 0.92, 0.92, 0.92, 0.7),
    _Ring(_Hops(8.4 * _US, 3.4 * _US, 9.6 * _US), 1.0, 1.0, 1.0, 1.0, 1.9),
)
_TREES = (
    _Tree(_Hops(4.4 * _US, 0.52 * _US, 5.0 * _US, 1.8), 1 / 3.8, 1 / 3.8, (110e9, 80e9)),
    _Tree(_Hops(4.4 * _US, 1.2 * _US, 8.5 * _US), 7 / 9, 0.915, (130e9, 105e9)),
    _Tree(_Hops(0.0, 28.0 * _US, 50.0 * _US), 1.0, 1.0, (110e9, 80e9)),
)


def ring_seconds(num_bytes: float, group: Group, network: Network) -> float:
    """An all-gather, or a reduce-scatter, of `num_bytes` in all."""
    if group.ranks == 1:
        return 0.0
    return min(ring.seconds(1, num_bytes, group, network) for ring in _RINGS)


def all_reduce_seconds(num_bytes: float, group: Group, network: Network) -> float:
    """Round the ring twice or up and down the tree, whichever is faster."""
    if group.ranks == 1:
        return 0.0
    rings = (ring.seconds(2, num_bytes, group, network) for ring in _RINGS)
    return min(*rings, *(tree.seconds(num_bytes, group, network) for tree in _TREES))


def _bytes_per_second(group: Group, network: Network) -> float:
    inside, between = network.inside.bytes_per_second, network.between.bytes_per_second
    per_node = group.ranks / group.nodes
    if group.nodes == 1:
        return inside
    return between if per_node <= 1 else min(inside, per_node * between)
