"""What a build kept and dropped and why: report.json, and the table at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from data_prep.documents import Intake
from data_prep.encode import EncodedBatch
from data_prep.options import BuildOptions
from data_prep.tokenizer import StoreTokenizer
from pretrain.data.store import SPLITS, Documents

_BYTES_PER_MB = 1e6


@dataclass
class SplitCounts:
    """What was written to one split."""

    documents: int = 0
    sentences: int = 0
    tokens: int = 0


@dataclass
class Ledger:
    """The running sums of one build."""

    intake: Intake = field(default_factory=Intake)
    splits: dict[str, SplitCounts] = field(default_factory=lambda: {split: SplitCounts() for split in SPLITS})
    tokens: int = 0
    unknown: int = 0
    special_replaced: int = 0
    sentence_cuts: int = 0
    without_tokens: int = 0
    seconds: dict[str, float] = field(default_factory=dict)

    def encoded(self, batch: EncodedBatch) -> None:
        self.tokens += len(batch.hashed.documents.tokens)
        self.unknown += batch.num_unknown
        self.special_replaced += batch.num_special_replaced
        self.sentence_cuts += batch.num_sentence_cuts
        self.without_tokens += batch.num_without_tokens

    def written(self, split: str, documents: Documents) -> None:
        counts = self.splits[split]
        counts.documents += len(documents.document_lengths)
        counts.sentences += len(documents.sentence_lengths)
        counts.tokens += len(documents.tokens)

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[phase] = time.monotonic() - began


def make_report(
    options: BuildOptions, source: dict[str, Any], tokenizer: StoreTokenizer, ledger: Ledger
) -> dict[str, Any]:
    """The content of report.json; `source` is what the corpus says of itself."""
    intake, splits = ledger.intake, ledger.splits
    dropped = dict(sorted(intake.dropped.items()))
    if ledger.without_tokens:
        dropped["no tokens"] = ledger.without_tokens
    notes: list[str] = []
    if options.heldout > 0 and splits["heldout"].documents == 0:
        notes.append("The corpus holds a single distinct document: nothing is held out for validation.")
    return {
        "options": options.as_dict(),
        "input": source,
        "tokenizer": {
            "vocab_size": tokenizer.vocab_size,
            "special_ids": tokenizer.special_ids.model_dump(),
            "trained_on_characters": tokenizer.trained_on_characters,
        },
        "documents": {
            "read": intake.documents,
            "kept": sum(split.documents for split in splits.values()),
            "dropped": dropped,
            "cuts_because_long": intake.documents_cut,
            "repaired_utf8": intake.repaired,
            "duplicate_passages": intake.duplicate_passages,
        },
        "splits": {name: asdict(counts) for name, counts in splits.items()},
        "cuts_inside_sentences": ledger.sentence_cuts,
        "unknown_share": ledger.unknown / max(1, ledger.tokens),
        "special_ids_replaced": ledger.special_replaced,
        "notes": notes,
        "seconds": {name: round(value, 2) for name, value in ledger.seconds.items()},
        "mb_per_second": round(intake.bytes_read / _BYTES_PER_MB / max(ledger.seconds["encoding"], 1e-9), 2),
    }


def print_report(report: dict[str, Any], output: str, console: Console) -> None:
    """The table a user sees at the end of a build."""
    documents, seconds = report["documents"], report["seconds"]
    table = Table(title=f"token store {output}", title_justify="left", show_header=False)
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_row("documents kept", f"{documents['kept']:,} of {documents['read']:,}")
    for reason, count in documents["dropped"].items():
        table.add_row(f"  dropped: {reason}", f"{count:,}")
    for name, label in (
        ("cuts_because_long", "  cuts of long documents"),
        ("repaired_utf8", "  repaired (invalid UTF-8)"),
        ("duplicate_passages", "  repeated passages dropped"),
    ):
        if documents[name]:
            table.add_row(label, f"{documents[name]:,}")
    for name, counts in report["splits"].items():
        table.add_row(f"{name}: documents", f"{counts['documents']:,}")
        table.add_row(f"{name}: sentences", f"{counts['sentences']:,}")
        table.add_row(f"{name}: tokens", f"{counts['tokens']:,}")
    if report["cuts_inside_sentences"]:
        table.add_row("cuts inside long sentences", f"{report['cuts_inside_sentences']:,}")
    if report["special_ids_replaced"]:
        table.add_row("special tokens found in text", f"{report['special_ids_replaced']:,}")
    table.add_row("vocabulary", f"{report['tokenizer']['vocab_size']:,}")
    table.add_row("unknown tokens", f"{report['unknown_share']:.4%}")
    for name, value in seconds.items():
        table.add_row(f"seconds: {name}", f"{value:.1f}")
    table.add_row("rate, text to store", f"{report['mb_per_second']:.1f} MB/s")
    console.print(table)
    for note in report["notes"]:
        console.print(note, highlight=False)
