"""Any cut loads into any other; what is damaged, incomplete or unsafe is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pretrain.checkpoint import load_checkpoint, save_checkpoint
from pretrain.checkpoint.manifest import sha256_of
from pretrain.errors import DataError, UsageError
from pretrain.faults.small import CUT, WHOLE, contents, make_optimizer, state_at
from pretrain.optim import SgdOptions, ShardedOptimizer, SpikeRule
from tests.checkpoint.saved import KEEP, edit_manifest, manifest_of, save

pytestmark = pytest.mark.usefixtures("one_rank")
FILE = "rank-00000.safetensors"


@pytest.fixture
def checkpoint(tmp_path: Path, one_rank: None) -> Path:
    return save(tmp_path, 5)


def load(checkpoint: Path, *shards: Any) -> ShardedOptimizer:
    optimizer = make_optimizer(*(shards or WHOLE), seed=9)
    load_checkpoint(checkpoint, optimizer, 0, 1)
    return optimizer


@pytest.mark.parametrize("shards", [WHOLE, CUT], ids=["whole", "cut"])
@pytest.mark.parametrize("saved", [WHOLE, CUT], ids=["whole", "cut"])
def test_any_cut_into_any_other(tmp_path: Path, saved: Any, shards: Any) -> None:
    ours, theirs = make_optimizer(*shards, seed=9), make_optimizer(*saved)
    padding = ours.layout.shards[0].tensor[-1].clone()
    load_checkpoint(save(tmp_path, 5, theirs), ours, 0, 1)
    for name, values in contents(theirs).items():
        assert torch.equal(contents(ours)[name], values), name
    assert ours.applied_steps == 100
    assert ours.recent_norms == []
    assert torch.equal(ours.layout.shards[0].tensor[-1], padding)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_the_kinds_are_those_of_the_rule(tmp_path: Path, momentum: float) -> None:
    ours, theirs = (
        make_optimizer(*cut, seed=seed, rule=SgdOptions(momentum)) for cut, seed in ((WHOLE, 9), (CUT, 0))
    )
    saved = save(tmp_path, 5, theirs)
    kinds = ["master", "momentum_buffer"] if momentum else ["master"]
    assert manifest_of(saved)["kinds"] == kinds
    assert {key.partition(":")[0] for key in load_file(saved / FILE)} == set(kinds)
    load_checkpoint(saved, ours, 0, 1)
    for name, values in contents(theirs).items():
        assert torch.equal(contents(ours)[name], values), name


def test_moments_of_another_rule(checkpoint: Path) -> None:
    other = make_optimizer(*WHOLE, rule=SgdOptions(0.9))
    with pytest.raises(DataError, match=r"holds no momentum_buffer, .* \(optimizer.name\)"):
        load_checkpoint(checkpoint, other, 0, 1)


def test_recent_norms_come_back_in_every_digit_where_there_is_a_rule(tmp_path: Path) -> None:
    norms = [0.1 + 0.2, 1 / 3, 4.0]
    state = state_at(5).model_copy(update={"recent_norms": norms, "spikes_in_row": 2})
    path = save_checkpoint(tmp_path, make_optimizer(*CUT), state, KEEP, 0)
    ours, other = make_optimizer(*CUT), make_optimizer(*CUT)
    ours.spikes = SpikeRule(3.0, 3)
    for each in (ours, other):
        load_checkpoint(path, each, 0, 1)
    assert (ours.recent_norms, ours.spikes_in_row) == (norms, 2)
    # Without a rule they would be those of long ago once there is one again.
    assert (other.recent_norms, other.spikes_in_row) == ([], 0)


def test_flipped_bit(checkpoint: Path) -> None:
    path = checkpoint / FILE
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"{FILE} differs from its checksum"):
        load(checkpoint)


def test_truncated_file(checkpoint: Path) -> None:
    path = checkpoint / FILE
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=rf"{FILE} has \d+ bytes, the manifest says \d+"):
        load(checkpoint)


def test_missing_file(checkpoint: Path) -> None:
    (checkpoint / FILE).unlink()
    with pytest.raises(DataError, match=f"{FILE} cannot be read: No such file"):
        load(checkpoint)


def test_nothing_is_loaded_from_a_damaged_checkpoint(checkpoint: Path) -> None:
    path = checkpoint / FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    optimizer = make_optimizer(*WHOLE, seed=9)
    with pytest.raises(DataError):
        load_checkpoint(checkpoint, optimizer, 0, 1)
    for name, values in contents(make_optimizer(*WHOLE, seed=9)).items():
        assert torch.equal(contents(optimizer)[name], values)


@pytest.mark.parametrize("change", ["gone", "shorter", "twice"])
def test_slices_that_do_not_make_a_whole(checkpoint: Path, change: str) -> None:
    (file,) = manifest_of(checkpoint)["files"]
    piece = next(each for each in file["slices"] if each["parameter"] == "embeddings" and each["start"] == 7)
    if change == "shorter":
        piece["numel"] -= 1
    elif change == "gone":
        file["slices"].remove(piece)
    else:
        file["slices"].append(piece)
    edit_manifest(checkpoint, files=[file])
    with pytest.raises(DataError, match="parameter embeddings is not whole"):
        load(checkpoint)


def rewrite(checkpoint: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Other tensors under a checksum that fits."""
    (file,) = manifest_of(checkpoint)["files"]
    path = checkpoint / FILE
    save_file(tensors, path)
    edit_manifest(checkpoint, files=[file | {"sha256": sha256_of(path), "bytes": path.stat().st_size}])


