"""Text to token store, against what others offer: `python -m tests.benchmarks.data_prep --help`.

On two cores, files in the page cache, peers in turns. Ours is the whole build: reading, sentences, ids, word
starts, writing, fsync; `encode_batch_fast` and gigatoken are ids alone, of sentences that they get ready.
Rates are MB (10^6 bytes) of plain text per second, whatever form of it a peer reads. Nothing is asserted.
"""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.benchmarks import commands, text_peers
from tests.benchmarks.amounts import whole
from tests.benchmarks.corpus import Corpus, CorpusOptions, open_corpus
from tests.benchmarks.measure import Peer, Trial, alternate, read_once
from tests.benchmarks.report import RateTable, as_json, make_console, provenance, write

NUM_CORES = 2
KINDS = ("bpe", "wordpiece", "unigram", "sentencepiece-bpe")
# (floor, aim) of our rate over the peer's.
ASKED = {
    ("bpe", "encode_batch_fast"): (6.0, 8.0),
    ("wordpiece", "encode_batch_fast"): (3.0, 4.0),
    ("bpe", "run_mlm"): (20.0, 40.0),
    ("bpe", "Megatron-LM"): (10.0, 15.0),
}
NOTES = {
    "ours": "data_prep build, 2 workers: reading, sentences, ids, word starts, writing, fsync; steady rate",
    "encode_batch_fast": "ids alone; threads on; sentences ready in memory; freeing results not counted",
    "gigatoken": "ids alone; threads on; sentences ready in memory; freeing results not counted",
    "run_mlm": "datasets: load text, map(tokenize), map(group_texts) into 512, num_proc 2; one paragraph a line",
    "Megatron-LM": "tools/preprocess_data.py, 2 workers, no sentence splitting; from its first to last progress line",
}


@dataclass(frozen=True)
class Size:
    """How much is measured: parts of the corpus each peer takes, and how often."""

    corpus: CorpusOptions
    vocab_size: int
    rounds: int
    encoder_parts: int
    kinds: tuple[str, ...]


FULL = Size(CorpusOptions(800_000_000, 20_000_000), 30_000, 3, 3, KINDS)
QUICK = Size(CorpusOptions(3_000_000, 1_000_000, pool_bytes=1_000_000), 2_000, 1, 1, ("bpe", "wordpiece"))


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    arguments = make_parser().parse_args(argv)
    size = QUICK if arguments.quick else FULL
    kinds = tuple(arguments.kinds.split(",")) if arguments.kinds else size.kinds
    given = dict(each.split("=", 1) for each in arguments.tokenizer)
    console = Console(stderr=True)

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False)

    use_cores(NUM_CORES)
    result = provenance("tests.benchmarks.data_prep", argv)
    folder = arguments.cache / ("quick" if arguments.quick else "full")
    say("corpus ...")
    corpus = open_corpus(folder / "corpus", size.corpus)
    read_once([*corpus.text, *corpus.jsonl])
    result["corpus"] = {
        "bytes": corpus.num_bytes,
        "documents": corpus.num_documents,
        "sha256": corpus.digest,
        "options": asdict(size.corpus),
    }
    table = RateTable(f"text to ids, {corpus.num_bytes / 1e6:,.0f} MB, {NUM_CORES} cores, warm files", "MB")
    stages: dict[str, dict[str, float]] = {}
    result["kinds"] = {}
    for kind in kinds:
        say(f"{kind}: tokenizer ...")
        tokenizer = Path(given[kind]) if kind in given else folder / f"tokenizer-{kind}"
        commands.train_tokenizer(kind, corpus.text[:1], size.vocab_size, tokenizer)
        with tempfile.TemporaryDirectory(dir=folder, prefix="scratch-") as scratch:
            peers = make_peers(kind, corpus, tokenizer, size, arguments.megatron, Path(scratch))
            summaries = alternate(peers, arguments.rounds or size.rounds, say)
        table.add(kind, summaries)
        result["kinds"][kind] = as_json(summaries)
        stages[kind] = commands.stage_milliseconds(summaries[0].trials)
    result["stages_cpu_ms_per_mb"] = stages
    output = make_console()
    table.print(output)
    output.print(_stage_table(stages))
    write(result, arguments.output)
    return result


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.data_prep", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the corpus and the tokenizers")
    parser.add_argument("--quick", action="store_true", help="a minute on little text: shows that it runs")
    parser.add_argument("--kinds", help=f"of tokenizers, with commas (default all: {','.join(KINDS)})")
    parser.add_argument(
        "--tokenizer", action="append", default=[], metavar="KIND=FOLDER", help="an existing one"
    )
    parser.add_argument("--megatron", type=Path, help="a checkout of Megatron-LM")
    parser.add_argument("--rounds", type=whole, help="how often each peer runs")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    return parser


def use_cores(count: int) -> None:
    """This process, and all that it starts, on the first `count` of the cores it may use."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])


def make_peers(
    kind: str, corpus: Corpus, tokenizer: Path, size: Size, megatron: Path | None, scratch: Path
) -> list[Peer]:
    """Ours first. A peer slower than ours takes other parts of the text in every round."""

    def parts(number: int, count: int) -> list[Path]:
        first = number * count
        return [corpus.text[(first + i) % len(corpus.text)] for i in range(count)]

    def library(name: str, count: int) -> Peer:
        def run(number: int) -> Trial:
            folder = Path(tempfile.mkdtemp(dir=scratch))
            try:
                return text_peers.run_peer(name, tokenizer, folder, parts(number, count))
            finally:
                shutil.rmtree(folder)

        return Peer(name, run, asked=ASKED.get((kind, name)), note=NOTES[name])

    def run_megatron(number: int) -> Trial:
        index = number % len(corpus.text)
        text_bytes = corpus.text[index].stat().st_size
        return commands.megatron(megatron, corpus.jsonl[index], text_bytes, tokenizer, scratch)

    def run_ours(_: int) -> Trial:
        return commands.our_build(corpus, tokenizer, scratch)

    peers = [Peer("ours", run_ours, is_ours=True, note=NOTES["ours"])]
    # The kinds for which nothing is asked show only what the tokenizers library does.
    main_kind = kind in ("bpe", "wordpiece")
    peers.append(library("encode_batch_fast", size.encoder_parts if main_kind else 1))
    if kind == "bpe":
        if text_peers.has_gigatoken():
            peers.append(library("gigatoken", size.encoder_parts))
        peers.append(library("run_mlm", 1))
        peers.append(
            Peer("Megatron-LM", run_megatron, asked=ASKED[kind, "Megatron-LM"], note=NOTES["Megatron-LM"])
        )
    return peers


def _stage_table(stages: dict[str, dict[str, float]]) -> Table:
    table = Table(title="our build: CPU milliseconds per MB, by stage", title_justify="left")
    names = list(dict.fromkeys(name for times in stages.values() for name in times))
    table.add_column("")
    for name in [*names, "all"]:
        table.add_column(name, justify="right")
    for kind, times in stages.items():
        cells = [f"{times[name]:.2f}" if name in times else "" for name in names]
        table.add_row(kind, *cells, f"{sum(times.values()):.2f}")
    return table


if __name__ == "__main__":
    main(sys.argv[1:])
