"""A store merged from parts is the store of one writer that ended its blocks where the parts meet."""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.store import (
    SPLITS,
    SpecialIds,
    StoreLayout,
    StoreWriter,
    TokenStore,
    merge_parts,
    verify_store,
)
from pretrain.data.stream import RowStream
from pretrain.errors import DataError, UsageError
from tests.data.store.documents import (
    SPECIAL,
    contents_of,
    documents_of,
    layout_of,
    random_texts,
    save_tokenizer,
    texts_in,
)

LAYOUT = layout_of(block_tokens=60, shard_tokens=200)
COUNT = 3


def write_part(path: Path, seed: int, layout: StoreLayout = LAYOUT, tokenizer: str = "{}") -> Path:
    with StoreWriter(path, layout) as writer:
        save_tokenizer(writer.tokenizer_path, tokenizer)
        writer.add("train", documents_of(random_texts(30 + seed, seed)))
        writer.add(
            "heldout", documents_of(random_texts(seed, 100 + seed))
        )  # the first part holds out nothing
        writer.finish({"part": seed})
    return path


def part_paths(whole: Path) -> list[Path]:
    return [whole / f"part-{number + 1:05d}-of-{COUNT:05d}" for number in range(COUNT)]


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    return [write_part(path, seed) for seed, path in enumerate(part_paths(tmp_path / "whole"))]


@pytest.fixture
def one(tmp_path: Path) -> TokenStore:
    """The same text through one writer."""
    with StoreWriter(tmp_path / "one", LAYOUT) as writer:
        save_tokenizer(writer.tokenizer_path)
        for seed in range(COUNT):
            writer.add("train", documents_of(random_texts(30 + seed, seed)))
            writer.add("heldout", documents_of(random_texts(seed, 100 + seed)))
            writer.end_blocks()
        writer.finish({})
    return TokenStore.open(tmp_path / "one")


def test_blocks_are_those_of_one_writer(parts: list[Path], one: TokenStore) -> None:
    merge_parts(parts[0].parent, parts, {"merged": True})
    merged = TokenStore.open(parts[0].parent)
    for split in SPLITS:
        ours, theirs = merged.split(split), one.split(split)
        counts = ("num_blocks", "num_documents", "num_sentences", "num_tokens")
        assert [getattr(ours, name) for name in counts] == [getattr(theirs, name) for name in counts]
        assert ours.num_blocks > 2 or split == "heldout"
        for index in range(ours.num_blocks):
            a, b = ours.block(index), theirs.block(index)
            for name in ("tokens", "sentence_lengths", "document_lengths"):
                assert np.array_equal(getattr(a, name), getattr(b, name)), (index, name)
            assert np.array_equal(a.word_starts(), b.word_starts())
    assert texts_in(merged, "train") == [
        text for seed in range(COUNT) for text in random_texts(30 + seed, seed)
    ]
    # Shards are cut elsewhere: the equality is not one of files.
    assert [s.tokens for s in merged.manifest.splits["train"].shards] != [
        s.tokens for s in one.manifest.splits["train"].shards
    ]
    assert verify_store(parts[0].parent, full=True, workers=2) == []


@pytest.mark.parametrize("objective", ["mlm", "nsp"])
def test_rows_are_those_of_one_writer(parts: list[Path], one: TokenStore, objective: str) -> None:
    merge_parts(parts[0].parent, parts, {})
    merged = TokenStore.open(parts[0].parent)
    options = SamplingOptions(seq_len=32, objective=objective, packing=True, window_blocks=4)  # type: ignore[arg-type]
    streams = [
        RowStream(
            store.split("train"), store.special_ids, store.all_special_ids, store.vocab_size, options, seed=5
        )
        for store in (merged, one)
    ]
    cursor = Cursor(0, 0, 0)
    while cursor.epoch < 2:
        a, b = (stream.step(cursor, 16) for stream in streams)
        assert a.sample_names() == b.sample_names()
        one_batch, other_batch = a.batch(0, 16), b.batch(0, 16)
        for field in fields(one_batch):
            left, right = getattr(one_batch, field.name), getattr(other_batch, field.name)
            assert torch.equal(left, right) if isinstance(left, torch.Tensor) else left == right, field.name
        cursor = a.next_cursor


def test_every_file_is_listed_under_its_parts_name(parts: list[Path]) -> None:
    whole = parts[0].parent
    manifest = merge_parts(whole, parts, {"merged": True})
    found = {name: content for name, content in contents_of(whole).items() if name != "manifest.json"}
    assert {name: (entry.bytes, entry.sha256) for name, entry in manifest.files.items()} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in found.items()
    }
    assert json.loads(found["report.json"]) == {"merged": True}
    assert found["tokenizer/tokenizer.json"] == b"{}"
    names = [shard.name for shard in manifest.splits["train"].shards]
    assert names[0] == "part-00001-of-00003/train-00000"
    assert names == sorted(names)


