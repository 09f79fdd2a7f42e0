"""How full rows are and what pairs lose, for each objective at the two usual row lengths."""

from typing import Any, get_args, get_type_hints

from data_prep.inspection.scan import spread
from pretrain.data.options import SamplingOptions
from pretrain.data.pack import pack
from pretrain.data.plan import plan_window
from pretrain.data.store import StoreSplit
from pretrain.rng import key

SEQ_LENS = (128, 512)
MAX_BLOCKS = 8
OBJECTIVES: tuple[str, ...] = get_args(get_type_hints(SamplingOptions)["objective"])


def packing(split: StoreSplit, seed: int) -> list[dict[str, Any]]:
    """One entry for each objective and row length: shares of real tokens (special ones included) in the rows, packed
    and with one sample each, and of the text that pairs lose. Planned over `MAX_BLOCKS` blocks at most; an
    objective that makes no sample of this text is left out."""
    blocks = [split.block(index) for index in spread(split.num_blocks, MAX_BLOCKS)]
    found = []
    for objective in OBJECTIVES:
        if objective == "nsp" and split.num_documents < 2:
            continue
        for seq_len in SEQ_LENS:
            options = SamplingOptions(seq_len=seq_len, objective=objective, packing=True)  # type: ignore[arg-type]
            plan = plan_window(blocks, options, key(seed, "inspect"))
            if not plan.num_samples:
                continue
            lengths = plan.text_lengths + options.num_special_tokens
            rows = pack(lengths, seq_len, key(seed, "inspect rows"))
            found.append(
                {
                    "objective": objective,
                    "seq_len": seq_len,
                    "samples": plan.num_samples,
                    "tokens_per_sample": float(lengths.mean()),
                    "real_share_packed": int(lengths.sum()) / (rows.num_rows * seq_len),
                    "real_share_padded": int(lengths.sum()) / (plan.num_samples * seq_len),
                    "truncated_share": plan.num_truncated_tokens / plan.num_window_tokens,
                    "dropped_share": plan.num_dropped_tokens / plan.num_window_tokens,
                }
            )
    return found
