"""What a build kept and dropped and why: report.json, and the table at the end.

report.json belongs to the store and holds nothing that differs from one run of the same build to the next; times
go to the terminal, and to the file that `--timings` names.
"""

import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from data_prep.documents import Intake
from data_prep.encode import EncodedDocuments
from data_prep.options import BuildOptions
from data_prep.sentences import has_rules
from data_prep.tokenizer import StoreTokenizer
from pretrain.data.store import SPLITS, Documents

_BYTES_PER_MB = 1e6
_SECONDS_OF_A_RATE = 1.0


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

    def encoded(self, documents: EncodedDocuments, intake: Intake) -> None:
        self.intake.add(intake)
        self.tokens += len(documents.hashed.documents.tokens)
        self.unknown += documents.num_unknown
        self.special_replaced += documents.num_special_replaced
        self.sentence_cuts += documents.num_sentence_cuts
        self.without_tokens += documents.num_without_tokens

    def written(self, split: str, documents: Documents) -> None:
        counts = self.splits[split]
        counts.documents += len(documents.document_lengths)
        counts.sentences += len(documents.sentence_lengths)
        counts.tokens += len(documents.tokens)


@dataclass
class Timings:
    """Wall seconds of each phase, CPU seconds of each stage of the encoding, and the bytes it read.

    Until its first result the encoding waits for its workers to start; the steady rate is that of the rest.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    cpu_seconds: dict[str, float] = field(default_factory=dict)
    encoded_bytes: int = 0
    first_result_bytes: int = 0

    def first_result(self, seconds: float, num_bytes: int) -> None:
        """The encoding has had a result for the first time."""
        self.seconds["first result"] = seconds
        self.first_result_bytes = num_bytes

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[phase] = time.monotonic() - began

    @property
    def mb_per_second(self) -> float | None:
        """The steady rate of the encoding; None where it lasted too short for one."""
        seconds = self.seconds.get("encoding", 0.0) - self.seconds.get("first result", 0.0)
        if seconds < _SECONDS_OF_A_RATE:
            return None
        return (self.encoded_bytes - self.first_result_bytes) / _BYTES_PER_MB / seconds

    def as_dict(self) -> dict[str, Any]:
        """As `--timings` writes it."""
        megabytes = max(self.encoded_bytes / _BYTES_PER_MB, 1e-9)
        return {
            "seconds": self.seconds,
            "encoded_bytes": self.encoded_bytes,
            "first_result_bytes": self.first_result_bytes,
            "mb_per_second": self.mb_per_second,
            "cpu_ms_per_mb": {name: 1e3 * value / megabytes for name, value in self.cpu_seconds.items()},
        }


def tokenizer_section(tokenizer: StoreTokenizer) -> dict[str, Any]:
    """What the report says of the tokenizer."""
    return {
        "vocab_size": tokenizer.vocab_size,
        "special_ids": tokenizer.special_ids.model_dump(),
        "all_special_ids": list(tokenizer.all_special_ids),
        "trained_on_characters": tokenizer.trained_on_characters,
        "notes": list(tokenizer.notes),
    }


def heldout_notes(asked: float, splits: dict[str, SplitCounts]) -> list[str]:
    """A sentence where what is held out is not what was asked for: nothing, or less than half or more than twice
    the share."""
    num_heldout, num_trained = splits["heldout"].documents, splits["train"].documents
    if asked > 0 and num_heldout == 0:
        return ["Nothing is held out for validation: the corpus has too few distinct documents."]
    share = num_heldout / max(1, num_heldout + num_trained)
    if asked / 2 <= share <= 2 * asked:
        return []
    return [
        f"Held out for validation are {num_heldout:,} of {num_heldout + num_trained:,} documents ({share:.2%}), where "
        f"--heldout asks for {asked:.2%}: whole documents are held out, with all their duplicates, and a corpus of "
        "few documents cannot be cut finer."
    ]


def make_report(
    options: BuildOptions, part: str | None, source: dict[str, Any], tokenizer: dict[str, Any], ledger: Ledger
) -> dict[str, Any]:
    """The content of report.json; `source` is what the corpus says of itself, `tokenizer` its section."""
    intake, splits = ledger.intake, ledger.splits
    dropped = dict(sorted(intake.dropped.items()))
    if ledger.without_tokens:
        dropped["no tokens"] = ledger.without_tokens
    notes = list(tokenizer["notes"])
    if part is None:
        notes += heldout_notes(options.heldout, splits)
    if options.sentences == "sentencex" and not has_rules(options.language):
        notes.append(
            f"sentencex has no rules for --language {options.language!r}: sentences are found by those of English, "
            "which know the full stops of other scripts, but not their abbreviations."
        )
    return {
        "options": options.as_dict(),
        "part": part,
        "input": source,
        "tokenizer": tokenizer,
        "documents": {
            "read": intake.documents,
            "kept": sum(split.documents for split in splits.values()),
            "dropped": dropped,
            "cuts_because_long": intake.documents_cut,
            "repaired_utf8": intake.repaired,
            "duplicate_passages": intake.duplicate_passages,
        },
        "splits": {name: asdict(counts) for name, counts in splits.items()},
        "tokens_encoded": ledger.tokens,
        "unknown_tokens": ledger.unknown,
        "cuts_inside_sentences": ledger.sentence_cuts,
        "special_ids_replaced": ledger.special_replaced,
        "notes": notes,
    }


def merged_report(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The report of a store in parts: the first part's options, the sums of all counts."""
    merged = reports[0] | {"part": None, "parts": [report["part"] for report in reports]}
    for name in ("documents", "splits", "tokens_encoded", "unknown_tokens"):
        merged[name] = _sum([report[name] for report in reports])
    for name in ("cuts_inside_sentences", "special_ids_replaced"):
        merged[name] = _sum([report[name] for report in reports])
    merged["notes"] = sorted({note for report in reports for note in report["notes"]})
    return merged


def _sum(values: Sequence[Any]) -> Any:
    """Of numbers, or of each entry of dictionaries, a missing one counting as none."""
    if not isinstance(values[0], dict):
        return sum(values)
    names = {name: None for value in values for name in value}
    return {name: _sum([value[name] for value in values if name in value]) for name in names}


def print_report(
    report: dict[str, Any],
    output: str,
    console: Console,
    timings: Timings | None = None,
    said: Collection[str] = (),
) -> None:
    """The table a user sees at the end of a build, and the notes that were not `said` on the way."""
    documents = report["documents"]
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
    if report["input"].get("text_column") is not None:
        table.add_row("text column", report["input"]["text_column"])
    table.add_row("vocabulary", f"{report['tokenizer']['vocab_size']:,}")
    unknown_share = report["unknown_tokens"] / max(1, report["tokens_encoded"])
    table.add_row("unknown tokens", f"{unknown_share:.4%}")
    if timings is not None:
        for name, value in timings.seconds.items():
            table.add_row(f"seconds: {name}", f"{value:.1f}")
        if timings.mb_per_second is not None:
            table.add_row("steady rate, text to store", f"{timings.mb_per_second:.1f} MB/s")
    console.print(table)
    for note in report["notes"]:
        if note not in said:
            console.print(note, highlight=False)
