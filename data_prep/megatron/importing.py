"""Megatron datasets into one store: the files in the order in which they are named."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.encode.words import word_start_table
from data_prep.heldout import Assigned, HeldoutSplit, SegmentEnd
from data_prep.megatron.cleaning import Cleaned, Cleaner
from data_prep.megatron.indexed import IndexedDataset
from data_prep.options import DEFAULT_BLOCK_TOKENS, DEFAULT_HELDOUT, DEFAULT_SHARD_TOKENS
from data_prep.output import check_output, claimed, making_way
from data_prep.progress import Progress
from data_prep.report import Ledger, heldout_notes, tokenizer_section
from data_prep.tokenizer import StoreTokenizer, load_tokenizer
from pretrain.data.store import StoreLayout, StoreWriter
from pretrain.errors import DataError, UsageError


@dataclass(frozen=True)
class MegatronOptions:
    """What is imported, and how it is laid out.

    `prefixes`: paths of the datasets without .idx and .bin; `tokenizer`: the folder of the tokenizer that they were
    made with; `eod_id`: their end-of-document id, where it is no special token of that tokenizer.
    """

    prefixes: tuple[str, ...]
    tokenizer: str
    heldout: float = DEFAULT_HELDOUT
    block_tokens: int = DEFAULT_BLOCK_TOKENS
    shard_tokens: int = DEFAULT_SHARD_TOKENS
    eod_id: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for values that no import could honour."""
        if not self.prefixes:
            raise UsageError(
                "Give --input PREFIX: the path of a .idx and a .bin file, without these endings."
            )
        if not 0 <= self.heldout < 1:
            raise UsageError(
                f"--heldout is {self.heldout}; it is a share of the documents, from 0 to below 1."
            )
        for name, value in (("--block-tokens", self.block_tokens), ("--shard-tokens", self.shard_tokens)):
            if value < 1:
                raise UsageError(f"{name} is {value}; it must be at least 1.")
        if self.eod_id is not None and self.eod_id < 0:
            raise UsageError(f"--eod-id is {self.eod_id}; it must not be negative.")


@dataclass
class _Tally:
    """The running sums of one import."""

    ledger: Ledger
    num_markers: int = 0
    num_empty_sequences: int = 0
    knows_words: bool = True

    def cleaned(self, cleaned: Cleaned, *, is_cut: bool) -> None:
        ledger, num_kept = self.ledger, len(cleaned.hashed.hashes)
        ledger.intake.documents += num_kept + cleaned.num_empty_documents
        ledger.intake.documents_cut += is_cut
        ledger.tokens += len(cleaned.hashed.documents.tokens)
        ledger.unknown += cleaned.num_unknown
        ledger.special_replaced += cleaned.num_special_replaced
        ledger.without_tokens += cleaned.num_empty_documents
        self.num_markers += cleaned.num_markers
        self.num_empty_sequences += cleaned.num_empty_sequences


def import_megatron(
    options: MegatronOptions, output: Path, progress: Progress, overwrite: bool = False
) -> dict[str, Any]:
    """Make the store at `output` and return its report, as `data_prep.build.build` does; an import that is
    interrupted leaves nothing. Raises UsageError and DataError."""
    output = output.absolute()
    check_output(output, overwrite=overwrite)
    with claimed(output, say=progress.say, wait=False):
        check_output(output, overwrite=overwrite)
        tokenizer = load_tokenizer(Path(options.tokenizer))
        progress.say("Checking the index files ...")
        datasets = [IndexedDataset.open(prefix) for prefix in options.prefixes]
        return _import(options, output, tokenizer, datasets, progress)


