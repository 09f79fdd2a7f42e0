"""A build that is killed and goes on gives the bytes of one that was not."""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.data.store import StoreLayout, StoreWriter, WriterState, partial_path, verify_store
from pretrain.errors import DataError
from tests.data.store.documents import (
    Text,
    contents_of,
    documents_of,
    layout_of,
    random_texts,
    save_tokenizer,
)

LAYOUT = layout_of(block_tokens=12, shard_tokens=40)
Action = tuple[Literal["train", "heldout"], list[Text]] | Literal["end_blocks", "snapshot", "kill"]

sentences = st.lists(st.integers(5, 99), min_size=1, max_size=9)
texts = st.lists(st.lists(sentences, min_size=1, max_size=3), min_size=1, max_size=4)
actions = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["train", "heldout"]), texts),
        st.sampled_from(["end_blocks", "snapshot", "snapshot", "kill"]),
    ),
    max_size=25,
)


def act(writer: StoreWriter, action: Action) -> None:
    if isinstance(action, tuple):
        writer.add(action[0], documents_of(action[1]))
    elif action == "end_blocks":
        writer.end_blocks()


@dataclass
class Interrupted:
    """A store written with kills in between: each goes back to the last snapshot and does the rest again."""

    path: Path
    saved: str | None = None
    since: list[Action] = field(default_factory=list)  # what was done after the snapshot

    def run(self, script: list[Action], torn: bytes) -> None:
        writer = self._new()
        for action in script:
            if action == "snapshot":
                self.saved, self.since = writer.snapshot().to_json(), []
            elif action == "kill" and self.saved is not None:
                writer.__exit__()
                self._tear(torn)
                writer = StoreWriter.resume(self.path, LAYOUT, WriterState.from_json(self.saved))
                for again in self.since:
                    act(writer, again)
            else:
                act(writer, action)
                self.since.append(action)
        writer.finish({"options": {}})

    def _new(self) -> StoreWriter:
        writer = StoreWriter(self.path, LAYOUT)
        save_tokenizer(writer.tokenizer_path)
        return writer

    def _tear(self, torn: bytes) -> None:
        """What a kill may leave behind: half-written pages, later shards, a manifest that came too soon."""
        folder = partial_path(self.path)
        state = WriterState.from_json(self.saved or "")
        for shard in state.open_shards.values():
            for suffix in ("tokens", "words", "blocks"):
                with (folder / f"{shard.name}.{suffix}").open("ab") as file:
                    file.write(torn)
        for name in ("train-00099.tokens", "heldout-00099.blocks", "manifest.json.tmp", "report.json"):
            (folder / name).write_bytes(torn)


@settings(max_examples=60, deadline=None)
@given(script=actions, torn=st.binary(min_size=1, max_size=40))
def test_whatever_was_written_after_the_snapshot_the_bytes_are_the_same(
    script: list[Action], torn: bytes
) -> None:
    with TemporaryDirectory() as folder:
        Interrupted(Path(folder) / "killed").run(script, torn)
        with StoreWriter(Path(folder) / "whole", LAYOUT) as writer:
            save_tokenizer(writer.tokenizer_path)
            for action in script:
                act(writer, action)
            writer.finish({"options": {}})
        assert contents_of(Path(folder) / "killed") == contents_of(Path(folder) / "whole")
        assert verify_store(Path(folder) / "killed", full=True) == []


