"""Whole builds in this process (their workers are processes of their own): content, repeatability, the
output."""

import fcntl
import itertools
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoTokenizer

from data_prep import output as output_module
from data_prep.build import Job, build, train_tokenizer
from data_prep.options import BuildOptions, InputOptions, TokenizerOptions
from data_prep.progress import Progress
from data_prep.tokenizer import train_tokenizer as train
from pretrain.data.store import TokenStore, partial_path, verify_store
from pretrain.errors import DataError, UsageError

TOPICS = ["rivers", "engines", "poems", "markets", "planets", "recipes", "bridges", "storms"]


def make_text(index: int) -> str:
    topic = TOPICS[index % len(TOPICS)]
    sentences = f"Many {topic} were seen before. Dr. {topic.title()} said so."
    return f"This is text {index} about {topic}.\n{sentences}\n"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    folder = tmp_path / "corpus"
    folder.mkdir()
    texts = [make_text(index) for index in range(300)]
    (folder / "a.txt").write_text("\n".join(texts[:200]))
    (folder / "b.txt").write_text("\n".join(texts[100:]))  # the middle hundred twice
    return folder


def options_for(corpus: Path, **changes: Any) -> BuildOptions:
    options = BuildOptions(
        input=InputOptions(paths=(str(corpus),)),
        tokenizer=TokenizerOptions(vocab_size=200),
        heldout=0.1,
        block_tokens=500,
        shard_tokens=3000,
    )
    return replace(options, **changes)


def run(options: BuildOptions, output: Path, num_workers: int = 1, **job: Any) -> dict[str, Any]:
    return build(options, output, Job(num_workers, Progress(quiet=True), **job))


def all_bytes(store: Path) -> dict[str, bytes]:
    return {
        path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("*") if path.is_file()
    }


def decoded_documents(store: TokenStore, split: str) -> list[list[str]]:
    tokenizer = AutoTokenizer.from_pretrained(str(store.tokenizer_path))
    documents: list[list[str]] = []
    view = store.split(split)
    for index in range(view.num_blocks):
        block = view.block(index)
        sentences = np.split(block.tokens, np.cumsum(block.sentence_lengths)[:-1])
        texts = iter([str(tokenizer.decode(sentence.tolist())) for sentence in sentences])
        documents += [list(itertools.islice(texts, length)) for length in block.document_lengths]
    return documents


def test_every_document_is_in_one_split_with_its_duplicates(corpus: Path, tmp_path: Path) -> None:
    report = run(options_for(corpus), tmp_path / "store")
    store = TokenStore.open(tmp_path / "store")
    train, heldout = decoded_documents(store, "train"), decoded_documents(store, "heldout")
    expected = {
        (f"this is text {i} about {topic}.", f"many {topic} were seen before.", f"dr. {topic} said so.")
        for i in range(300)
        for topic in [TOPICS[i % len(TOPICS)]]
    }
    assert {tuple(document) for document in train + heldout} == expected
    assert not {tuple(document) for document in train} & {tuple(document) for document in heldout}
    assert len(train) + len(heldout) == 400 == report["documents"]["kept"]
    assert 15 < len(heldout) < 75
    assert store.manifest.splits["train"].tokens == report["splits"]["train"]["tokens"]
    assert len(store.manifest.splits["train"].shards) > 1
    assert verify_store(tmp_path / "store", full=True) == []


def test_bytes_are_equal_for_any_number_of_workers(corpus: Path, tmp_path: Path) -> None:
    options = options_for(corpus, input=InputOptions(paths=(str(corpus),), segment_bytes=4_000))
    for num_workers in (1, 3):
        run(options, tmp_path / f"store{num_workers}", num_workers)
    assert all_bytes(tmp_path / "store1") == all_bytes(tmp_path / "store3")


