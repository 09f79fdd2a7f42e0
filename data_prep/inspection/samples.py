"""The first samples of a run, as the model will see them.

The rows are those of epoch 0, window 0, made by what makes them in training; a run over this split with the same
seed and the same sampling options (packing, and the defaults for the rest) begins with them.
"""

from typing import Any

import numpy as np
from tokenizers import Tokenizer

from data_prep.inspection.options import InspectOptions
from data_prep.inspection.reading import Reader
from pretrain.data.mask import Masking, ordinary_ids
from pretrain.data.options import SamplingOptions
from pretrain.data.order import permute
from pretrain.data.pack import pack
from pretrain.data.plan import plan_window
from pretrain.data.rows import RowArrays
from pretrain.data.store import StoreSplit, TokenStore
from pretrain.data.windows import PlannedWindow, RowCounts
from pretrain.rng import key

_LABELS = {
    "nsp": ("B follows A", "B is from another document"),
    "sop": ("A and B are in order", "A and B are swapped"),
}


def first_samples(
    store: TokenStore, split: StoreSplit, tokenizer: Tokenizer, options: InspectOptions
) -> list[dict[str, Any]]:
    """`options.num_samples` samples; raises UsageError for a row length or an objective that there is not."""
    ids = store.special_ids
    sampling = sampling_options(split, options)
    reader = Reader(tokenizer, ids["mask"], {ids["cls"], ids["sep"], ids["pad"]})
    window = _first_window(store, split, sampling, options.seed)
    rows = window.rows
    num_rows = int(np.searchsorted(rows.offsets, options.num_samples).clip(max=rows.num_rows))
    arrays = window.layout.arrays(0, num_rows)
    row_of_sample = np.repeat(np.arange(num_rows), np.diff(rows.offsets[: num_rows + 1]))
    shown: list[dict[str, Any]] = []
    for index, row in enumerate(row_of_sample[: options.num_samples].tolist()):
        sample = rows.samples[index : index + 1]
        place = {
            "sample": f"0:0:{int(window.blocks_of(sample)[0])}:{int(sample[0])}",
            "row": row,
            "number_in_row": index - int(rows.offsets[row]) + 1,
            "samples_in_row": int(rows.offsets[row + 1] - rows.offsets[row]),
            "objective": sampling.objective,
            "seq_len": sampling.seq_len,
        }
        shown.append(place | _describe(arrays, index, sampling, reader, ids))
    return shown


def sampling_options(split: StoreSplit, options: InspectOptions) -> SamplingOptions:
    """How a run makes samples by default, for the objective asked for or else the one that the split allows."""
    objective = options.objective or ("nsp" if split.num_documents > 1 else "mlm")
    return SamplingOptions(seq_len=options.seq_len, objective=objective, packing=True)  # type: ignore[arg-type]


def _first_window(
    store: TokenStore, split: StoreSplit, sampling: SamplingOptions, seed: int
) -> PlannedWindow:
    """Epoch 0, window 0, as `pretrain.data.stream.RowStream` plans it; that module would load torch."""
    first = np.arange(min(sampling.window_blocks, split.num_blocks))
    blocks = permute(first, split.num_blocks, key(seed, "blocks", 0)).tolist()
    plan = plan_window(map(split.block, blocks), sampling, key(seed, "plan", 0, 0))
    lengths = plan.text_lengths + sampling.num_special_tokens
    rows = pack(lengths, sampling.seq_len, key(seed, "rows", 0, 0), sampling.packing)
    replacements = ordinary_ids(store.vocab_size, store.all_special_ids)
    mask_key = key(seed, "mask", 0, 0)
    return PlannedWindow(
        epoch=0,
        window=0,
        source=(0, 0),
        split=split,
        blocks=blocks,
        plan=plan,
        rows=rows,
        counts=RowCounts.of(plan, rows, sampling),
        masking=Masking(sampling, store.special_ids["mask"], replacements, mask_key),
        special_ids=store.special_ids,
    )


def _describe(
    arrays: RowArrays, index: int, sampling: SamplingOptions, reader: Reader, ids: dict[str, int]
) -> dict[str, Any]:
    """The texts and the labels of one sample, the `index`-th of the rows."""
    start = int(arrays.cls_positions[index])
    later = arrays.segment_lengths.cumsum()
    end = int(later[np.searchsorted(later, start, side="right")])
    seen = arrays.input_ids[start:end]
    chosen = (arrays.masked_positions >= start) & (arrays.masked_positions < end)
    positions, labels = arrays.masked_positions[chosen] - start, arrays.masked_labels[chosen]
    original = seen.copy()
    original[positions] = labels
    types = arrays.token_type_ids[start:end]
    is_text = ~np.isin(original, [ids["cls"], ids["sep"]])
    label = int(arrays.nsp_labels[index])
    pairs = _LABELS.get(sampling.objective)
    return {
        "num_tokens": len(seen),
        "label": label if pairs else None,
        "label_means": pairs[label] if pairs else None,
        "seen": reader.marked(seen.tolist(), original.tolist()),
        "to_predict": [
            {
                "position": position,
                "token": reader.word(token),
                "seen_as": reader.word(seen_as),
                "is_mask": seen_as == ids["mask"],
            }
            for position, token, seen_as in zip(
                positions.tolist(), labels.tolist(), seen[positions].tolist(), strict=True
            )
        ],
        "a": reader.plain(original[is_text & (types == 0)].tolist()),
        "b": reader.plain(original[is_text & (types == 1)].tolist()) if pairs else None,
    }
