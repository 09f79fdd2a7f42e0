"""Building a token store.

1. claim the output folder (`output`); go on from the journal of a killed build, if asked to (`journal`);
2. open the corpus: files, a dataset of the Hub, or the demo corpus (`sources`);
3. load the tokenizer, or train it on a sample of the corpus (`tokenizer`);
4. hand the corpus, cut into chunks, to the workers (`pipeline`), and write what comes back, in order;
5. report and manifest come last.
"""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from data_prep.journal import Journal
from data_prep.options import BuildOptions, InputOptions, TokenizerOptions, check_options
from data_prep.output import (
    AnotherBuild,
    check_apart,
    check_empty,
    check_output,
    claimed,
    discard_partial,
    is_store,
    journal_path,
    making_way,
    read_report,
)
from data_prep.parts import Part
from data_prep.pipeline import Pipeline
from data_prep.position import Position
from data_prep.progress import Progress
from data_prep.report import Ledger, Timings, make_report, tokenizer_section
from data_prep.sentences import split_sentences
from data_prep.sources.corpus import Corpus
from data_prep.sources.files import find_files
from data_prep.sources.opening import open_corpus
from data_prep.stopping import Stopped, StopSignals, interruptible
from data_prep.tokenizer import StoreTokenizer, check_vocab_size, load_tokenizer
from data_prep.tokenizer import train_tokenizer as train
from data_prep.unfinished import (
    check_room_for_tokenizer,
    disk_full,
    is_disk_full,
    machine_error,
    stopped,
    tokenizer_not_saved,
)
from data_prep.workers import Workers
from pretrain.data.store import SpecialIds, StoreLayout, StoreWriter, TokenStore, partial_path
from pretrain.errors import DataError, UsageError

SAVE_SECONDS = 30.0


@dataclass(frozen=True)
class Job:
    """How a build is done; nothing here changes what comes out, except that `part` builds only a part.

    `save_seconds`: time between two states from which a killed build can go on.
    """

    num_workers: int
    progress: Progress
    overwrite: bool = False
    resume: bool = False
    part: Part | None = None
    save_seconds: float = SAVE_SECONDS
    timings: Timings = field(default_factory=Timings)
    stop: StopSignals = field(default_factory=StopSignals)


def build(options: BuildOptions, output: Path, job: Job) -> dict[str, Any]:
    """Build the store (or the part of it) at `output` and return its report.

    With `resume`, a finished store of equal options is accepted, one that another process is building is waited
    for, and a build that was killed goes on. Raises StoppedBySignal where `job.stop` listens.
    """
    check_options(options)
    if options.tokenizer.path is None:
        check_vocab_size(options.tokenizer.train, options.tokenizer.vocab_size)
    if job.part is not None and (options.tokenizer.path is None or options.input.demo):
        raise UsageError(
            "--part needs files as --input and a --tokenizer that is there already, the same one for all parts: "
            "train it with `python -m data_prep tokenizer`."
        )
    output = output.absolute()
    if job.part is not None:
        is_finished = job.resume and is_store(output / job.part.name)
        if is_store(output) and not is_finished:
            raise UsageError(f"--output {output} is a token store already; use another path.")
        output = output / job.part.name
    if job.resume and is_store(output):
        return accept_finished(options, output)
    check_output(output, overwrite=job.overwrite)
    check_apart(options.input.paths, output)
    with claimed(output, say=job.progress.say, wait=job.resume, resume=job.resume):
        if job.resume and is_store(output):
            return accept_finished(options, output)
        check_output(output, overwrite=job.overwrite)
        try:
            with Workers(job.num_workers) as workers:
                return _Build(options, output, job, workers).run()
        except Stopped as signal:
            raise stopped(output, str(signal)) from None
        except OSError as error:
            if is_disk_full(error):
                raise disk_full(output, error) from None
            raise machine_error(output, error) from None


def accept_finished(options: BuildOptions, output: Path) -> dict[str, Any]:
    """The report of the finished store; raises UsageError if other options or other input made it."""
    store = TokenStore.open(output)
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
    changed = _changed_tokenizer(options, store.manifest.tokenizer_sha256, report.get("tokenizer", {}))
    if changed is not None:
        raise UsageError(f"--output {output} was built with {changed}; use --overwrite or another path.")
    return report


def train_tokenizer(
    source: InputOptions, options: TokenizerOptions, output: Path, *, num_workers: int, progress: Progress
) -> StoreTokenizer:
    """A tokenizer alone, saved at `output`, which must not exist or be empty."""
    whole = BuildOptions(source, options)
    check_options(whole)
    check_vocab_size(options.train, options.vocab_size)
    output = output.absolute()
    check_apart(source.paths, output)
    check_empty(output)
    with claimed(output, say=progress.say, wait=False), Workers(num_workers) as workers:
        trained = prepare_tokenizer(whole, open_corpus(source, workers, progress), output, progress)
        folder = partial_path(output)
        folder.mkdir()
        _save_tokenizer(trained, folder, output)
        with making_way(output):
            folder.rename(output)
    return trained


def prepare_tokenizer(
    options: BuildOptions, corpus: Corpus, output: Path, progress: Progress
) -> StoreTokenizer:
    """The existing tokenizer, or one trained on the sentences of a bounded sample of the corpus."""
    wanted = options.tokenizer
    if wanted.path is not None:
        tokenizer = load_tokenizer(Path(wanted.path))
    else:
        check_room_for_tokenizer(output, wanted.vocab_size)
        progress.start("training the tokenizer", "steps", 0)
        texts = corpus.sample(wanted.sample_bytes)
        split = partial(split_sentences, method=options.sentences, language=options.language)
        sentences = [sentence for text in texts for sentence in split(text)[0]]
        if not sentences:
            raise DataError(_empty(corpus))
        tokenizer = interruptible(
            partial(train, wanted.train, sentences, wanted.vocab_size, lowercase=wanted.is_lowercase)
        )
        progress.stop()
    for note in tokenizer.notes:
        progress.say(note)
    return tokenizer


@dataclass(frozen=True)
class _Build:
    """One build, from an open corpus to a finished store."""

    options: BuildOptions
    output: Path
    job: Job
    workers: Workers

    def run(self) -> dict[str, Any]:
        timings, part = self.job.timings, self.job.part
        with timings.timed("reading"):
            corpus = open_corpus(self.options.input, self.workers, self.job.progress)
        segments = range(corpus.num_segments)
        if part is not None:
            segments = part.segments(corpus.num_segments, self.options.input.segment_bytes)
        with timings.timed("tokenizer"):
            journal = self._last_journal(corpus) or self._first_journal(corpus, segments)
        layout = _layout(self.options, journal.tokenizer)
        with StoreWriter.resume(self.output, layout, journal.writer) as writer:
            with timings.timed("encoding"):
                ledger = Pipeline(
                    self.options, corpus, segments, writer, self.workers, self.job.progress, self.job.stop
                ).run(journal, self._save, self.job.save_seconds, timings)
            if part is None and ledger.splits["train"].documents == 0:
                raise DataError(_empty(corpus))
            name = None if part is None else part.name
            report = make_report(self.options, name, corpus.describe(), journal.tokenizer, ledger)
            # A signal that comes now is too late: the store is there in a moment.
            with self.job.stop.held_back():
                with making_way(self.output):
                    writer.finish(report)
                journal_path(self.output).unlink(missing_ok=True)
        return report

    def _last_journal(self, corpus: Corpus) -> Journal | None:
        """That of the build that was killed, None if there is none. Raises AnotherBuild for other options or input."""
        if not partial_path(self.output).exists():
            return None
        journal = Journal.load(journal_path(self.output))
        if journal is not None:
            difference = journal.difference(*self._identity(corpus)) or _changed_tokenizer(
                self.options, journal.tokenizer_sha256, journal.tokenizer
            )
            if difference is not None:
                raise AnotherBuild(
                    f"--output {self.output}: the interrupted build there had {difference}; say what was said then to "
                    "go on, or leave out --resume to remove it and build anew."
                )
            megabytes = journal.bytes_done / 1e6
            self.job.progress.say(
                f"An earlier build was interrupted; it goes on after {megabytes:,.1f} MB of input."
            )
            # A later one compares itself with this one.
            return journal.model_copy(update={"options": self.options.as_dict()})
        self.job.progress.say(
            "How far an earlier build had come cannot be read; it is removed and built anew."
        )
        discard_partial(self.output)
        return None

    def _first_journal(self, corpus: Corpus, segments: range) -> Journal:
        """With the tokenizer in its place and nothing written."""
        tokenizer = prepare_tokenizer(self.options, corpus, self.output, self.job.progress)
        section = tokenizer_section(tokenizer)
        with StoreWriter(self.output, _layout(self.options, section)) as writer:
            _save_tokenizer(tokenizer, writer.tokenizer_path, self.output)
            state = writer.snapshot()
        options, inputs, part = self._identity(corpus)
        journal = Journal(
            options=options,
            inputs=inputs,
            part=part,
            tokenizer=section,
            position=Position(segment=segments.start, chunk=0),
            bytes_done=0,
            bytes_total=corpus.total_bytes * len(segments) // corpus.num_segments,
            ledger=Ledger(),
            writer=state,
        )
        self._save(journal)
        return journal

    def _save(self, journal: Journal) -> None:
        journal.save(journal_path(self.output))

    def _identity(self, corpus: Corpus) -> tuple[dict[str, Any], str, str | None]:
        """What must be the same for a build to go on."""
        part = self.job.part
        source = json.dumps(corpus.describe(), sort_keys=True)
        return self.options.as_dict(), source, None if part is None else part.name


def _layout(options: BuildOptions, tokenizer: dict[str, Any]) -> StoreLayout:
    return StoreLayout(
        vocab_size=tokenizer["vocab_size"],
        special_ids=SpecialIds(**tokenizer["special_ids"]),
        all_special_ids=tuple(tokenizer["all_special_ids"]),
        block_tokens=options.block_tokens,
        shard_tokens=options.shard_tokens,
    )


def _save_tokenizer(tokenizer: StoreTokenizer, folder: Path, output: Path) -> None:
    try:
        tokenizer.save(folder)
    except OSError as error:
        if not is_disk_full(error):
            raise
        raise tokenizer_not_saved(output, tokenizer, error) from None


def _changed_tokenizer(options: BuildOptions, sha256: str, section: dict[str, Any]) -> str | None:
    """What is different where --tokenizer names another one than that of this checksum and section of the report."""
    if options.tokenizer.path is None:
        return None
    tokenizer = load_tokenizer(Path(options.tokenizer.path))
    now = tokenizer_section(tokenizer)
    roles = ("vocab_size", "special_ids", "all_special_ids")
    if tokenizer.sha256 == sha256 and all(section.get(name) == now[name] for name in roles):
        return None
    return f"another tokenizer than the one that lies at {options.tokenizer.path} now"


def _empty(corpus: Corpus) -> str:
    return (
        f"The corpus is empty: nothing to learn from in {corpus.total_bytes:,} bytes of input; check --input."
    )
