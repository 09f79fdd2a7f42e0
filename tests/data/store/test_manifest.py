"""The manifest: versions, its own checksum, and what a hostile one could try."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pretrain.data.store import MANIFEST_NAME, Manifest, TokenStore, verify_store
from pretrain.errors import DataError
from tests.data.store.documents import random_texts, write


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    write(tmp_path / "store", [random_texts(60)], heldout=random_texts(4, seed=1))
    return tmp_path / "store"


def rewrite(store: Path, change: Callable[[dict[str, Any]], object], indent: int = 1) -> None:
    """Change the manifest and seal it again by the rule of FORMAT.md."""
    path = store / MANIFEST_NAME
    manifest = json.loads(path.read_text())
    change(manifest)
    manifest.pop("manifest_sha256", None)
    body = json.dumps(manifest, indent=indent, sort_keys=True).encode()[: -len("\n}")]
    digest = hashlib.sha256(body + b',\n "manifest_sha256": ""\n}\n').hexdigest().encode()
    path.write_bytes(body + b',\n "manifest_sha256": "' + digest + b'"\n}\n')


def refused(store: Path, pattern: str) -> None:
    """By the open and by both kinds of verify, in the same words."""
    with pytest.raises(DataError, match=pattern):
        TokenStore.open(store)
    for full in (True, False):
        problems = verify_store(store, full=full)
        with pytest.raises(DataError, match=pattern):
            raise DataError(" ".join(problems))


def test_the_seal_of_these_tests_is_the_writers(store_path: Path) -> None:
    before = (store_path / MANIFEST_NAME).read_bytes()
    rewrite(store_path, lambda manifest: None)
    assert (store_path / MANIFEST_NAME).read_bytes() == before
    assert json.loads(before)["version"] == 2
    assert list(json.loads(before))[-1] == "manifest_sha256"


def test_every_flipped_bit_of_the_manifest_is_found_at_the_open(store_path: Path) -> None:
    path = store_path / MANIFEST_NAME
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DataError, match=r"manifest\.json"):
            Manifest.from_bytes(bytes(changed), path)
    for changed_size in (content[:-1], content + b"\n", content.replace(b'": ', b'":  ', 1)):
        with pytest.raises(DataError, match=r"manifest\.json"):
            Manifest.from_bytes(changed_size, path)
    assert Manifest.from_bytes(content, path).version == 2


def test_a_change_without_a_new_seal_says_so(store_path: Path) -> None:
    path = store_path / MANIFEST_NAME
    path.write_text(path.read_text().replace('"block_tokens": 50', '"block_tokens": 51'))
    refused(store_path, r"manifest\.json has changed since it was written: its own checksum")


@pytest.mark.parametrize("version", [0, 3, 7, -1, "2", None, 2.0, True, 10**30])
def test_another_version_is_refused_by_its_name(store_path: Path, version: object) -> None:
    rewrite(store_path, lambda manifest: manifest.update(version=version))
    shown = str(version) if type(version) is int and abs(version) < 10**9 else "<"
    refused(store_path, rf"version {shown}.*this program reads versions 1 to 2; build the store again")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "\x00",
        '{"format": "pretrain-token-store", "version": 1}',
        "[" * 100_000,
        '{"a":' * 50_000,
    ],
)
def test_a_broken_manifest_is_named(store_path: Path, content: str) -> None:
    (store_path / MANIFEST_NAME).write_text(content)
    refused(store_path, r"manifest\.json")


def test_a_giant_manifest_is_not_read(store_path: Path) -> None:
    os.truncate(store_path / MANIFEST_NAME, 1 << 40)  # sparse
    refused(store_path, r"manifest\.json has 1099511627776 bytes, more than")


@pytest.mark.parametrize(
    "name",
    [
        *("../outside", "/etc/passwd", "a/../../b", "..", "a\\..\\b", "C:/b"),
        *("", ".", "./a", "a//b", "a/", "a\x00b", "x" * 2000),
    ],
)
def test_names_that_leave_the_store_are_refused(store_path: Path, name: str) -> None:
    (store_path.parent / "outside").write_bytes(b"")
    rewrite(store_path, lambda manifest: manifest["files"].update({name: {"bytes": 0, "sha256": "0" * 64}}))
    refused(store_path, "file name .* (leaves the store|is not a plain path)")


def rename_shard(manifest: dict[str, Any], prefix: str) -> None:
    shard = manifest["splits"]["train"]["shards"][0]
    old, shard["name"] = shard["name"], prefix + shard["name"]
    for suffix in ("tokens", "sentences", "documents", "words", "blocks"):
        manifest["files"][f"{shard['name']}.{suffix}"] = manifest["files"].pop(f"{old}.{suffix}")


def test_a_shard_outside_is_refused_even_where_its_files_are_there(store_path: Path) -> None:
    for path in store_path.glob("train-00000.*"):
        path.rename(store_path.parent / path.name)
    rewrite(store_path, lambda manifest: rename_shard(manifest, "../"))
    refused(store_path, r"'\.\./train-00000\.\w+' leaves the store")


@pytest.mark.parametrize(
    "name", ["train-00001.tokens", "tokenizer/tokenizer.json", "report.json", "manifest.json"]
)
@pytest.mark.parametrize("inside", [False, True])
def test_a_link_is_refused(store_path: Path, name: str, inside: bool) -> None:
    target = (store_path if inside else store_path.parent) / "moved"
    (store_path / name).rename(target)
    (store_path / name).symlink_to(target)
    refused(store_path, rf"{name.replace('.', '[.]')} is a symbolic link")


def test_a_folder_that_is_a_link_is_refused(store_path: Path) -> None:
    (store_path / "tokenizer").rename(store_path.parent / "elsewhere")
    (store_path / "tokenizer").symlink_to(store_path.parent / "elsewhere")
    refused(store_path, r"/tokenizer is a symbolic link")


@pytest.mark.parametrize("name", ["train-00001.tokens", "manifest.json"])
def test_what_is_no_regular_file_is_refused(store_path: Path, name: str) -> None:
    (store_path / name).unlink()
    os.mkfifo(store_path / name)  # reading it would wait for ever
    refused(store_path, rf"{name.replace('.', '[.]')} is not a regular file")
    (store_path / name).unlink()
    (store_path / name).mkdir()
    refused(store_path, rf"{name.replace('.', '[.]')} is not a regular file")


def test_a_file_in_the_place_of_a_folder_is_refused(store_path: Path) -> None:
    shutil.rmtree(store_path / "tokenizer")
    (store_path / "tokenizer").write_text("")
    refused(store_path, r"/tokenizer is not a folder")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda m: m["splits"]["train"]["shards"][0].update(tokens=10**30), "shards.0.tokens"),
        (lambda m: m["splits"]["train"]["shards"][0].update(documents=0), "shards.0.documents"),
        (lambda m: m["splits"]["train"].update(tokens=1), "its shards hold .* the split says 1"),
        (lambda m: m["splits"].pop("heldout"), r"splits are \['train'\]"),
        (lambda m: m["files"].pop("train-00000.words"), r"train-00000\.words is not listed"),
        (lambda m: m["files"].pop("report.json"), r"report\.json is not listed"),
        (lambda m: m["files"].pop("tokenizer/tokenizer.json"), r"tokenizer\.json is not listed"),
        (lambda m: m["special_ids"].update(mask=100), "special id 100 is beyond the vocabulary of 100"),
        (lambda m: m.update(all_special_ids=[-1]), "special id -1"),
        (
            lambda m: m.update(vocab_size="100"),
            "\"vocab_size\" is '100', where it should be a valid integer;",
        ),
        (
            lambda m: m.update(token_dtype="float16"),
            "\"token_dtype\" is 'float16', where it should be 'uint16' or 'uint32';",
        ),
        (lambda m: m.update(more=1), 'the key "more" is not known there;'),
        (lambda m: m.pop("vocab_size"), 'manifest.json: the key "vocab_size" is missing;'),
        (lambda m: m.update(block_tokens=0), '"block_tokens" is 0, where it should be greater than 0;'),
        (lambda m: m.update(vocab_size="1" * 999), "is '1{79}\\.\\.\\., where"),
        (lambda m: m["files"]["report.json"].update(sha256="A" * 64), "sha256"),
    ],
)
def test_what_does_not_fit_is_named(
    store_path: Path, change: Callable[[dict[str, Any]], object], problem: str
) -> None:
    rewrite(store_path, change)
    refused(store_path, problem)


def test_counts_that_disagree_with_sizes_are_refused(store_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["splits"]["train"]["shards"][0]["tokens"] += 8
        manifest["splits"]["train"]["tokens"] += 8

    rewrite(store_path, change)
    refused(store_path, r"train-00000\.tokens")


def test_a_shard_cannot_be_there_twice(store_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        train = manifest["splits"]["train"]
        train["shards"].append(train["shards"][0])
        for count in ("tokens", "sentences", "documents", "blocks"):
            train[count] += train["shards"][0][count]

    rewrite(store_path, change)
    refused(store_path, "shard train-00000 is listed twice")
