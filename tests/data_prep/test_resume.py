"""A build that is killed and started again with `--resume` ends with the bytes of one that was not."""

import errno
import os
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_prep.build import Job, build
from data_prep.build import train_tokenizer as train_alone
from data_prep.journal import Journal
from data_prep.options import BuildOptions, InputOptions, TokenizerOptions
from data_prep.output import journal_path
from data_prep.progress import Progress
from data_prep.stopping import StopSignals
from data_prep.tokenizer import StoreTokenizer, train_tokenizer
from data_prep.workers import Workers
from pretrain.data.store import StoreWriter, partial_path, verify_store
from pretrain.errors import DataError, PretrainError, StoppedBySignal, UsageError
from pretrain.signals import STOP_SIGNALS
from tests.data_prep.test_build_store import all_bytes

WORDS = [
    *[
        "one",
        "two",
        "three",
        "river",
        "engine",
        "poem",
        "market",
        "planet",
        "recipe",
        "bridge",
        "storm",
        "house",
    ],
    *[
        "of",
        "the",
        "and",
        "in",
        "it",
        "was",
        "is",
        "not",
        "seen",
        "before",
        "again",
        "under",
        "over",
        "through",
    ],
]


def make_corpus(folder: Path, num_documents: int) -> None:
    """Documents of a few sentences over several files."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for number in range(4):
        documents = []
        for _ in range(num_documents // 4):
            sentences = [
                " ".join(generator.choice(WORDS, size=generator.integers(4, 20))).capitalize() + "."
                for _ in range(generator.integers(1, 12))
            ]
            documents.append(" ".join(sentences))
        (folder / f"{number}.txt").write_text("\n\n".join(documents) + "\n")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> BuildOptions:
    folder = tmp_path_factory.mktemp("resume")
    make_corpus(folder / "corpus", 4_000)
    train_tokenizer("wordpiece", [" ".join(WORDS)] * 50, 120, lowercase=True).save(folder / "tokenizer")
    return BuildOptions(
        input=InputOptions(paths=(str(folder / "corpus"),), segment_bytes=100_000),
        tokenizer=TokenizerOptions(path=str(folder / "tokenizer")),
        block_tokens=5_000,
        shard_tokens=40_000,
    )


@pytest.fixture(scope="module")
def whole(options: BuildOptions, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The bytes of an uninterrupted build."""
    output = tmp_path_factory.mktemp("whole") / "store"
    run(options, output)
    return all_bytes(output)


def run(options: BuildOptions, output: Path, **job: Any) -> dict[str, Any]:
    return build(options, output, Job(1, Progress(quiet=True), **job))


def run_until_killed(options: BuildOptions, output: Path, num_workers: int) -> None:
    build(options, output, Job(num_workers, Progress(quiet=True), resume=True, save_seconds=0.0))


