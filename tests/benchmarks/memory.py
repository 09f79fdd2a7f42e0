"""Peak memory of a build from a file that is one single line: `python -m tests.benchmarks.memory --help`.

A reader that took lines, or a tokenizer that got whole documents, would grow with the file. Two workers; main
process and workers are shown apart. Nothing is asserted.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.table import Table

from tests.benchmarks import commands
from tests.benchmarks.corpus import Corpus, open_corpus
from tests.benchmarks.data_prep import FULL, QUICK, use_cores
from tests.benchmarks.processes import Watched, watch
from tests.benchmarks.report import make_console, provenance, write

KINDS = ("bpe", "wordpiece")
LINE_BYTES = {False: 1_000_000_000, True: 4_000_000}
_MIB = 1 << 20


def main(argv: Sequence[str]) -> dict[str, Any]:
    """Runs, prints and writes; the JSON document."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.memory", description=__doc__)
    parser.add_argument("--cache", type=Path, required=True, help="folder for the corpus and the tokenizers")
    parser.add_argument("--quick", action="store_true", help="a minute on little text: shows that it runs")
    parser.add_argument("--output", type=Path, help="file for the JSON document")
    arguments = parser.parse_args(argv)
    size = QUICK if arguments.quick else FULL
    use_cores(commands.NUM_WORKERS)
    result = provenance("tests.benchmarks.memory", argv)
    folder = arguments.cache / ("quick" if arguments.quick else "full")
    corpus = open_corpus(folder / "corpus", size.corpus)
    result["line_bytes"] = LINE_BYTES[arguments.quick]
    result["builds"] = {}
    table = _make_table(result["line_bytes"])
    for kind in KINDS:
        tokenizer = commands.train_tokenizer(
            kind, corpus.text[:1], size.vocab_size, folder / f"tokenizer-{kind}"
        )
        with tempfile.TemporaryDirectory(dir=folder, prefix="scratch-") as scratch:
            line = write_line(corpus, Path(scratch) / "line.txt", LINE_BYTES[arguments.quick])
            watched = watch(commands.build_command([line], tokenizer, Path(scratch) / "store"))
        _add_rows(table, kind, watched)
        result["builds"][kind] = asdict(watched)
    make_console().print(table)
    write(result, arguments.output)
    return result


def write_line(corpus: Corpus, path: Path, num_bytes: int) -> Path:
    """A file of `num_bytes` without a line break: the corpus, again and again."""
    with path.open("wb") as file:
        left = num_bytes
        while left:
            for part in corpus.text:
                text = part.read_bytes().replace(b"\n", b" ")[:left]
                # A character that the end falls into is left out, for ASCII in its place.
                whole = text.decode("utf-8", "ignore").encode()
                file.write(whole + b"." * (len(text) - len(whole)))
                left -= len(text)
    return path


def _make_table(num_bytes: int) -> Table:
    table = Table(
        title=f"peak memory of a build, one line of {num_bytes / 1e6:,.0f} MB", title_justify="left"
    )
    table.add_column("")
    for heading in ("resident MiB", "of which own MiB at most", "seconds"):
        table.add_column(heading, justify="right")
    return table


def _add_rows(table: Table, kind: str, watched: Watched) -> None:
    table.add_section()
    for peak in watched.peaks:
        own, resident = (f"{value / _MIB:,.0f}" for value in (peak.anonymous_bytes, peak.resident_bytes))
        table.add_row(f"{kind}: {peak.role}", resident, own, "")
    together = f"{watched.anonymous_bytes / _MIB:,.0f}"
    table.add_row(f"{kind}: all together", "", together, f"{watched.seconds:.1f}")


if __name__ == "__main__":
    main(sys.argv[1:])
