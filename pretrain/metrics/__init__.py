"""What a run says of itself: metrics.jsonl, eval.jsonl, ranks.jsonl, TensorBoard and the terminal; from rank 0 only."""

from pretrain.metrics.records import EvalRecord, RanksRecord, Slowest, StepRecord, slowest
from pretrain.metrics.terminal import Terminal
from pretrain.metrics.writer import MetricsWriter

__all__ = ["EvalRecord", "MetricsWriter", "RanksRecord", "Slowest", "StepRecord", "Terminal", "slowest"]