def test_blocks_end_where_segments_end(corpus: Path, tmp_path: Path) -> None:
    for segment_bytes in (4_000, 1 << 20):
        source = InputOptions(paths=(str(corpus),), segment_bytes=segment_bytes)
        options = options_for(corpus, input=source, block_tokens=1 << 20, shard_tokens=1 << 20)
        run(options, tmp_path / str(segment_bytes))
    many, one = (TokenStore.open(tmp_path / name).split("train") for name in ("4000", str(1 << 20)))
    assert one.num_blocks == 1
    assert many.num_blocks > 5
    assert many.num_tokens == one.num_tokens
    joined = np.concatenate([many.block(index).tokens for index in range(many.num_blocks)])
    assert np.array_equal(joined, one.block(0).tokens)


def test_nothing_in_the_store_tells_where_it_was_built(corpus: Path, tmp_path: Path) -> None:
    tokenizer = tmp_path / "tokenizer"
    train("wordpiece", [make_text(index) for index in range(50)], 150, lowercase=True).save(tokenizer)
    run(options_for(corpus, tokenizer=TokenizerOptions(path=str(tokenizer))), tmp_path / "store")
    for path in (tmp_path / "store").rglob("*"):
        if path.is_file() and path.name != "report.json":
            assert str(tmp_path).encode() not in path.read_bytes(), path


def test_resume_accepts_an_equal_store_and_refuses_another(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "store"
    report = run(options_for(corpus), output)
    before = (output / "manifest.json").stat().st_mtime_ns
    assert run(options_for(corpus), output, resume=True) == report
    assert (output / "manifest.json").stat().st_mtime_ns == before
    with pytest.raises(UsageError, match=r"heldout = 0\.1, now it is 0\.2"):
        run(options_for(corpus, heldout=0.2), output, resume=True)
    (corpus / "c.txt").write_text("One more document.")
    with pytest.raises(UsageError, match="other or older files"):
        run(options_for(corpus), output, resume=True)


def test_overwrite_replaces_a_store_only_when_the_new_one_is_whole(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "store"
    run(options_for(corpus), output)
    first = TokenStore.open(output).fingerprint
    with pytest.raises(UsageError, match="is a token store already"):
        run(options_for(corpus), output)
    (corpus / "c.txt").write_bytes(b"bad \xff")
    with pytest.raises(DataError):
        run(options_for(corpus), output, overwrite=True)
    assert TokenStore.open(output).fingerprint == first
    (corpus / "c.txt").write_text("A new document about new things.")
    run(options_for(corpus), output, overwrite=True)
    assert TokenStore.open(output).fingerprint != first
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "store"]


def test_a_folder_of_somebody_else_is_never_touched(corpus: Path, tmp_path: Path) -> None:
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="is not a token store"):
            run(options_for(corpus), corpus, overwrite=overwrite)
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UsageError, match="is a file"):
        run(options_for(corpus), tmp_path / "file", overwrite=True)
    assert (tmp_path / "file").read_text() == "mine"


def test_leftovers_of_a_killed_build_are_put_right(corpus: Path, tmp_path: Path) -> None:
    output = tmp_path / "store"
    partial_path(output).mkdir()
    (partial_path(output) / "train-00000.tokens").write_bytes(b"half")
    (tmp_path / ".store.lock").write_text("process 1 on elsewhere\n")  # nobody holds it any more
    run(options_for(corpus), output)
    assert verify_store(output, full=True) == []
    # A replacement caught between its two renames: the old store comes back.
    inode = (output / "manifest.json").stat().st_ino
    output.rename(tmp_path / ".store.old")
    run(options_for(corpus), output, resume=True)
    assert (output / "manifest.json").stat().st_ino == inode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "store"]


def test_one_store_is_built_by_one_process_and_resume_waits(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output_module, "_POLL_SECONDS", 0.01)
    output = tmp_path / "store"
    lock = (tmp_path / ".store.lock").open("w")
    lock.write("process 4242 on node7\n")
    lock.flush()
    fcntl.flock(lock, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="being built by process 4242 on node7"):
        run(options_for(corpus), output)
    waiting = threading.Thread(target=run, args=(options_for(corpus), output), kwargs={"resume": True})
    waiting.start()
    time.sleep(0.3)
    assert not partial_path(output).exists()
    lock.close()
    waiting.join(60)
    assert verify_store(output, full=False) == []


