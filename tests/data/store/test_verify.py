"""Verification against damage: every flipped bit is found, and the file that has it is named."""

import errno
import hashlib
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pretrain.data.store import Manifest, merge_parts, verified_bytes, verify_store
from tests.data.store.documents import random_texts, write
from tests.data.store.test_manifest import rewrite

NUM_FLIPS = 500


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    write(tmp_path / "store", [random_texts(60)], heldout=[[[6] * 13]])
    return tmp_path / "store"


@pytest.fixture
def merged_path(tmp_path: Path) -> Path:
    parts = [tmp_path / "whole" / f"part-{number:05d}-of-00002" for number in (1, 2)]
    for number, part in enumerate(parts):
        write(part, [random_texts(25, seed=number)], heldout=random_texts(3, seed=10 + number))
    merge_parts(tmp_path / "whole", parts, {"parts": 2})
    return tmp_path / "whole"


def missed_flips(store: Path, count: int, seed: int) -> list[str]:
    """Flips random bits one after another, each anywhere in any file; where `verify` did not name the file."""
    draw = random.Random(seed)
    paths = sorted(path for path in store.rglob("*") if path.is_file())
    sizes = [path.stat().st_size for path in paths]
    kinds = {path.suffix for path in paths}
    assert {".json", ".tokens", ".words", ".blocks", ".sentences", ".documents"} <= kinds
    missed = []
    for number in range(count):
        # Half of them in a file chosen evenly, so that the small files have their share.
        path = draw.choice(paths) if number % 2 else draw.choices(paths, sizes)[0]
        bit = draw.randrange(8 * path.stat().st_size)
        content = path.read_bytes()
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        problems = verify_store(store, full=True, workers=2)
        if not any(str(path) in problem for problem in problems):
            missed.append(f"{path} bit {bit}: {problems}")
        path.write_bytes(content)
    assert verify_store(store, full=True) == []
    return missed


def test_flipped_bits_are_found_and_named(store_path: Path, merged_path: Path) -> None:
    assert missed_flips(store_path, NUM_FLIPS, seed=0) == []
    assert missed_flips(merged_path, NUM_FLIPS, seed=1) == []


@pytest.mark.parametrize("name", ["report.json", "tokenizer/tokenizer.json", "manifest.json"])
def test_a_quick_look_finds_changes_of_the_small_files(
    store_path: Path, merged_path: Path, name: str
) -> None:
    part = merged_path / "part-00002-of-00002"
    for store, path in (
        (store_path, store_path / name),
        (merged_path, merged_path / name),
        (merged_path, part / name),
    ):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert any(str(path) in problem for problem in verify_store(store, full=False)), path
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        assert verify_store(store, full=False) == []


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("workers", [1, 3])
def test_progress_adds_up(store_path: Path, merged_path: Path, full: bool, workers: int) -> None:
    for store in (store_path, merged_path):
        told: list[int] = []
        assert verify_store(store, full=full, workers=workers, on_progress=told.append) == []
        assert sum(told) == verified_bytes(Manifest.from_file(store / "manifest.json"), full=full)
    # Quick reads no tokens, full reads every byte but the manifest's own.
    whole = sum(path.stat().st_size for path in merged_path.rglob("*") if path.is_file())
    manifest_bytes = (merged_path / "manifest.json").stat().st_size
    assert (sum(told) == whole - manifest_bytes) is full


def seal_again(store: Path, name: str) -> None:
    digest = hashlib.sha256((store / name).read_bytes()).hexdigest()
    rewrite(store, lambda manifest: manifest["files"][name].update(sha256=digest))


def set_item(dtype: str, index: int, value: Callable[[int], int]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        items = np.fromfile(path, dtype)
        items[index] = value(int(items[index]))
        items.tofile(path)

    return change


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("train-00000.sentences", set_item("<u4", 0, lambda length: length + 1), "does not add up"),
        ("train-00000.sentences", set_item("<u4", 0, lambda length: 0), "has a zero"),
        ("train-00000.documents", set_item("<u4", 1, lambda length: length + 1), "does not add up"),
        ("train-00000.blocks", set_item("<u8", 3, lambda start: start + 1), "sentence boundaries"),
        ("train-00000.blocks", set_item("<u8", 4, lambda start: start + 1), "document boundaries"),
        ("train-00000.blocks", set_item("<u8", 3, lambda start: 1 << 62), "does not rise"),
        ("train-00000.blocks", set_item("<u8", 0, lambda start: 1), "does not rise"),
        ("train-00000.tokens", set_item("<u2", -1, lambda token: 4), "id that is special"),
        ("train-00000.tokens", set_item("<u2", 0, lambda token: 65_535), "beyond the vocabulary"),
        ("heldout-00000.words", set_item("u1", -1, lambda bits: bits | 128), "bits set after its last token"),
    ],
)
def test_sums_are_checked_even_where_checksums_agree(
    store_path: Path, name: str, change: Callable[[Path], None], problem: str
) -> None:
    """A writer with a bug would seal its own nonsense."""
    change(store_path / name)
    seal_again(store_path, name)
    problems = verify_store(store_path, full=True)
    assert any(name in found and problem in found for found in problems), problems
    assert not any("sha256" in found for found in problems)


def test_missing_and_truncated_files_are_all_named(merged_path: Path) -> None:
    part = merged_path / "part-00001-of-00002"
    (part / "train-00000.words").unlink()
    os.truncate(part / "heldout-00000.tokens", 1)
    problems = verify_store(merged_path, full=False)
    assert len(problems) == 2
    assert any("train-00000.words cannot be read" in problem for problem in problems)
    assert any("heldout-00000.tokens has 1 bytes" in problem for problem in problems)


def test_a_file_that_cannot_be_read_is_named_once(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("pretrain.data.store.verify.chunks_of", fail)
    monkeypatch.setattr(np, "fromfile", fail)
    problems = verify_store(store_path, full=True)
    assert any("train-00000.blocks cannot be read: Input/output error." in problem for problem in problems)
    assert len(problems) == len(set(problems))
