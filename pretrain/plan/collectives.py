"""How long one collective of NCCL takes, by its own cost model: a part for every hop and a part for every byte.

Of S bytes (the whole tensor) over n ranks on m nodes, with n / m ranks a node, of which each has a link into its node
and one out of it:

- all-gather and reduce-scatter go round a ring: S (n - 1) / n bytes pass every link, over n - m hops inside nodes and
  m - 1 between them;
- all-reduce is both, twice as many of each; or, where S is small, a tree of n / m - 1 hops inside and log2 m between,
  up and down, at a quarter of the bandwidth (NCCL's low-latency protocol). The faster of the two counts.

As many rings as a node has ranks run side by side, each out of the node by another link, so that a ring over many nodes
is as fast as the slower of a GPU's link inside and all links out of the node together.

Formulas: Thakur et al. 2005 (doi 10.1177/1094342005051521), sections 4.1 and 4.4; nccl-tests, doc/PERFORMANCE.md
(whose "bus bandwidth" is the bandwidth here); NCCL, src/graph/tuning.cc, for hops and for what starting one costs.
"""

from dataclasses import dataclass
from math import ceil, log2

_START_SECONDS = 8.4e-6
_TREE_BANDWIDTH = 1 / 4


@dataclass(frozen=True)
class Link:
    """Of one GPU, one way. `bytes_per_second`: what collectives achieve; nccl-tests' bus bandwidth."""

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


def ring_seconds(num_bytes: float, group: Group, network: Network) -> float:
    """An all-gather, or a reduce-scatter, of `num_bytes` in all."""
    return _START_SECONDS + _round(num_bytes, group, network) if group.ranks > 1 else 0.0


def all_reduce_seconds(num_bytes: float, group: Group, network: Network) -> float:
    """Round the ring twice or up and down the tree, whichever is faster."""
    if group.ranks == 1:
        return 0.0
    hops = (group.ranks / group.nodes - 1) * network.inside.hop_seconds
    hops += ceil(log2(group.nodes)) * network.between.hop_seconds
    tree = hops + num_bytes / (_TREE_BANDWIDTH * _bytes_per_second(group, network))
    return _START_SECONDS + 2 * min(tree, _round(num_bytes, group, network))


def _round(num_bytes: float, group: Group, network: Network) -> float:
    """Once round the ring."""
    ranks, nodes = group.ranks, group.nodes
    hops = (ranks - nodes) * network.inside.hop_seconds + (nodes - 1) * network.between.hop_seconds
    return hops + num_bytes * (ranks - 1) / ranks / _bytes_per_second(group, network)


def _bytes_per_second(group: Group, network: Network) -> float:
    inside, between = network.inside.bytes_per_second, network.between.bytes_per_second
    per_node = group.ranks / group.nodes
    if group.nodes == 1:
        return inside
    return between if per_node <= 1 else min(inside, per_node * between)