@pytest.mark.parametrize("content", ["", " \n\n\t\n"])
@pytest.mark.parametrize("has_tokenizer", [False, True])
def test_an_empty_corpus_leaves_nothing(tmp_path: Path, content: str, has_tokenizer: bool) -> None:
    (tmp_path / "a.txt").write_text(content)
    tokenizer = TokenizerOptions(vocab_size=100)
    if has_tokenizer:
        train("wordpiece", [make_text(index) for index in range(9)], 150, lowercase=True).save(
            tmp_path / "tok"
        )
        tokenizer = TokenizerOptions(path=str(tmp_path / "tok"))
    with pytest.raises(DataError, match="corpus is empty"):
        run(options_for(tmp_path / "a.txt", tokenizer=tokenizer), tmp_path / "store")
    assert not {"store", ".store.partial", ".store.lock"} & {path.name for path in tmp_path.iterdir()}


def test_a_single_document_is_trained_on_and_the_report_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(make_text(0))
    report = run(options_for(tmp_path / "a.txt"), tmp_path / "store")
    assert report["splits"]["heldout"]["documents"] == 0
    assert "Nothing is held out" in report["notes"][0]
    store = TokenStore.open(tmp_path / "store")
    assert (store.split("train").num_documents, store.split("heldout").num_blocks) == (1, 0)
    assert verify_store(tmp_path / "store", full=True) == []


def test_a_tokenizer_alone_can_be_reused(corpus: Path, tmp_path: Path) -> None:
    source, tokenizer = InputOptions(paths=(str(corpus),)), TokenizerOptions(vocab_size=200)
    quiet = Progress(quiet=True)
    train_tokenizer(source, tokenizer, tmp_path / "tok", num_workers=1, progress=quiet)
    with pytest.raises(UsageError, match="exists already"):
        train_tokenizer(source, tokenizer, tmp_path / "tok", num_workers=1, progress=quiet)
    run(options_for(corpus), tmp_path / "trained")
    run(options_for(corpus, tokenizer=TokenizerOptions(path=str(tmp_path / "tok"))), tmp_path / "given")
    for name in ("train-00000.tokens", "heldout-00000.tokens", "tokenizer/tokenizer.json"):
        assert (tmp_path / "trained" / name).read_bytes() == (tmp_path / "given" / name).read_bytes()


def test_the_report_says_what_was_done_and_not_what_might_have_been(corpus: Path, tmp_path: Path) -> None:
    train("wordpiece", [make_text(index) for index in range(50)], 150, lowercase=True).save(tmp_path / "tok")
    given = TokenizerOptions(path=str(tmp_path / "tok"))
    report = run(options_for(corpus, tokenizer=given, language="xx"), tmp_path / "store")
    trained = {name: value for name, value in report["options"].items() if name.startswith("tokenizer.")}
    assert {name for name, value in trained.items() if value is not None} == {"tokenizer.path"}
    assert ["no rules for --language 'xx'" in note for note in report["notes"]] == [True]
    run(options_for(corpus, tokenizer=given, language="xx"), tmp_path / "store", resume=True)


@pytest.mark.parametrize("given", ["corpus", "cor*", "linked"])
def test_an_output_inside_the_input_is_refused(
    corpus: Path, tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "linked").symlink_to(corpus)
    source = InputOptions(paths=(given,))
    for output in (corpus / "deep" / "store", tmp_path / "linked" / "store"):
        with pytest.raises(UsageError, match=r"store lies in --input .*; choose a path outside"):
            run(options_for(corpus, input=source), output)
        with pytest.raises(UsageError, match="choose a path outside"):
            train_tokenizer(source, TokenizerOptions(), output, num_workers=1, progress=Progress(quiet=True))
    assert sorted(path.name for path in corpus.iterdir()) == ["a.txt", "b.txt"]
