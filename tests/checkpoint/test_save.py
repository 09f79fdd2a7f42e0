"""What is committed is whole, the latest is named last, and the rest makes room."""

from pathlib import Path

import pytest
from safetensors import safe_open

from pretrain.checkpoint import CheckpointManifest, find_checkpoint
from pretrain.errors import DataError, PretrainError
from pretrain.faults.small import CUT, make_optimizer
from tests.checkpoint.saved import save

pytestmark = pytest.mark.usefixtures("one_rank")


def test_holds_every_slice_of_every_kind_and_nothing_hidden(tmp_path: Path) -> None:
    path = save(tmp_path, 7)
    assert path == tmp_path / "step-00000007" == find_checkpoint(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["latest", "step-00000007"]
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "rank-00000.safetensors"]
    with safe_open(path / "rank-00000.safetensors", framework="pt") as content:
        assert sorted(content.keys()) == sorted(
            f"{kind}:{place}"
            for kind in ("master", "exp_avg", "exp_avg_sq")
            for place in ("bias:0", "bias:1", "embeddings:0", "embeddings:7")
        )


def test_keeps_the_newest(tmp_path: Path) -> None:
    for step in (5, 10, 15, 20):
        save(tmp_path, step)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["latest", "step-00000015", "step-00000020"]
    assert (tmp_path / "latest").read_text() == "step-00000020\n"


def test_same_step_again_replaces_what_lies_there(tmp_path: Path) -> None:
    first = CheckpointManifest.read(save(tmp_path, 5))
    path = save(tmp_path, 5, make_optimizer(*CUT, seed=1))
    second = CheckpointManifest.read(path)
    assert second.state.applied_steps == 101
    assert second.files[0].sha256 != first.files[0].sha256
    assert sorted(file.name for file in tmp_path.iterdir()) == ["latest", "step-00000005"]


def test_what_a_kill_left_is_in_nobodys_way(tmp_path: Path) -> None:
    save(tmp_path, 5)
    partial = tmp_path / ".step-00000010.partial"
    partial.mkdir()
    (partial / "rank-00007.safetensors").write_bytes(b"half")
    assert find_checkpoint(tmp_path) == tmp_path / "step-00000005"
    path = save(tmp_path, 10)
    assert sorted(file.name for file in path.iterdir()) == ["manifest.json", "rank-00000.safetensors"]
    assert not partial.exists()


def test_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    with pytest.raises(PretrainError, match="could not be written"):
        save(tmp_path / "checkpoints", 5)


def test_latest_that_is_missing_or_names_nothing(tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path / "none") is None
    save(tmp_path, 5)
    (tmp_path / "latest").unlink()
    # One alone can only have been cut off between its own name and `latest`.
    assert find_checkpoint(tmp_path) == tmp_path / "step-00000005"
    save(tmp_path, 10)
    (tmp_path / "latest").unlink()
    with pytest.raises(DataError, match="latest is missing though 2 checkpoints"):
        find_checkpoint(tmp_path)
    (tmp_path / "latest").write_text("../step-00000005")
    with pytest.raises(DataError, match="which is not there"):
        find_checkpoint(tmp_path)
