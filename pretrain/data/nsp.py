"""Next-sentence pairs as in BERT (Devlin et al. 2018, section 3.1 and appendix A.2).

In half of the pairs B is the rest of the chunk (`pairs`); in the other half B is gathered in another document, and
the rest goes back to be gathered again.

One choice differs from the reference implementation: a chunk of one sentence, which can only be a random pair,
is made up for by turning other random pairs into actual ones. Otherwise short documents make far more than half
of the pairs random, and a model that always answers "random" looks as if it had learned. Where all documents have
one sentence there is nothing to turn: all pairs are random, and `SamplePlan.num_actual_pairs` says so.
"""

import numpy as np

from pretrain.data.options import SamplingOptions
from pretrain.data.pairs import Chunks, Draw, Pairs, below, draws, fitted, gather
from pretrain.data.samples import SamplePlan, WindowText

IS_NEXT, IS_RANDOM = 0, 1


def plan_nsp(text: WindowText, options: SamplingOptions, draw_key: int) -> SamplePlan:
    """All pairs of a window. B of a random pair is in another document; with one document none is random."""
    any_random = text.num_documents > 1
    chunks = gather(text, options, draw_key, rest_goes_back=any_random)
    a_start, a_end = text.offsets[chunks.first], text.offsets[chunks.cut]
    b_start, b_end = a_end.copy(), text.offsets[chunks.end]
    lone = chunks.is_lone
    is_random = chunks.coin & any_random
    if any_random:
        b_start[is_random], b_end[is_random] = _random_segments(text, chunks, is_random, draw_key)
    else:  # A lone sentence is cut in two.
        a_end[lone] = b_start[lone] = (a_start + b_end + 1)[lone] // 2
    label = np.where(is_random, IS_RANDOM, IS_NEXT)
    pairs = Pairs(chunks.first, a_start, a_end, b_start, b_end, label, ~is_random)
    return fitted(text, pairs, options, draw_key, num_lone_pairs=int((lone & is_random).sum()))


def _random_segments(
    text: WindowText, chunks: Chunks, is_random: np.ndarray, draw_key: int
) -> tuple[np.ndarray, np.ndarray]:
    """(start, end) tokens of a segment out of a document other than the chunk's own, for the random chunks.

    It begins with any sentence of the document and takes sentences until the pair has its target length or
    the document ends.
    """
    first, cut, target = chunks.first[is_random], chunks.cut[is_random], chunks.target[is_random]
    document = below(draws(draw_key, Draw.OTHER_DOCUMENT, first), text.num_documents - 1)
    document += document >= text.document_of(first)
    low, high = text.document_first[document], text.document_first[document + 1]
    start = low + below(draws(draw_key, Draw.OTHER_SENTENCE, first), high - low)
    wanted = np.maximum(target - (text.offsets[cut] - text.offsets[first]), 1)
    end = np.minimum(np.searchsorted(text.offsets, text.offsets[start] + wanted), high)
    return text.offsets[start], text.offsets[end]