def test_killed_after_every_few_writes(
    options: BuildOptions,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    in_full: bool,
) -> None:
    """The error stands for a kill: it leaves torn files behind, later than the journal knows."""
    output = tmp_path / "store"
    add, calls, few = StoreWriter.add, 0, 7 if in_full else 17

    def add_and_die(writer: StoreWriter, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        add(writer, *arguments)
        if calls % few == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(StoreWriter, "add", add_and_die)
    monkeypatch.setattr("data_prep.sources.corpus.CHUNK_BYTES", 60_000)
    positions = []
    for _ in range(200):
        try:
            run(options, output, resume=True, save_seconds=0.0)
        except KeyboardInterrupt:
            journal = Journal.load(journal_path(output))
            assert journal is not None
            positions.append((journal.position.segment, journal.position.chunk))
        else:
            break
    assert len(set(positions)) > 5
    assert positions == sorted(positions)
    assert all_bytes(output) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


@pytest.mark.slow
def test_sigkill_at_random_moments(
    options: BuildOptions, whole: dict[str, bytes], tmp_path: Path, in_full: bool
) -> None:
    output, context = tmp_path / "store", get_context("spawn")
    generator = np.random.default_rng(1)
    kills, limit = 0, 0.9
    while kills < (20 if in_full else 8):
        process = context.Process(target=run_until_killed, args=(options, output, 1 + kills % 2))
        process.start()
        process.join(generator.uniform(0.5, limit))
        if process.is_alive():
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            kills += 1
            limit += 0.1
        else:
            assert process.exitcode == 0
            assert all_bytes(output) == whole
            for name in whole:
                (output / name).unlink()
            for folder in (output / "tokenizer", output):
                folder.rmdir()
    run(options, output, resume=True)
    assert all_bytes(output) == whole


def test_a_full_disk_is_said_and_can_be_resumed(
    options: BuildOptions, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "store"
    add, calls = StoreWriter.add, 0

    def add_or_fail(writer: StoreWriter, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 9:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(output / "train-00000.tokens"))
        add(writer, *arguments)

    monkeypatch.setattr(StoreWriter, "add", add_or_fail)
    with pytest.raises(
        PretrainError, match=r"train-00000\.tokens: the disk is full .* MB are free.*--resume"
    ):
        run(options, output, save_seconds=0.0)
    assert not output.exists()
    run(options, output, resume=True)
    assert all_bytes(output) == whole


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_an_error_of_the_machine_is_said_and_can_be_resumed(
    options: BuildOptions,
    whole: dict[str, bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    output = tmp_path / "store"
    pread, calls = os.pread, 0

    def pread_or_fail(file: int, num_bytes: int, offset: int) -> bytes:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise OSError(number, os.strerror(number))  # as the system raises it, without a name
        return pread(file, num_bytes, offset)

    monkeypatch.setattr("data_prep.sources.corpus.CHUNK_BYTES", 20_000)
    with monkeypatch.context() as patch:
        patch.setattr("os.pread", pread_or_fail)
        with pytest.raises(
            PretrainError, match=rf"corpus/\d\.txt: {os.strerror(number)}; .* --resume"
        ) as raised:
            run(options, output, save_seconds=0.0)
    assert raised.value.exit_code == 1
    assert bytes_done(output) > 0
    run(options, output, resume=True)
    assert all_bytes(output) == whole


def test_bad_text_late_in_the_corpus_keeps_what_is_built(
    options: BuildOptions, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data_prep.sources.corpus.CHUNK_BYTES", 5_000)
    make_corpus(tmp_path / "corpus", 400)
    (tmp_path / "corpus" / "9.txt").write_bytes(b"Good text.\n\nBad \xff.")
    bad = replace(options, input=InputOptions(paths=(str(tmp_path / "corpus"),)))
    output = tmp_path / "store"
    with pytest.raises(DataError, match=r"9\.txt is not valid UTF-8"):
        build(bad, output, Job(1, Progress(), save_seconds=0.0))
    assert "is kept" in capsys.readouterr().err
    assert bytes_done(output) > 0
    with pytest.raises(UsageError, match="does not exist"):  # a slip of the pen costs nothing either
        run(replace(bad, input=InputOptions(paths=("nowhere",))), output, resume=True)
    skipping = replace(bad, input=replace(bad.input, on_bad_text="skip"))
    run(skipping, output, resume=True)
    run(skipping, tmp_path / "at once")
    assert all_bytes(output) == all_bytes(tmp_path / "at once")


def bytes_done(output: Path) -> int:
    journal = Journal.load(journal_path(output))
    return 0 if journal is None else journal.bytes_done


def test_a_build_that_skips_is_not_one_that_stops(
    options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    skipping = replace(options, input=replace(options.input, on_bad_text="skip"))
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(skipping, tmp_path / "store", save_seconds=0.0)
    with pytest.raises(UsageError, match=r"had input.on_bad_text = 'skip', now it is 'error'"):
        run(options, tmp_path / "store", resume=True)


def test_another_build_is_refused_and_kept(
    options: BuildOptions, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "store"

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(options, output, save_seconds=0.0)
    assert journal_path(output).exists()
    kept = journal_path(output).read_bytes()
    with pytest.raises(UsageError, match=r"had heldout = 0\.\d+, now it is 0\.5; give it that again"):
        run(replace(options, heldout=0.5), output, resume=True)
    added = tmp_path / "more.txt"
    added.write_text("One more document.")
    paths = (*options.input.paths, str(added))
    with pytest.raises(UsageError, match="the interrupted build there had"):
        run(replace(options, input=replace(options.input, paths=paths)), output, resume=True)
    assert journal_path(output).read_bytes() == kept
    run(options, output, resume=True)
    assert all_bytes(output) == whole


def test_a_build_that_is_to_replace_a_store_goes_on(
    options: BuildOptions, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "store"
    run(replace(options, heldout=0.5), output)

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(options, output, overwrite=True, save_seconds=0.0)
    assert bytes_done(output) > 0
    run(options, output, overwrite=True, resume=True)
    assert all_bytes(output) == whole
    monkeypatch.setattr(StoreWriter, "finish", interrupt)
    run(options, output, overwrite=True, resume=True)  # the same store: nothing to do
    with pytest.raises(KeyboardInterrupt):
        run(replace(options, heldout=0.25), output, overwrite=True, resume=True)


def test_a_signal_after_the_last_write_comes_too_late(
    options: BuildOptions, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, stop = tmp_path / "store", StopSignals()
    close = Workers.__exit__

    def signalled(workers: Workers, *error: object) -> None:
        stop._note(signal.SIGTERM, None)
        close(workers, *error)

    monkeypatch.setattr(Workers, "__exit__", signalled)
    run(options, output, stop=stop)
    assert all_bytes(output) == whole


def test_without_resume_nothing_old_is_used(
    options: BuildOptions, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "store"
    partial_path(output).mkdir()
    journal_path(output).write_text("{}")
    build(options, output, Job(1, Progress()))
    assert "--resume would have gone on" in capsys.readouterr().err
    assert all_bytes(output) == whole


def test_bad_input_leaves_nothing_to_resume(options: BuildOptions, tmp_path: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.txt").write_bytes(b"good text.\n\n" * 1000 + b"bad \xff")
    bad = replace(options, input=InputOptions(paths=(str(tmp_path / "corpus"),)))
    with pytest.raises(DataError):
        run(bad, tmp_path / "store", save_seconds=0.0)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]


def test_a_killed_worker_is_named_and_the_build_resumes(
    options: BuildOptions, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, map_in_order = tmp_path / "store", Workers.map_in_order

    def kill_one(workers: Workers, *arguments: Any) -> Any:
        results = map_in_order(workers, *arguments)
        yield next(results)
        os.kill(workers.process_ids[0], signal.SIGKILL)
        time.sleep(0.1)
        yield from results

    with monkeypatch.context() as patch:
        patch.setattr(Workers, "map_in_order", kill_one)
        with pytest.raises(PretrainError, match=r"killed by SIGKILL.*corpus/\d\.txt"):
            run(options, output, save_seconds=0.0)
    run(options, output, resume=True)
    assert all_bytes(output) == whole
    assert verify_store(output, full=True) == []


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts the signals' handlers back."""
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_saves_all_that_is_written(
    options: BuildOptions, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal is saved by nothing but the signal, which comes in the middle of writing."""
    output, add = tmp_path / "store", StoreWriter.add
    calls = 0

    def add_and_signal(writer: StoreWriter, *arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls % 5 == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        add(writer, *arguments)

    monkeypatch.setattr(StoreWriter, "add", add_and_signal)
    monkeypatch.setattr("data_prep.sources.chunks.CHUNK_BYTES", 50_000)
    done = []
    for _ in range(100):
        stop = StopSignals()
        stop.listen()
        try:
            run(options, output, resume=True, save_seconds=1e9, stop=stop)
        except StoppedBySignal as error:
            journal = Journal.load(journal_path(output))
            assert journal is not None
            assert f"{journal.bytes_done / 1e6:,.1f} MB of" in str(error)
            done.append(journal.bytes_done)
        else:
            break
    assert len(done) > 5
    assert done == sorted(set(done))
    assert all_bytes(output) == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


@pytest.fixture
def interrupted(options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build killed before its last step, with a tokenizer of its own at `tokenizer`."""
    shutil.copytree(options.tokenizer.path or "", tmp_path / "tokenizer")

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "finish", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(with_tokenizer(options, tmp_path), tmp_path / "store", save_seconds=0.0)
    return tmp_path / "store"


def with_tokenizer(options: BuildOptions, folder: Path) -> BuildOptions:
    return replace(options, tokenizer=TokenizerOptions(path=str(folder / "tokenizer")))


@pytest.mark.parametrize("is_finished", [False, True])
def test_another_tokenizer_at_the_same_path_is_refused_and_the_build_kept(
    options: BuildOptions, interrupted: Path, tmp_path: Path, is_finished: bool
) -> None:
    own = with_tokenizer(options, tmp_path)
    if is_finished:
        run(own, interrupted, resume=True)
    before = everything_below(tmp_path)
    tokenizer = tmp_path / "tokenizer" / "tokenizer.json"
    content = tokenizer.read_text()
    assert content.count('"bridge"') == 1
    tokenizer.write_text(content.replace('"bridge"', '"bridges"'))
    with pytest.raises(UsageError, match=r"another tokenizer than the one that lies at .*tokenizer now"):
        run(own, interrupted, resume=True)
    tokenizer.write_text(content)
    # A role that changes without a word of the vocabulary.
    config = tmp_path / "tokenizer" / "tokenizer_config.json"
    roles = config.read_text()
    config.write_text(roles.replace('"unk_token": "[UNK]"', '"unk_token": "[PAD]"'))
    with pytest.raises(UsageError, match="another tokenizer"):
        run(own, interrupted, resume=True)
    config.write_text(roles)
    assert everything_below(tmp_path) == before
    run(own, interrupted, resume=True)


def everything_below(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_was_written_and_changed_since_is_named(
    options: BuildOptions, interrupted: Path, tmp_path: Path
) -> None:
    journal = Journal.load(journal_path(interrupted))
    assert journal is not None
    path = partial_path(interrupted) / f"{journal.writer.open_shards['heldout'].name}.tokens"
    with path.open("r+b") as file:
        file.write(b"\xff")
    with pytest.raises(
        DataError, match=rf"{path.name} has changed: its first [\d,]+ bytes.*without --resume"
    ):
        run(with_tokenizer(options, tmp_path), interrupted, resume=True)


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tokenizer.json: /dev/full refuses every byte, as a full disk does."""
    save = StoreTokenizer.save

    def save_on_full_disk(tokenizer: StoreTokenizer, folder: Path) -> None:
        (folder / "tokenizer.json").symlink_to("/dev/full")
        save(tokenizer, folder)

    monkeypatch.setattr(StoreTokenizer, "save", save_on_full_disk)


@pytest.mark.parametrize("is_trained", [False, True])
def test_a_disk_too_full_for_the_tokenizer(
    options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_trained: bool
) -> None:
    if is_trained:
        options = replace(options, tokenizer=TokenizerOptions(vocab_size=120))
    fill_the_disk(monkeypatch)
    says = (
        r"tokenizer\.json: the disk is full \(No space.*the tokenizer needs .* MB, .* MB are free\. Make room"
    )
    with pytest.raises(PretrainError, match=says) as caught:
        run(options, tmp_path / "store", save_seconds=0.0)
    assert ("trains the tokenizer anew" in str(caught.value)) == is_trained
    assert "--resume" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []
    if is_trained:
        with pytest.raises(PretrainError, match=says):
            train_alone(
                options.input,
                options.tokenizer,
                tmp_path / "tok",
                num_workers=1,
                progress=Progress(quiet=True),
            )
        assert list(tmp_path.iterdir()) == []


def test_no_tokenizer_is_trained_where_there_is_no_room_for_it(
    options: BuildOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=4_000_000))
    monkeypatch.setattr("data_prep.build.train", lambda *_, **__: pytest.fail("it is trained"))
    with pytest.raises(PretrainError, match=r"the disk is full before .* may need 4\.1 MB, 4\.0 MB are free"):
        run(replace(options, tokenizer=TokenizerOptions(vocab_size=30_528)), tmp_path / "store")
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []
