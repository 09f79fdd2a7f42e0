"""Batch making against Hugging Face's collator: `python -m tests.benchmarks.batches --help`.

On one core, with one torch thread and the files in the page cache. Ours is everything between the store and the
model: reading blocks, planning samples, packing, masking, tensors; a trial is a whole epoch of a store. The
collator gets examples that are ready: `seq_len` ids of the same text as Python lists; it stacks and masks them.
Rates are real tokens, special ones included and padding not, per second. Nothing is asserted.
"""

import argparse
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from rich.console import Console
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, DataCollatorForLanguageModeling

from pretrain.data.options import SamplingOptions
from pretrain.data.store import TokenStore
from pretrain.data.stream import RowStream
from pretrain.errors import PretrainError
from tests.benchmarks import commands
from tests.benchmarks.amounts import whole
from tests.benchmarks.corpus import Corpus, CorpusOptions, open_corpus
from tests.benchmarks.data_prep import FULL, QUICK, use_cores
from tests.benchmarks.measure import Peer, Trial, alternate, read_once
from tests.benchmarks.report import RateTable, as_json, make_console, provenance, write

SEQ_LENS = (128, 512)
ASKED = (10.0, 30.0)
BATCH_TOKENS = 8192  # what `train.micro_batch = "auto"` aims at
SEED = 7
COLLATOR = "collator"
LOADER = "collator, DataLoader"
NOTES = {
    COLLATOR: "DataCollatorForLanguageModeling; examples are Python lists in memory",
    LOADER: "the same behind a DataLoader (no workers) over a shuffled datasets.Dataset, as Trainer reads",
}


@dataclass(frozen=True)
class Size:
    """How much text is in the store, how much of it the collator gets in a trial, and how often."""

    corpus: CorpusOptions
    vocab_size: int
    store_parts: int
    collated_tokens: int
    rounds: int


SIZES = {
    False: Size(FULL.corpus, FULL.vocab_size, 5, 2_000_000, 5),
    True: Size(QUICK.corpus, QUICK.vocab_size, 3, 100_000, 1),
}


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    arguments = make_parser().parse_args(argv)
    size = SIZES[arguments.quick]
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    folder = arguments.cache / ("quick" if arguments.quick else "full")
    say("corpus and store ...")
    store = open_store(folder, open_corpus(folder / "corpus", size.corpus), size)
    use_cores(1)
    torch.set_num_threads(1)
    result = provenance("tests.benchmarks.batches", argv)
    read_once(file for file in store.path.iterdir() if file.is_file())
    train = store.split("train")
    table = RateTable(f"batches, {train.num_tokens / 1e6:,.0f} M tokens, 1 core, warm files", "M tokens")
    result["store"] = {"tokens": train.num_tokens, "blocks": train.num_blocks, "vocab_size": store.vocab_size}
    result["groups"] = {}
    for seq_len in SEQ_LENS:
        ours = make_ours(store, seq_len)
        theirs = make_theirs(store, seq_len, size.collated_tokens)
        say(f"rows of {seq_len} ...")
        summaries = alternate([*ours, *theirs], arguments.rounds or size.rounds, say)
        for summary in summaries[: len(ours)]:
            group = f"{summary.peer.name}, {seq_len}"
            compared = [summary, *summaries[len(ours) :]]
            table.add(group, compared)
            result["groups"][group] = as_json(compared)
    table.print(make_console())
    write(result, arguments.output)
    return result


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.batches", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the corpus and the store")
    parser.add_argument("--quick", action="store_true", help="seconds, on little text: shows that it runs")
    parser.add_argument("--rounds", type=whole, help="how often each peer runs")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    return parser


def open_store(folder: Path, corpus: Corpus, size: Size) -> TokenStore:
    """A WordPiece store of the first parts of the corpus, built unless it is there and can be read."""
    path = folder / "store-wordpiece"
    try:
        return TokenStore.open(path)
    except PretrainError:
        tokenizer = folder / "tokenizer-wordpiece"
        commands.train_tokenizer("wordpiece", corpus.text[:1], size.vocab_size, tokenizer)
        shutil.rmtree(path, ignore_errors=True)  # of an older format, or cut short
        commands.build_store(corpus.text[: size.store_parts], tokenizer, path)
        return TokenStore.open(path)


