"""Building a token store.

1. claim the output folder (`output`);
2. open the corpus: files, or the demo corpus (`sources`);
3. load the tokenizer, or train it on a sample of the corpus (`tokenizer`);
4. hand batches of texts to the workers (`encode`) and take the results in order;
5. assign each document to a split (`heldout`) and write it; report and manifest come last.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.documents import Document, Intake
from data_prep.encode import EncoderSettings, TextBatch, encode_batch
from data_prep.heldout import HeldoutSplit
from data_prep.options import BuildOptions, InputOptions, TokenizerOptions, check_options
from data_prep.output import check_empty, check_output, claimed, is_store, making_way, read_report
from data_prep.progress import Progress
from data_prep.report import Ledger, make_report
from data_prep.sources.corpus import Corpus, FileCorpus
from data_prep.sources.demo import collect_demo
from data_prep.sources.files import find_files
from data_prep.tokenizer import StoreTokenizer, load_tokenizer, train_wordpiece
from data_prep.workers import Workers
from pretrain.data.store import Documents, StoreLayout, StoreWriter, TokenStore, partial_path
from pretrain.errors import DataError, UsageError

_BATCH_CHARACTERS = 1 << 19


def build(
    options: BuildOptions,
    output: Path,
    *,
    num_workers: int,
    progress: Progress,
    overwrite: bool = False,
    resume: bool = False,
) -> dict[str, Any]:
    """Build the store at `output` and return its report.

    With `resume`, a finished store of equal options is accepted, and one that another process is building is
    waited for; an interrupted build starts anew.
    """
    check_options(options)
    output = output.absolute()
    if resume and is_store(output):
        return accept_finished(options, output)
    check_output(output, overwrite=overwrite)
    with claimed(output, say=progress.say, wait=resume):
        if resume and is_store(output):
            return accept_finished(options, output)
        check_output(output, overwrite=overwrite)
        with Workers(num_workers) as workers:
            return _build(options, output, workers, progress)


def accept_finished(options: BuildOptions, output: Path) -> dict[str, Any]:
    """The report of the finished store; raises UsageError if other options or other input made it."""
    TokenStore.open(output)
    report = read_report(output)
    before, now = report.get("options", {}), options.as_dict()
    for name, value in now.items():
        if before.get(name) != value:
            raise UsageError(
                f"--output {output} was built with {name} = {before.get(name)!r}, now it is {value!r}; "
                "use --overwrite or another path."
            )
    if options.input.paths:
        files = find_files(options.input.paths, options.input.format)
        if report.get("input", {}).get("digest") != files.digest():
            raise UsageError(
                f"--output {output} was built from other or older files; use --overwrite or another path."
            )
    return report


def train_tokenizer(
    source: InputOptions, options: TokenizerOptions, output: Path, *, num_workers: int, progress: Progress
) -> StoreTokenizer:
    """A tokenizer alone, saved at `output`, which must not exist or be empty."""
    whole = BuildOptions(source, options)
    check_options(whole)
    output = output.absolute()
    check_empty(output)
    with claimed(output, say=progress.say, wait=False), Workers(num_workers) as workers:
        trained = prepare_tokenizer(options, open_corpus(source, workers, progress), progress)
        folder = partial_path(output)
        folder.mkdir()
        trained.save(folder)
        with making_way(output):
            folder.rename(output)
    return trained


def prepare_tokenizer(options: TokenizerOptions, corpus: Corpus, progress: Progress) -> StoreTokenizer:
    """The existing tokenizer, or one trained on a bounded sample of the corpus."""
    if options.path is not None:
        return load_tokenizer(Path(options.path))
    progress.start("training the tokenizer", "steps", 0)
    texts = list(corpus.sample(options.sample_bytes))
    if not texts:
        raise DataError(_empty(corpus))
    tokenizer = train_wordpiece(texts, options.vocab_size, lowercase=options.lowercase)
    progress.stop()
    return tokenizer


def open_corpus(options: InputOptions, workers: Workers, progress: Progress) -> Corpus:
    """Files, or the demo corpus."""
    if options.demo:
        return collect_demo(workers, progress, options.demo_bytes)
    files = find_files(options.paths, options.format)
    if files.ignored:
        left_out = ", ".join(f"{count} {suffix}" for suffix, count in files.ignored.items())
        progress.say(f"Files that are neither text nor JSON Lines are left out: {left_out}.")
    return FileCorpus(files, options)


def _build(options: BuildOptions, output: Path, workers: Workers, progress: Progress) -> dict[str, Any]:
    ledger = Ledger()
    with ledger.timed("reading"):
        corpus = open_corpus(options.input, workers, progress)
    with ledger.timed("tokenizer"):
        tokenizer = prepare_tokenizer(options.tokenizer, corpus, progress)
    layout = StoreLayout(
        vocab_size=tokenizer.vocab_size,
        special_ids=tokenizer.special_ids,
        all_special_ids=tokenizer.all_special_ids,
        block_tokens=options.block_tokens,
        shard_tokens=options.shard_tokens,
    )
    with StoreWriter(output, layout) as writer:
        tokenizer.save(writer.tokenizer_path)
        with ledger.timed("encoding"):
            _encode(options, corpus, writer, workers, progress, ledger)
        if ledger.splits["train"].documents == 0:
            raise DataError(_empty(corpus))
        report = make_report(options, corpus.describe(), tokenizer, ledger)
        with making_way(output):
            writer.finish(report)
    return report


def _encode(
    options: BuildOptions,
    corpus: Corpus,
    writer: StoreWriter,
    workers: Workers,
    progress: Progress,
    ledger: Ledger,
) -> None:
    """The whole corpus, through the workers, into the writer."""
    layout = writer.layout
    settings = EncoderSettings(
        tokenizer_file=writer.tokenizer_path / "tokenizer.json",
        vocab_size=layout.vocab_size,
        unk_id=layout.special_ids.unk,
        forbidden=tuple(sorted(set(layout.all_special_ids) - {layout.special_ids.unk})),
        token_dtype=layout.token_dtype.str,
        sentences=options.sentences,
        language=options.language,
    )
    split = HeldoutSplit(options.heldout)

    def write(assigned: Iterable[tuple[str, Documents]]) -> None:
        for name, documents in assigned:
            writer.add(name, documents)
            ledger.written(name, documents)

    progress.start("tokenizing", "bytes", corpus.total_bytes)
    batches = _batches(corpus.documents(ledger.intake), ledger.intake)
    for encoded in workers.map_in_order(partial(encode_batch, settings), batches):
        write(split.assign(encoded.hashed))
        ledger.encoded(encoded)
        progress.advance(encoded.num_bytes, encoded.num_texts)
    write(split.finish())
    progress.stop()


def _batches(documents: Iterable[Document], intake: Intake) -> Iterator[TextBatch]:
    """Consecutive documents of about `_BATCH_CHARACTERS`; where they are cut does not depend on the
    workers."""
    texts: list[str] = []
    size, bytes_before = 0, intake.bytes_read
    for document in documents:
        texts.append(document.text)
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield TextBatch(tuple(texts), intake.bytes_read - bytes_before)
            texts, size, bytes_before = [], 0, intake.bytes_read
    if texts:
        yield TextBatch(tuple(texts), intake.bytes_read - bytes_before)


def _empty(corpus: Corpus) -> str:
    return (
        f"The corpus is empty: nothing to learn from in {corpus.total_bytes:,} bytes of input; check --input."
    )