def test_parts_stay_stores_of_their_own(parts: list[Path]) -> None:
    before = [contents_of(part) for part in parts]
    merge_parts(parts[0].parent, parts, {})
    assert [contents_of(part) for part in parts] == before
    assert texts_in(TokenStore.open(parts[1]), "train") == random_texts(31, 1)


SHIFTED = SpecialIds(**(SPECIAL.model_dump() | {"mask": 9}))


@pytest.mark.parametrize(
    ("layout", "tokenizer", "problem"),
    [
        (replace(LAYOUT, vocab_size=70_000), "{}", "token_dtype is uint16 in A and uint32 in B"),
        (replace(LAYOUT, vocab_size=101), "{}", "vocab_size is 100 in A and 101 in B"),
        (replace(LAYOUT, special_ids=SHIFTED), "{}", r"special_ids\.mask is 4 in A and 9 in B"),
        (
            replace(LAYOUT, all_special_ids=(0, 1)),
            "{}",
            r"all_special_ids is \[0, 1, 2, 3, 4\] in A and \[0, 1\] in B",
        ),
        (LAYOUT, '{"other": 1}', "tokenizer_sha256 is [0-9a-f]{64} in A and [0-9a-f]{64} in B"),
        (replace(LAYOUT, block_tokens=61), "{}", "block_tokens is 60 in A and 61 in B"),
    ],
)
def test_parts_that_differ_are_named(
    parts: list[Path], layout: StoreLayout, tokenizer: str, problem: str
) -> None:
    whole = parts[0].parent
    shutil.rmtree(parts[2])
    write_part(parts[2], 2, layout, tokenizer)
    before = contents_of(whole)
    pattern = problem.replace(" A ", f" {parts[0].name} ").replace(" B", f" {parts[2].name}")
    with pytest.raises(UsageError, match=pattern):
        merge_parts(whole, parts, {})
    assert contents_of(whole) == before


def test_a_damaged_or_missing_part_is_named(parts: list[Path]) -> None:
    whole = parts[0].parent
    os.truncate(parts[1] / "train-00000.tokens", 3)
    with pytest.raises(DataError, match=r"part-00002-of-00003/train-00000\.tokens has 3 bytes"):
        merge_parts(whole, parts, {})
    shutil.rmtree(parts[1])
    with pytest.raises(UsageError, match=r"no token store at .*part-00002-of-00003"):
        merge_parts(whole, parts, {})
    write_part(parts[1], 1)
    (parts[0] / "tokenizer" / "tokenizer.json").write_text("[]")
    with pytest.raises(DataError, match=r"part-00001-of-00003/tokenizer/tokenizer\.json has changed"):
        merge_parts(whole, parts, {})
    assert not (whole / "manifest.json").exists()


def test_parts_lie_in_the_folder_once_and_are_no_links(parts: list[Path], tmp_path: Path) -> None:
    whole = parts[0].parent
    outside = write_part(tmp_path / "part-00009-of-00009", 1)
    (whole / "link").symlink_to(outside)
    for wrong, problem in (
        ([], "no parts"),
        ([*parts, outside], "not a folder in"),
        ([*parts, parts[0]], "name is taken"),
        ([*parts, whole / "link"], "symbolic link"),
        ([*parts, whole / ".."], "not a folder in"),
    ):
        with pytest.raises(UsageError, match=problem):
            merge_parts(whole, wrong, {})
    assert not (whole / "manifest.json").exists()
    merge_parts(whole, parts, {})
    with pytest.raises(UsageError, match="is a token store already"):
        merge_parts(whole, parts, {})


class Killed(BaseException):
    pass


@dataclass
class Axe:
    """Lets `steps_left` changes of the disk happen, then kills."""

    steps_left: int

    def before(self, step: Callable[..., Any]) -> Callable[..., Any]:
        def killed_or_done(*args: Any, **options: Any) -> Any:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise Killed
            return step(*args, **options)

        return killed_or_done


def test_a_merge_that_is_killed_anywhere_is_run_again(
    parts: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before each new folder, fsync and rename in turn; until the manifest has its name there is no
    store."""
    whole, copy = parts[0].parent, tmp_path / "copy" / "whole"
    shutil.copytree(whole, copy)
    merge_parts(copy, part_paths(copy), {"x": 1})
    num_steps = 0
    while not (whole / "manifest.json").exists():
        axe = Axe(num_steps)
        with monkeypatch.context() as patch, contextlib.suppress(Killed):
            for name in ("mkdir", "fsync", "rename"):
                patch.setattr(os, name, axe.before(getattr(os, name)))
            merge_parts(whole, parts, {"x": 1})
        num_steps += 1
    assert num_steps > 8
    assert contents_of(whole) == contents_of(copy)
