"""All figures of a store as one dictionary of plain values, the content of `inspect --json`."""

from typing import Any

from tokenizers import Tokenizer

from data_prep.inspection.languages import languages
from data_prep.inspection.options import InspectOptions
from data_prep.inspection.packing import packing
from data_prep.inspection.samples import first_samples
from data_prep.inspection.scan import Scan, scan_split
from data_prep.output import read_report
from data_prep.progress import Progress
from pretrain.data.store import SPLITS, StoreSplit, TokenStore
from pretrain.errors import DataError


def inspect_store(store: TokenStore, options: InspectOptions, progress: Progress) -> dict[str, Any]:
    """Raises DataError for a store without text or whose tokenizer cannot be read."""
    manifest = store.manifest
    splits = {name: store.split(name) for name in SPLITS}
    tokenizer = _open_tokenizer(store)
    main = next((split for split in splits.values() if split.num_blocks), None)
    if main is None:
        raise DataError(f"{store.path} holds no document; build it again from more text.")
    scans = _scan(splits, store, options, progress)
    figures: dict[str, Any] = {
        "store": str(store.path),
        "fingerprint": store.fingerprint,
        "vocab_size": store.vocab_size,
        "token_dtype": manifest.token_dtype,
        "special_ids": store.special_ids,
        "block_tokens": manifest.block_tokens,
        "splits": {name: _counts(split, scans.get(name)) for name, split in splits.items()},
        "heldout_documents_in_train": _overlap(splits, scans),
        "languages": languages(main, tokenizer),
        "packing": packing(main, options.seed),
        "build": _build_figures(store),
    }
    if options.num_samples:
        figures["samples"] = first_samples(store, main, tokenizer, options)
    return figures


def _open_tokenizer(store: TokenStore) -> Tokenizer:
    path = store.tokenizer_path / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise DataError(f"{path} holds no tokenizer ({error}); copy or build the store again.") from None


def _scan(
    splits: dict[str, StoreSplit], store: TokenStore, options: InspectOptions, progress: Progress
) -> dict[str, Scan]:
    total = sum(split.num_tokens for split in splits.values()) * store.manifest.dtype.itemsize
    if options.full:
        progress.start("reading", "bytes", total)
    advance = progress.advance if options.full else _ignore
    scans = {
        name: scan_split(split, store.special_ids["unk"], full=options.full, advance=advance)
        for name, split in splits.items()
        if split.num_blocks
    }
    if options.full:
        progress.stop()
    return scans


def _ignore(amount: int) -> None:
    """For those who show no progress."""


def _counts(split: StoreSplit, scan: Scan | None) -> dict[str, Any]:
    counts = {
        "documents": split.num_documents,
        "sentences": split.num_sentences,
        "tokens": split.num_tokens,
        "blocks": split.num_blocks,
    }
    return counts | (scan.figures(split) if scan is not None else {})


def _overlap(splits: dict[str, StoreSplit], scans: dict[str, Scan]) -> dict[str, Any] | None:
    """Share of held-out documents whose very tokens are in the training split too, None without such a split."""
    if set(scans) != set(SPLITS):
        return None
    train, heldout = scans["train"], scans["heldout"]
    extents = {scan.extent(splits[name].num_blocks) for name, scan in scans.items()}
    extent = next(each for each in ("lower bound", "estimate", "exact") if each in extents)
    return {"share": heldout.seen.share_in(train.seen), "extent": extent}


def _build_figures(store: TokenStore) -> dict[str, Any]:
    """What the store's report says was read, kept and dropped; empty without a report."""
    report = read_report(store.path)
    names = ("documents", "special_ids_replaced", "cuts_inside_sentences", "notes")
    return {name: report[name] for name in names if report.get(name)}
