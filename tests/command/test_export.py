"""`export`: the folder that transformers loads, with the weights of the checkpoint that was named."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from pretrain.checkpoint import export_model
from pretrain.faults.room import small_disk
from pretrain.faults.row import NotHere
from tests.checkpoint.by_hand import read_parameters
from tests.command.runs import CHECKPOINT, STORE, TOKENIZER, command, make_run
from tests.command.test_verify import flip


def test_transformers_loads_what_the_checkpoint_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run")
    assert command("export", run, "--output", tmp_path / "model") == 0
    assert "BertForPreTraining of step 4" in capsys.readouterr().out
    model = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "model")
    saved = read_parameters(CHECKPOINT)
    parameters = dict(model.named_parameters())
    assert len(parameters) == len(saved) // 3
    for name, values in parameters.items():
        expected = torch.frombuffer(bytearray(saved[f"master {name}"]), dtype=torch.float32)
        assert torch.equal(values.detach().flatten(), expected), name
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    assert tokenizer.get_vocab() == transformers.AutoTokenizer.from_pretrained(TOKENIZER).get_vocab()


@pytest.mark.parametrize("path", ["run", "run/checkpoints/step-00000003"])
def test_a_run_and_a_checkpoint_find_the_tokenizer_in_the_store(tmp_path: Path, path: str) -> None:
    make_run(tmp_path / "run")
    assert command("export", tmp_path / path, "--output", tmp_path / "deep/model") == 0
    assert (tmp_path / "deep/model/tokenizer.json").read_bytes() == (
        TOKENIZER / "tokenizer.json"
    ).read_bytes()


def test_where_the_store_is_not_there_a_tokenizer_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path / "run", store=tmp_path / "gone")
    assert command("export", run, "--output", tmp_path / "model") == 2
    assert "by --tokenizer" in capsys.readouterr().err
    assert command("export", run, "--output", tmp_path / "model", "--tokenizer", TOKENIZER) == 0


def test_another_store_s_tokenizer_is_not_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = shutil.copytree(STORE, tmp_path / "store")
    manifest = other / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"block_tokens": ', '"block_tokens": 1'))
    run = make_run(tmp_path / "run", store=other)
    assert command("export", run, "--output", tmp_path / "model") == 2
    assert "holds another store now" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (("--tokenizer", "nowhere"), 2, "--tokenizer nowhere is not a folder"),
        (("--tokenizer", "."), 2, "holds no tokenizer"),
    ],
)
def test_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    code: int,
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command("export", CHECKPOINT, "--output", "model", *arguments) == code
    assert part in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model").mkdir()
    assert command("export", CHECKPOINT, "--output", tmp_path / "model", "--tokenizer", TOKENIZER) == 2
    assert "is there already" in capsys.readouterr().err


def test_damage_is_not_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_run(tmp_path / "run")
    flip(run / "checkpoints/step-00000004/rank-00001.safetensors")
    assert command("export", run, "--output", tmp_path / "model") == 3
    assert "rank-00001.safetensors differs from its checksum" in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("free", ["nothing is known of", "8k", "20k", "24k"])
def test_a_full_disk_is_told_and_nothing_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, free: str
) -> None:
    """Seen before anything is written, or met at the config, the weights or the tokenizer."""
    size = free if free[0].isdigit() else "4k"
    try:
        with small_disk(tmp_path / "disk", size) as disk:
            if size == free:
                monkeypatch.setattr("pretrain.checkpoint.export.free_bytes", lambda path: 1 << 30)
            output = disk / "model"
            assert command("export", CHECKPOINT, "--output", output, "--tokenizer", TOKENIZER) == 1
            error = capsys.readouterr().err
            assert error.startswith(f"error: {output} could not be written ({disk}/")
            assert "No space left on device" in error and error.count("\n") == 1
            assert list(disk.iterdir()) == []
    except NotHere as reason:
        pytest.skip(str(reason))


def test_a_checkpoint_that_a_run_removes_meanwhile_gives_way_to_its_newest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    newest = run / "checkpoints" / "step-00000003"  # once step 4 has gone

    def export(checkpoint: Path, *args: Any, **options: Any) -> None:
        if checkpoint != newest:
            shutil.rmtree(checkpoint)
            (run / "checkpoints" / "latest").write_text(newest.name)
        export_model(checkpoint, *args, **options)

    monkeypatch.setattr("pretrain.command.export.export_model", export)
    assert command("export", run, "--output", tmp_path / "model") == 0
    assert "BertForPreTraining of step 3" in capsys.readouterr().out
