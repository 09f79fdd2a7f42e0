"""The text of a token store as the peers read it: the same tokens, in the three forms that `run_mlm.py` knows.

- `lines`: each sentence is a line, as in BERT's own input files, and a sample (`--line_by_line`); what is longer than
  the model takes is cut off;
- `pieces`: documents cut into pieces that fill the model, the last one as long as it is; not a form of `run_mlm.py`,
  but what a careful user would give it;
- `concatenated`: all text end to end, cut every `seq_len` tokens without regard to documents (its default).

Samples have the columns that its tokenizing leaves. `open_lines` is for ours: a store whose documents are the lines.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa

from data_prep.demo import build_demo_store
from data_prep.options import DEFAULT_VOCAB_SIZE
from pretrain.data.store import (
    SPLITS,
    Documents,
    StoreLayout,
    StoreSplit,
    StoreWriter,
    TokenStore,
    partial_path,
)

QUICK_BYTES = 3_000_000  # of text
FORMS = ("lines", "pieces", "concatenated")
_EDGES = 2  # [CLS] and [SEP]


def open_demo(cache: Path, quick: bool) -> Path:
    """The demo text in the cache as a store with a vocabulary of BERT's size, built unless it is there; for the quick
    forms some of the text with the demo's own small vocabulary."""
    cache.mkdir(parents=True, exist_ok=True)
    vocab_size = None if quick else DEFAULT_VOCAB_SIZE
    store = cache / f"demo-store-{vocab_size or 'quick'}"
    if not store.exists():
        build_demo_store(store, num_bytes=QUICK_BYTES if quick else None, vocab_size=vocab_size)
    return store


def open_lines(cache: Path, path: Path) -> Path:
    """A store beside that at `path` in which each sentence is a document, written to the cache unless it is there."""
    store = TokenStore.open(path)
    lines = cache / f"lines-store-{store.fingerprint[:16]}"
    if lines.exists():
        return lines
    shutil.rmtree(partial_path(lines), ignore_errors=True)  # of a start that was killed
    about = store.manifest
    layout = StoreLayout(about.vocab_size, about.special_ids, about.all_special_ids, about.block_tokens)
    with StoreWriter(lines, layout) as writer:
        shutil.copytree(store.tokenizer_path, writer.tokenizer_path, dirs_exist_ok=True)
        for split in SPLITS:
            for block in map(store.split(split).block, range(store.split(split).num_blocks)):
                lengths = block.sentence_lengths
                documents = Documents(block.tokens, lengths, np.ones_like(lengths), block.word_starts())
                writer.add(split, documents)
        writer.finish({"options": {}})
    return lines


def open_samples(
    folder: Path, store: TokenStore, form: str, seq_len: int, split: str = "train"
) -> datasets.Dataset:
    """The text of a split in one of the forms, written to `folder` unless it is there."""
    path = folder / f"{split}-{form}-{seq_len}-{store.fingerprint[:16]}"
    if not path.exists():
        partial = path.with_suffix(".partial")
        datasets.disable_progress_bars()
        datasets.Dataset(make_table(store, form, seq_len, split)).save_to_disk(str(partial))
        partial.rename(path)
    return datasets.load_from_disk(str(path))


def mean_tokens(samples: datasets.Dataset) -> float:
    """Of a sample, special tokens included."""
    return float(np.mean(samples.with_format("numpy")["length"][:]))


def make_table(store: TokenStore, form: str, seq_len: int, split: str) -> pa.Table:
    """All samples: input_ids, token_type_ids, attention_mask, special_tokens_mask and length."""
    special = store.special_ids
    if form == "concatenated":
        # run_mlm tokenizes lines with their special tokens and joins what comes out.
        joined = np.concatenate(list(_with_edges(_texts(store.split(split), "lines", None), special)))
        samples = list(joined[: len(joined) // seq_len * seq_len].reshape(-1, seq_len))
    else:
        samples = list(_with_edges(_texts(store.split(split), form, seq_len), special))
    lengths = np.array([len(sample) for sample in samples])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    ids = np.concatenate(samples).astype(np.int64)
    is_special = np.isin(ids, (special["cls"], special["sep"]))

    def column(values: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))

    return pa.table(
        {
            "input_ids": column(ids),
            "token_type_ids": column(np.zeros(len(ids), dtype=np.int8)),
            "attention_mask": column(np.ones(len(ids), dtype=np.int8)),
            "special_tokens_mask": column(is_special.astype(np.int8)),
            "length": pa.array(lengths),
        }
    )


def _texts(split: StoreSplit, form: str, seq_len: int | None) -> Iterator[np.ndarray]:
    """Tokens of each sample without special ones, none longer than a sample may be, if there is a bound."""
    room = None if seq_len is None else seq_len - _EDGES
    for index in range(split.num_blocks):
        block = split.block(index)
        sentences = np.split(block.tokens, np.cumsum(block.sentence_lengths.astype(np.int64))[:-1])
        if form == "lines":
            yield from (sentence[:room] for sentence in sentences)
            continue
        first = 0
        for count in block.document_lengths.tolist():
            document = np.concatenate(sentences[first : first + count])
            step = room or len(document)
            yield from (document[start : start + step] for start in range(0, len(document), step))
            first += count


def _with_edges(texts: Iterator[np.ndarray], special: dict[str, int]) -> Iterator[np.ndarray]:
    for text in texts:
        yield np.concatenate([[special["cls"]], text, [special["sep"]]])