def _import(
    options: MegatronOptions,
    output: Path,
    tokenizer: StoreTokenizer,
    datasets: list[IndexedDataset],
    progress: Progress,
) -> dict[str, Any]:
    layout = StoreLayout(
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        all_special_ids=tokenizer.all_special_ids,
        block_tokens=options.block_tokens,
        shard_tokens=options.shard_tokens,
    )
    tally = _Tally(Ledger())
    with StoreWriter(output, layout) as writer:
        tokenizer.save(writer.tokenizer_path)
        word_starts = _word_starts(tokenizer, writer.tokenizer_path / "tokenizer.json")
        if word_starts is None:
            tally.knows_words, word_starts = False, np.ones(layout.vocab_size, dtype=np.bool_)
        cleaner = Cleaner(layout, word_starts, options.eod_id)
        progress.start("importing", "bytes", sum(each.num_tokens * each.dtype.itemsize for each in datasets))
        split = HeldoutSplit(options.heldout)
        for dataset in datasets:
            for run in dataset.runs():
                cleaned = cleaner.clean(run, f"{dataset.prefix}.bin")
                tally.cleaned(cleaned, is_cut=run.is_cut)
                if len(cleaned.hashed.hashes):
                    _write(split.assign(cleaned.hashed), writer, tally.ledger)
                progress.advance(run.tokens.nbytes, len(cleaned.hashed.hashes))
        _write(split.finish(), writer, tally.ledger)
        progress.stop()
        if tally.ledger.splits["train"].documents == 0:
            raise DataError("The datasets are empty: there is no token to learn from; check --input.")
        report = _make_report(options, datasets, tokenizer, tally)
        with making_way(output):
            writer.finish(report)
    return report


def _word_starts(tokenizer: StoreTokenizer, file: Path) -> np.ndarray | None:
    """bool [vocabulary]; None where tokens do not say it, and without the text there is no other way to know."""
    vocabulary = tokenizer.tokenizer.get_vocab()
    return word_start_table(json.loads(file.read_bytes()), vocabulary, tokenizer.vocab_size)


def _write(items: Iterable[Assigned | SegmentEnd], writer: StoreWriter, ledger: Ledger) -> None:
    for item in items:
        if isinstance(item, Assigned):
            writer.add(item.split, item.documents)
            ledger.written(item.split, item.documents)


def _make_report(
    options: MegatronOptions, datasets: list[IndexedDataset], tokenizer: StoreTokenizer, tally: _Tally
) -> dict[str, Any]:
    """report.json, with the entries of a build's."""
    ledger = tally.ledger
    return {
        "options": asdict(options) | {"prefixes": list(options.prefixes)},
        "part": None,
        "input": {
            "kind": "megatron",
            "datasets": [
                {
                    "prefix": each.prefix,
                    "dtype": each.dtype.name,
                    "documents": each.num_documents,
                    "sequences": each.num_sequences,
                    "tokens": each.num_tokens,
                }
                for each in datasets
            ],
        },
        "tokenizer": tokenizer_section(tokenizer),
        "documents": {
            "read": ledger.intake.documents,
            "kept": sum(split.documents for split in ledger.splits.values()),
            "dropped": {"no tokens": ledger.without_tokens} if ledger.without_tokens else {},
            "cuts_because_long": ledger.intake.documents_cut,
            "repaired_utf8": 0,
            "duplicate_passages": 0,
        },
        "splits": {name: asdict(counts) for name, counts in ledger.splits.items()},
        "tokens_encoded": ledger.tokens,
        "unknown_tokens": ledger.unknown,
        "cuts_inside_sentences": 0,
        "special_ids_replaced": ledger.special_replaced,
        "markers_stripped": tally.num_markers,
        "empty_sequences_dropped": tally.num_empty_sequences,
        "notes": _notes(options, datasets, tokenizer, tally),
    }


def _notes(
    options: MegatronOptions, datasets: list[IndexedDataset], tokenizer: StoreTokenizer, tally: _Tally
) -> list[str]:
    """Sentences for the user."""
    notes = list(tokenizer.notes)
    notes += [
        f"{each.prefix} holds whole documents (it was made without --split-sentences): each is one sentence in the "
        "store, which suits data.objective=mlm, but makes poor sentence pairs."
        for each in datasets
        if not each.is_sentence_level
    ]
    if tally.num_markers:
        notes.append(f"{tally.num_markers:,} special tokens at the ends of sequences were stripped.")
    if tally.num_empty_sequences:
        notes.append(f"{tally.num_empty_sequences:,} sequences without text were dropped.")
    if not tally.knows_words:
        notes.append(
            "The tokens of this tokenizer do not say where words begin: each counts as a word, and masking whole "
            "words is masking tokens."
        )
    return notes + heldout_notes(options.heldout, tally.ledger.splits)