def make_ours(store: TokenStore, seq_len: int) -> list[Peer]:
    """A peer for each way of making samples; every round is another epoch, so that nothing is planned yet."""
    choices = {
        "nsp": SamplingOptions(seq_len, "nsp", packing=True),
        "mlm": SamplingOptions(seq_len, "mlm", packing=True),
        "sop": SamplingOptions(seq_len, "sop", packing=True),
        "mlm, whole words": SamplingOptions(seq_len, "mlm", packing=True, whole_words=True),
    }
    peers = []
    for name, options in choices.items():
        epoch_of(store, options, 0, limit=64)  # What is compiled or imported at first use is not counted.
        peers.append(Peer(name, _ours(store, options), is_ours=True))
    return peers


def epoch_of(store: TokenStore, options: SamplingOptions, epoch: int, limit: int | None = None) -> Trial:
    """All batches of an epoch, from the open store to torch tensors."""
    began, cpu_began = time.perf_counter(), time.process_time()
    split = store.split("train")
    stream = RowStream(split, store.special_ids, store.all_special_ids, store.vocab_size, options, SEED)
    rows = stream.epoch_rows(epoch, limit)
    per_batch = BATCH_TOKENS // options.seq_len
    num_tokens = 0
    for first in range(0, rows.num_rows, per_batch):
        num_tokens += rows.batch(first, min(per_batch, rows.num_rows - first)).num_tokens
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    filled = num_tokens / (rows.num_rows * options.seq_len)
    return Trial(num_tokens, seconds, cpu_seconds, details={"rows": rows.num_rows, "real_share": filled})


def make_theirs(store: TokenStore, seq_len: int, num_tokens: int) -> list[Peer]:
    """The collator alone, and behind a DataLoader; every round has other text."""
    tokenizer = AutoTokenizer.from_pretrained(str(store.tokenizer_path))
    collate = DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15)
    per_batch = BATCH_TOKENS // seq_len

    def alone(number: int) -> Trial:
        examples = list(make_examples(store, seq_len, num_tokens, number))
        batches = [examples[i : i + per_batch] for i in range(0, len(examples), per_batch)]
        return _time_batches(map(collate, batches))

    def behind_loader(number: int) -> Trial:
        rows = datasets.Dataset.from_list(list(make_examples(store, seq_len, num_tokens, number)))
        generator = torch.Generator().manual_seed(SEED)
        return _time_batches(
            DataLoader(rows, per_batch, shuffle=True, collate_fn=collate, generator=generator)
        )

    alone(0)
    return [
        Peer(COLLATOR, alone, asked=ASKED, note=NOTES[COLLATOR]),
        Peer(LOADER, behind_loader, note=NOTES[LOADER]),
    ]


def make_examples(
    store: TokenStore, seq_len: int, num_tokens: int, number: int
) -> Iterator[dict[str, list[int]]]:
    """Examples as `run_mlm.py` hands them to the collator: about `num_tokens` of block `number` and those after
    it, cut every `seq_len` tokens, with the columns that its tokenizing leaves."""
    split = store.split("train")
    tokens = np.zeros(0, dtype=np.int64)
    while len(tokens) < num_tokens:
        tokens = np.concatenate([tokens, split.block(number % split.num_blocks).tokens])
        number += 1
    rows = tokens[:num_tokens][: num_tokens // seq_len * seq_len].reshape(-1, seq_len)
    for ids in rows.tolist():
        yield {
            "input_ids": ids,
            "token_type_ids": [0] * seq_len,
            "attention_mask": [1] * seq_len,
            "special_tokens_mask": [0] * seq_len,
        }


def _ours(store: TokenStore, options: SamplingOptions) -> Callable[[int], Trial]:
    return lambda number: epoch_of(store, options, number)


def _time_batches(batches: Any) -> Trial:
    """Consumes an iterable of collated batches."""
    began, cpu_began = time.perf_counter(), time.process_time()
    num_tokens = sum(int(batch["attention_mask"].sum()) for batch in batches)
    return Trial(num_tokens, time.perf_counter() - began, time.process_time() - cpu_began)


if __name__ == "__main__":
    main(sys.argv[1:])