def test_tensor_that_the_file_does_not_hold(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / FILE)
    del tensors["exp_avg:bias:1"]
    rewrite(checkpoint, tensors)
    with pytest.raises(DataError, match=f"{FILE}: exp_avg:bias:1: the file holds no tensor of that name"):
        load(checkpoint)


def test_tensor_shorter_than_its_slice(checkpoint: Path) -> None:
    tensors = load_file(checkpoint / FILE)
    tensors["exp_avg:bias:1"] = tensors["exp_avg:bias:1"][:2].clone()
    rewrite(checkpoint, tensors)
    with pytest.raises(DataError, match="the file holds 2 elements, the manifest says 3"):
        load(checkpoint)


def test_without_moments(checkpoint: Path) -> None:
    tensors = {name: values for name, values in load_file(checkpoint / FILE).items() if "exp" not in name}
    rewrite(checkpoint, tensors)
    edit_manifest(checkpoint, kinds=["master"])
    with pytest.raises(DataError, match="holds no exp_avg"):
        load(checkpoint)


@pytest.mark.parametrize("name", ["../rank-00000.safetensors", "/etc/passwd", "a/b", "", "..", ".hidden"])
def test_unsafe_file_name(checkpoint: Path, name: str) -> None:
    (file,) = manifest_of(checkpoint)["files"]
    edit_manifest(checkpoint, files=[file | {"name": name}])
    with pytest.raises(DataError, match="is no plain file name"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "a checkpoint of version 3, this program reads versions 1 to 2"),
        ({"version": 10**30}, "version <int>,"),
        ({"version": True}, "version <bool>,"),
        ({"format": "other"}, "is not the manifest of a checkpoint"),
        ({"surprise": 1}, '"surprise"'),
        ({"files": []}, "lists no file"),
    ],
)
def test_manifest_of_another_kind(checkpoint: Path, changes: dict[str, Any], message: str) -> None:
    edit_manifest(checkpoint, **changes)
    with pytest.raises(DataError, match=message):
        load(checkpoint)


def test_folder_without_a_manifest(checkpoint: Path) -> None:
    (checkpoint / "manifest.json").unlink()
    with pytest.raises(DataError, match="is no checkpoint"):
        load(checkpoint)


def test_another_model(checkpoint: Path) -> None:
    content = manifest_of(checkpoint)
    edit_manifest(checkpoint, parameters=content["parameters"] | {"bias": [2, 2]})
    with pytest.raises(UsageError, match=r"parameter bias has shape \[2, 2\] there and \[4\] in this run"):
        load(checkpoint)
