"""Sentence-order pairs as in ALBERT (Lan et al. 2019, section 3.1): two consecutive segments of one document, in
half of the pairs in reversed order.

Chunks are gathered and cut as for next-sentence pairs (`pairs`), but each goes on behind the one before: whatever
its order, all of its text is shown, and no other document is needed. A chunk of one sentence, for which ALBERT's
own code falls back on another document, is cut in the middle; a sentence of one token is dropped and counted.

The order must not show in the lengths. A chunk is full with the sentence that makes it too long, so that its
last part is longer than its first: half of the documents are therefore gathered from their end. A pair loses what
is too much after it was turned round, and of a sentence of odd length A has the longer half whichever it is.
Lengths alone then tell the order no better than guessing; gathered one way, of 128 tokens, they told 54%.
"""

import numpy as np

from pretrain.data.options import SamplingOptions
from pretrain.data.pairs import Pairs, fitted, gather
from pretrain.data.samples import SamplePlan, WindowText

IN_ORDER, SWAPPED = 0, 1


def plan_sop(text: WindowText, options: SamplingOptions, draw_key: int) -> SamplePlan:
    """All pairs of a window."""
    chunks = gather(text, options, draw_key, either_way=True)
    start, middle, end = (text.offsets[sentence] for sentence in (chunks.first, chunks.cut, chunks.end))
    swapped, lone = chunks.coin, chunks.is_lone
    middle[lone] = (start + end + ~swapped)[lone] // 2
    # A sentence of one token is all A, and has no B.
    middle[end - start == 1] = end[end - start == 1]
    turned = swapped & (middle < end)
    pairs = Pairs(
        first=chunks.first,
        a_start=np.where(turned, middle, start),
        a_end=np.where(turned, end, middle),
        b_start=np.where(turned, start, middle),
        b_end=np.where(turned, middle, end),
        label=np.where(swapped, SWAPPED, IN_ORDER),
        b_is_own=np.ones(len(start), dtype=np.bool_),
    )
    return fitted(text, pairs, options, draw_key, num_lone_pairs=0)