def test_a_kill_between_the_manifest_and_the_name(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", LAYOUT) as writer:
        save_tokenizer(writer.tokenizer_path)
        writer.add("train", documents_of(random_texts(9)))
        state = writer.snapshot()
        writer.finish({"a": 1})
    whole = contents_of(tmp_path / "store")
    (tmp_path / "store").rename(partial_path(tmp_path / "store"))
    with StoreWriter.resume(tmp_path / "store", LAYOUT, state) as writer:
        assert "manifest.json" not in contents_of(writer.folder)
        writer.finish({"a": 1})
    assert contents_of(tmp_path / "store") == whole


def test_a_snapshot_is_on_the_disk_when_it_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Content that was handed to the disk, of every file it speaks of, and the folder that has their names."""
    durable: dict[str, int] = {}

    def record(descriptor: int) -> None:
        durable[os.readlink(f"/proc/self/fd/{descriptor}")] = os.fstat(descriptor).st_size

    monkeypatch.setattr(os, "fsync", record)
    with StoreWriter(tmp_path / "store", LAYOUT) as writer:
        save_tokenizer(writer.tokenizer_path)
        writer.add("train", documents_of([*random_texts(12), [[7] * 11]]))
        state = writer.snapshot()
        folder = str(writer.folder)
    sizes = {name: entry.bytes for name, entry in state.files.items()}
    for shard in state.open_shards.values():
        sizes |= {f"{shard.name}.{end}": size for end, size in shard.file_bytes(LAYOUT.token_dtype).items()}
    assert len(sizes) >= 17
    assert {name: durable.get(f"{folder}/{name}") for name in sizes} == sizes
    assert {folder, f"{folder}/tokenizer", str(tmp_path)} <= set(durable)


def test_other_peoples_files_stay(tmp_path: Path) -> None:
    with StoreWriter(tmp_path / "store", LAYOUT) as writer:
        state = writer.snapshot()
    (partial_path(tmp_path / "store") / "journal.json").write_text("mine")
    with StoreWriter.resume(tmp_path / "store", LAYOUT, state) as writer:
        assert (writer.folder / "journal.json").read_text() == "mine"


@pytest.fixture
def interrupted(tmp_path: Path) -> WriterState:
    """Two finished shards and one open one of each split's."""
    with StoreWriter(tmp_path / "store", LAYOUT) as writer:
        save_tokenizer(writer.tokenizer_path)
        writer.add("train", documents_of([*random_texts(12), [[7] * 11]]))
        writer.add("heldout", documents_of(random_texts(2)))
        state = writer.snapshot()
    assert len(state.shards["train"]) >= 2
    assert set(state.open_shards) == {"train", "heldout"}
    return state


def test_a_state_that_does_not_fit_is_refused_and_nothing_changes(
    interrupted: WriterState, tmp_path: Path
) -> None:
    folder = partial_path(tmp_path / "store")
    open_name = interrupted.open_shards["train"].name
    for name, problem in (
        (f"{open_name}.tokens", f"{open_name}.tokens has .* had written"),
        (f"{open_name}.words", f"{open_name}.words has"),
        ("train-00000.sentences", "train-00000.sentences has"),
        ("tokenizer/tokenizer.json", "not the tokenizer of the interrupted build"),
    ):
        content = (folder / name).read_bytes()
        os.truncate(folder / name, len(content) - 1)
        (folder / "train-00077.tokens").write_bytes(b"later")
        before = contents_of(folder)
        with pytest.raises(DataError, match=rf"{problem}.*without --resume"):
            StoreWriter.resume(tmp_path / "store", LAYOUT, interrupted)
        assert contents_of(folder) == before
        (folder / name).write_bytes(content)
    (folder / f"{open_name}.documents").unlink()
    with pytest.raises(DataError, match=r"documents cannot be read.*without --resume"):
        StoreWriter.resume(tmp_path / "store", LAYOUT, interrupted)


@pytest.mark.parametrize("suffix", ["tokens", "sentences", "documents", "words"])
@pytest.mark.parametrize("split", ["train", "heldout"])
def test_a_byte_that_changed_meanwhile_is_found_and_nothing_changes(
    interrupted: WriterState, tmp_path: Path, split: str, suffix: str
) -> None:
    folder = partial_path(tmp_path / "store")
    path = folder / f"{interrupted.open_shards[split].name}.{suffix}"
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:] + b"torn")
    (folder / "train-00077.tokens").write_bytes(b"later")
    before = contents_of(folder)
    with pytest.raises(DataError, match=rf"{path.name} has changed: its first {len(content)} bytes.*without"):
        StoreWriter.resume(tmp_path / "store", LAYOUT, interrupted)
    assert contents_of(folder) == before
    path.write_bytes(content + b"torn")
    with StoreWriter.resume(tmp_path / "store", LAYOUT, interrupted) as writer:
        writer.finish({})
    assert verify_store(tmp_path / "store", full=True) == []


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("block_tokens", replace(LAYOUT, block_tokens=101)),
        ("shard_tokens", replace(LAYOUT, shard_tokens=101)),
        ("vocab_size", replace(LAYOUT, vocab_size=101)),
    ],
)
def test_another_layout_is_refused(
    interrupted: WriterState, tmp_path: Path, name: str, layout: StoreLayout
) -> None:
    with pytest.raises(DataError, match=rf"has {name} = .*, this one 101"):
        StoreWriter.resume(tmp_path / "store", layout, interrupted)


def test_a_folder_that_is_gone_is_named(interrupted: WriterState, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is gone"):
        StoreWriter.resume(tmp_path / "other", LAYOUT, interrupted)


def test_a_state_survives_json_and_a_damaged_one_is_named(interrupted: WriterState) -> None:
    content = interrupted.to_json()
    assert WriterState.from_json(content) == interrupted
    assert WriterState.model_validate(json.loads(content)) == interrupted
    raw = json.loads(content)
    for damaged in (
        content[:-1],
        json.dumps(raw | {"more": 1}),
        json.dumps({key: value for key, value in raw.items() if key != "files"}),
        content.replace('"pending_bits":"', '"pending_bits":"1'),
        content.replace('"sha256":{"tokens"', '"sha256":{"token"'),
        content.replace("train-0", "../train-0"),
        content.replace('"block_starts":[[0,', '"block_starts":[[1,'),
    ):
        assert damaged != content
        with pytest.raises(DataError, match=r"state of the interrupted build is damaged.*without --resume"):
            WriterState.from_json(damaged)
