"""The samples of a window for an objective: next-sentence pairs, sentence-order pairs, or segments for masked
language modelling alone.

A plan is a pure function of the lengths in the window's blocks, the options and a key; other epochs have
other keys, hence other pairs and other cuts.
"""

from collections.abc import Iterable

import numpy as np

from pretrain.data.nsp import plan_nsp
from pretrain.data.options import SamplingOptions
from pretrain.data.samples import NO_LABEL, BlockLengths, SamplePlan, WindowText, ranges
from pretrain.data.sop import plan_sop
from pretrain.rng import hash64


def plan_window(blocks: Iterable[BlockLengths], options: SamplingOptions, draw_key: int) -> SamplePlan:
    """The samples over the concatenated tokens of `blocks`, whole documents each."""
    if options.objective == "mlm":
        return plan_mlm(WindowText.from_blocks(blocks), options, draw_key)
    text = WindowText.from_blocks(blocks, options.max_text_tokens)
    return (plan_sop if options.objective == "sop" else plan_nsp)(text, options, draw_key)


def plan_mlm(text: WindowText, options: SamplingOptions, draw_key: int) -> SamplePlan:
    """Each document cut into contiguous segments of `max_text_tokens`, every token in exactly one of them.

    A document that fits one sample stays whole. A longer one begins with a segment of random length, so that
    the cuts fall elsewhere in each epoch, and ends with what is left. Cuts may go through sentences: ending
    at the last whole one would leave a tenth of the rows empty that no packing could fill.
    """
    longest = options.max_text_tokens
    bounds = text.offsets[text.document_first]
    lengths = np.diff(bounds)
    draws = hash64(draw_key, np.arange(text.num_documents)) >> np.uint64(32)
    random_length = 1 + (draws * np.uint64(longest) >> np.uint64(32)).astype(np.int64)
    first = np.where(lengths > longest, random_length, lengths)
    segments = 1 - (first - lengths) // longest
    number = ranges(np.zeros_like(segments), segments)
    begin, end = np.repeat(bounds[:-1], segments), np.repeat(bounds[1:], segments)
    first_end = np.repeat(bounds[:-1] + first, segments)
    a_start = np.where(number == 0, begin, first_end + (number - 1) * longest)
    a_end = np.where(number == 0, first_end, np.minimum(a_start + longest, end))
    none = np.zeros_like(a_start)
    no_label = np.full_like(a_start, NO_LABEL)
    return SamplePlan(a_start, a_end - a_start, none, none, no_label, text.num_tokens)
