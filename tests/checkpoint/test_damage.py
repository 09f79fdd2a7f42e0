"""Damage of every kind is found before a value is loaded, and the bad file is named; by every rank alike.

Bits anywhere, and what a run then does, are rows of the matrix of faults.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from pretrain.checkpoint import CheckpointManifest, find_checkpoint, read_verified
from pretrain.checkpoint.manifest import sha256_of
from pretrain.errors import DataError
from tests.checkpoint.test_versions import OLD
from tests.worlds import run_ranks

ONE, TWO, MANIFEST = "rank-00000.safetensors", "rank-00001.safetensors", "manifest.json"
pytestmark = pytest.mark.usefixtures("one_rank")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """Two ranks' files of the frozen checkpoint under a manifest as it is written now."""
    folder = shutil.copytree(OLD, tmp_path / "checkpoints" / OLD.name)
    seal(folder, folder)
    (folder.parent / "latest").write_text(f"{folder.name}\n")
    return folder


def seal(source: Path, folder: Path, step: int = 3) -> None:
    manifest = CheckpointManifest.read(source)
    state = manifest.state.model_copy(update={"step": step})
    (folder / MANIFEST).write_bytes(manifest.model_copy(update={"version": 2, "state": state}).as_bytes())


def refusal(checkpoint: Path) -> str:
    """The message with which it is refused; empty where it is not."""
    try:
        read_verified(checkpoint, True, 0, 1)
    except DataError as error:
        return str(error)
    return ""


def test_every_part_of_a_manifest(checkpoint: Path, in_full: bool) -> None:
    """Braces, keys, numbers and the checksum itself: all bits at both ends, and in full one of every byte."""
    path = checkpoint / MANIFEST
    content = path.read_bytes()
    size = 8 * len(content)
    between = (8 * byte + byte % 8 for byte in range(len(content))) if in_full else ()
    missed = []
    for bit in (*range(600), *range(size - 800, size), *between):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        try:
            CheckpointManifest.read(checkpoint)
            missed.append(bit)
        except DataError as error:
            assert str(path) in str(error)
    assert missed == []


def test_a_flip_in_latest_is_refused_or_changes_nothing(checkpoint: Path) -> None:
    latest = checkpoint.parent / "latest"
    content = latest.read_bytes()
    for bit in range(8 * len(content)):
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        latest.write_bytes(changed)
        try:
            assert find_checkpoint(checkpoint.parent) == checkpoint  # white space at its end
        except DataError as error:
            assert str(latest) in str(error)


def swap(one: Path, two: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def of_other_step(checkpoint: Path) -> Path:
    """A whole checkpoint of step 4 beside it, with other values in files of the same sizes."""
    other = shutil.copytree(checkpoint, checkpoint.with_name("step-00000004"))
    manifest = CheckpointManifest.read(checkpoint)
    files = []
    for file in manifest.files:
        content = bytearray((other / file.name).read_bytes())
        content[-1] ^= 1
        (other / file.name).write_bytes(content)
        files.append(file.model_copy(update={"sha256": sha256_of(other / file.name)}))
    state = manifest.state.model_copy(update={"step": 4})
    changed = manifest.model_copy(update={"files": files, "state": state})
    (other / MANIFEST).write_bytes(changed.as_bytes())
    assert refusal(other) == ""
    return other


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "missing": (lambda folder: (folder / TWO).unlink(), TWO, "cannot be read: No such file"),
    "truncated": (lambda folder: truncate(folder / TWO, 1000), TWO, "has 1000 bytes, the manifest says"),
    "empty": (lambda folder: truncate(folder / ONE, 0), ONE, "has 0 bytes"),
    "longer": (lambda folder: append(folder / ONE), ONE, "bytes, the manifest says"),
    "a folder": (lambda folder: replace_by_folder(folder / ONE), ONE, "is not a regular file"),
    "ranks swapped": (lambda folder: swap(folder / ONE, folder / TWO), ONE, "bytes, the manifest says"),
    "steps swapped": (lambda folder: swap(folder / ONE, of_other_step(folder) / ONE), ONE, "differs from"),
    "manifests swapped": (
        lambda folder: swap(folder / MANIFEST, of_other_step(folder) / MANIFEST),
        MANIFEST,
        "is of step 4, which its folder's name is not",
    ),
    "no manifest": (lambda folder: (folder / MANIFEST).unlink(), MANIFEST, "is no checkpoint"),
    "manifest empty": (lambda folder: truncate(folder / MANIFEST, 0), MANIFEST, "is not valid JSON"),
    "manifest truncated": (lambda folder: truncate(folder / MANIFEST, 900), MANIFEST, "is not valid JSON"),
    "manifest longer": (lambda folder: append(folder / MANIFEST), MANIFEST, "own checksum does not agree"),
}


def truncate(path: Path, num_bytes: int) -> None:
    path.write_bytes(path.read_bytes()[:num_bytes])


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("name", DAMAGES)
def test_missing_truncated_and_swapped_files_are_named(checkpoint: Path, name: str) -> None:
    damage, file, part = DAMAGES[name]
    damage(checkpoint)
    message = refusal(checkpoint)
    assert f"{checkpoint / file}" in message
    assert part in message


@pytest.mark.parametrize("name", ["missing", "truncated", "longer", "ranks swapped", "manifests swapped"])
def test_what_is_no_question_of_checksums_is_found_without_them(checkpoint: Path, name: str) -> None:
    damage, file, _ = DAMAGES[name]
    damage(checkpoint)
    with pytest.raises(DataError, match=file):
        read_verified(checkpoint, False, 0, 1)


def test_the_seal_of_another_version_does_not_help(checkpoint: Path) -> None:
    """What a version 2 manifest says cannot pass for version 1, which has no checksum."""
    path = checkpoint / MANIFEST
    path.write_text(path.read_text().replace('"version": 2', '"version": 1'))
    with pytest.raises(DataError, match='"manifest_sha256" is not known there'):
        CheckpointManifest.read(checkpoint)


def rank_looks(folders: list[Path]) -> str:
    rank = dist.get_rank()
    try:
        read_verified(folders[rank], True, rank, dist.get_world_size())
    except DataError as error:
        return str(error)
    return ""


def test_ranks_share_the_work_and_say_the_same(checkpoint: Path) -> None:
    other = of_other_step(checkpoint)
    assert run_ranks(rank_looks, 2, [checkpoint, checkpoint]) == ["", ""]
    # A network file system that shows one machine what is not there for the other yet.
    (one, two) = run_ranks(rank_looks, 2, [checkpoint, other])
    assert one.startswith(f"{checkpoint / MANIFEST} is not the same on every rank")
    assert two.startswith(f"{other / MANIFEST} is not the same on every rank")
    one, two = run_ranks(rank_looks, 2, [checkpoint, checkpoint / "none"])
    assert one == two and f"{checkpoint}/none/manifest.json cannot be read" in one
    append(checkpoint / TWO)
    one, two = run_ranks(rank_looks, 2, [checkpoint, checkpoint])
    assert one == two and f"{checkpoint / TWO} has" in one
