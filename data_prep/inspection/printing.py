"""The figures of an inspection as tables, text bars and lines, or as JSON."""

import json
from typing import Any

from rich.bar import Bar
from rich.console import Console
from rich.table import Table

from data_prep.inspection.figures import inspect_store
from data_prep.inspection.options import InspectOptions
from data_prep.progress import Progress
from pretrain.data.store import TokenStore

_BAR_WIDTH = 30
_MEASURED = {
    "tokens_per_sentence": "tokens per sentence",
    "tokens_per_document": "tokens per document",
    "sentences_per_document": "sentences per document",
}


def print_store(store: TokenStore, console: Console, options: InspectOptions) -> None:
    """Inspect the store and print all of it; progress, of a full inspection only, goes to stderr."""
    with Progress(quiet=not options.full) as progress:
        figures = inspect_store(store, options, progress)
    if options.as_json:
        console.out(json.dumps(figures, indent=1, ensure_ascii=False), highlight=False)
        return
    _print_counts(figures, console)
    _print_build(figures["build"], console)
    for name, split in figures["splits"].items():
        if split["documents"]:
            _print_split(name, split, console)
    _print_contents(figures, console)
    _print_packing(figures["packing"], console)
    for sample in figures.get("samples", []):
        _print_sample(sample, console)


def _say(console: Console, line: str) -> None:
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_counts(figures: dict[str, Any], console: Console) -> None:
    _say(console, f"token store {figures['store']}")
    _say(console, f"fingerprint {figures['fingerprint']}")
    special = ", ".join(f"{role} {token_id}" for role, token_id in figures["special_ids"].items())
    vocabulary = f"vocabulary {figures['vocab_size']:,} ({figures['token_dtype']})"
    _say(console, f"{vocabulary}; {special}; blocks of {figures['block_tokens']:,} tokens")
    columns = ("documents", "sentences", "tokens", "blocks")
    table = Table("split", *columns)
    for name, split in figures["splits"].items():
        table.add_row(name, *(f"{split[column]:,}" for column in columns))
    console.print(table)


def _print_build(build: dict[str, Any], console: Console) -> None:
    documents = build.get("documents") or {}
    if "kept" in documents:
        dropped = ", ".join(
            f"{count:,} {reason}" for reason, count in (documents.get("dropped") or {}).items()
        )
        read = f"{documents['kept']:,} of {documents.get('read', documents['kept']):,} documents kept"
        _say(console, f"when built: {read}; dropped: {dropped or 'none'}")
    for name, label in (
        ("special_ids_replaced", "special tokens found in text"),
        ("cuts_inside_sentences", "cuts inside long sentences"),
    ):
        if name in build:
            _say(console, f"when built: {build[name]:,} {label}")
    for note in build.get("notes", []):
        _say(console, f"when built: {note}")


def _print_split(name: str, split: dict[str, Any], console: Console) -> None:
    is_whole = split["blocks_read"] == split["blocks"]
    read = (
        "all" if is_whole else f"{split['blocks_read']} of {split['blocks']:,} blocks; --all reads them all"
    )
    table = Table(f"{name}: lengths ({read})", "least", "5%", "median", "95%", "most", "mean")
    for key, label in _MEASURED.items():
        lengths = split[key]
        quantiles = (f"{value:,}" for value in lengths["quantiles"].values())
        table.add_row(label, *quantiles, f"{lengths['mean']:,.1f}")
    console.print(table)
    for key in ("tokens_per_sentence", "tokens_per_document"):
        _print_histogram(f"{name}: {_MEASURED[key]}", split[key]["histogram"], console)
    unknown, per_word = split["unknown_share"], split["tokens_per_word"]
    _say(console, f"{name}: {unknown:.4%} unknown tokens, {per_word:.2f} tokens per word")
    repeated = split["repeated_documents"]
    how = {
        "exact": "all compared",
        "estimate": f"estimated from one document in {repeated['one_hash_in']:,}",
        "lower bound": f"at least: {split['documents_read']:,} documents compared; --all compares them all",
    }[repeated["extent"]]
    _say(console, f"{name}: {repeated['share']:.2%} of documents repeat another, token for token ({how})")


def _print_histogram(title: str, bins: list[list[int]], console: Console) -> None:
    total = sum(count for _, _, count in bins)
    highest = max(count for _, _, count in bins)
    table = Table(title, "share", "", box=None, pad_edge=False)
    for least, most, count in bins:
        span = f"{least:,}" if least == most else f"{least:,} to {most:,}"
        table.add_row(span, f"{count / total:.1%}", Bar(highest, 0, count, width=_BAR_WIDTH))
    console.print(table)


def _print_contents(figures: dict[str, Any], console: Console) -> None:
    overlap = figures["heldout_documents_in_train"]
    if overlap is not None:
        extent = "" if overlap["extent"] == "exact" else f" ({overlap['extent']})"
        _say(console, f"heldout: {overlap['share']:.2%} of documents are in train too{extent}")
    found = figures["languages"]
    if found["documents"]:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found["shares"].items())
        _say(console, f"languages: {shares} (guessed for {found['documents']:,} documents)")


def _print_packing(rows: list[dict[str, Any]], console: Console) -> None:
    table = Table(
        "rows", "tokens per sample", "real tokens, packed", "one sample a row", "text cut off", "left out"
    )
    for row in rows:
        shares = ("real_share_packed", "real_share_padded", "truncated_share", "dropped_share")
        table.add_row(
            f"{row['objective']}, {row['seq_len']}",
            f"{row['tokens_per_sample']:.1f}",
            *(f"{row[share]:.2%}" for share in shares),
        )
    console.print(table)


def _print_sample(sample: dict[str, Any], console: Console) -> None:
    place = f"row {sample['row']} ({sample['number_in_row']} of {sample['samples_in_row']} in it)"
    kind = f"{sample['objective']} at {sample['seq_len']}, {sample['num_tokens']} tokens"
    label = f"; label {sample['label']}: {sample['label_means']}" if sample["label_means"] else ""
    _say(console, f"\nsample {sample['sample']}, {place}; {kind}{label}")
    _say(console, f"  seen        {sample['seen']}")
    words = (
        each["token"] + ("" if each["is_mask"] else f" (seen as {each['seen_as']})")
        for each in sample["to_predict"]
    )
    _say(console, f"  to predict  {' | '.join(words)}")
    _say(console, f"  text A      {sample['a']}")
    if sample["b"] is not None:
        _say(console, f"  text B      {sample['b']}")
