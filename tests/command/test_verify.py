"""`verify`: a whole run is said to be, and of a damaged one every bad file is named."""

import os
import shutil
from pathlib import Path

import pytest

from pretrain.checkpoint import verify_checkpoint
from tests.command.runs import CHECKPOINT, STORE, command, make_run


def flip(path: Path, byte: int = -5) -> None:
    content = bytearray(path.read_bytes())
    content[byte] ^= 4
    path.write_bytes(content)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def test_a_whole_run(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("verify", run) == 0
    captured = capsys.readouterr()
    lines = captured.out.splitlines()
    assert captured.err == ""
    assert lines[0].startswith(
        f"{run}/checkpoints/step-00000004: whole; step 4, 2,416 elements of master, exp_avg,"
    )
    assert lines[1] == f"  trained on {STORE} (fingerprint 87b0786d0337; it is there)"
    assert lines[2].startswith(f"{run}/checkpoints/step-00000003: whole; step 3, ")
    assert len(lines) == 4


def test_one_checkpoint_whose_store_is_not_known(capsys: pytest.CaptureFixture[str]) -> None:
    assert command("verify", CHECKPOINT) == 0
    assert "a store (fingerprint 87b0786d0337; its path is not known)" in capsys.readouterr().out


def test_every_damage_of_a_run_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    newer, older = run / "checkpoints/step-00000004", run / "checkpoints/step-00000003"
    flip(newer / "rank-00000.safetensors")
    os.truncate(newer / "rank-00001.safetensors", 100)
    (older / "manifest.json").unlink()
    (run / "checkpoints/latest").write_text("step-00000005\n")
    assert command("verify", run) == 3
    err = capsys.readouterr().err.splitlines()
    assert f"{newer}/rank-00000.safetensors differs from its checksum." in err
    assert any(f"{newer}/rank-00001.safetensors has 100 bytes" in line for line in err)
    assert any(f"{older}/manifest.json cannot be read" in line for line in err)
    assert any("latest names 'step-00000005', which is not there" in line for line in err)
    assert err[-1] == f"error: {run} failed verification: 4 problem(s), named above."


def test_quick_leaves_out_the_checksums_and_nothing_else(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(run / "checkpoints/step-00000004/rank-00000.safetensors")
    assert command("verify", run, "--quick") == 0
    assert "checksums, which were not looked at" in capsys.readouterr().out
    flip(run / "checkpoints/step-00000004/rank-00000.safetensors", byte=20)  # the name of a tensor
    assert command("verify", run, "--quick") == 3
    assert "step-00000004/rank-00000.safetensors" in capsys.readouterr().err


def test_the_whole_one_that_a_kill_left_under_a_hidden_name_is_seen(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "checkpoints/step-00000004").rename(run / "checkpoints/.step-00000004.replaced")
    assert command("verify", run) == 0
    assert ".step-00000004.replaced: whole" in capsys.readouterr().out


def test_another_store_in_its_place_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run", store=tmp_path / "gone")
    assert command("verify", run) == 0
    assert f"{tmp_path}/gone (fingerprint 87b0786d0337; There is no token store" in capsys.readouterr().out


def test_a_run_without_checkpoints(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkpoints").mkdir()
    assert command("verify", tmp_path) == 2
    assert "has no checkpoint yet" in capsys.readouterr().err


def test_stores_are_looked_into_where_that_is_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Path(shutil.copytree(STORE, tmp_path / "store"))
    run = make_run(tmp_path / "run", store)
    assert command("verify", run, "--stores") == 0
    assert f"{store}: whole; fingerprint 87b0786d0337" in capsys.readouterr().out
    flip(store / "train-00000.tokens")
    assert command("verify", run) == 0
    assert command("verify", run, "--stores") == 3
    assert f"{store}/train-00000.tokens has changed: its sha256" in capsys.readouterr().err
    shutil.rmtree(store)
    assert command("verify", run, "--stores") == 3
    assert f"no token store at {store}" in capsys.readouterr().err


def test_a_checkpoint_that_a_run_removes_meanwhile_is_no_damage(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(checkpoint: Path, *args: object, **options: object) -> list[str]:
        if checkpoint.name == "step-00000003":
            shutil.rmtree(checkpoint)
        return verify_checkpoint(checkpoint, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr("pretrain.command.verify.verify_checkpoint", read)
    assert command("verify", run) == 0
    assert f"{run}/checkpoints/step-00000003: removed meanwhile" in capsys.readouterr().out


@pytest.mark.parametrize("path", ["nowhere", "model", "checkpoints"])
def test_what_is_no_checkpoint_is_not_called_damaged(
    run: Path, path: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "model").mkdir()
    assert command("verify", run / path) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and str(run / path) in error and error.count("\n") == 1
