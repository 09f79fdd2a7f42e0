"""What each mistake gets: one sentence, the exit code of the contract, and nothing that looks whole."""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
from transformers import BertConfig, BertForPreTraining

from pretrain.faults.tiny import VOCAB_SIZE, write_tiny_store
from pretrain.run_folder import RunFolder
from tests.end_to_end.runs import (
    SEQ_LEN,
    TINY_RUN,
    contents,
    error_of,
    launcher,
    pretrain,
    pretrain_as_typed,
    pretrain_each,
    write_model,
)

# What a run that has begun leaves behind.
TRACES = ("config.json", "metrics.jsonl", "eval.jsonl", "checkpoints/latest", "model", "run.lock")


@dataclass(frozen=True)
class Case:
    """Arguments after the usual ones (a later value replaces an earlier one), and how the run must end."""

    arguments: tuple[str, ...]
    code: int
    parts: tuple[str, ...]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with stores, configs and a finished run, good and bad; each test names them relative to it."""
    folder = tmp_path_factory.mktemp("world")
    write_tiny_store(folder / "store", 60)
    write_tiny_store(folder / "other-store", 60, seed=1)
    write_tiny_store(folder / "one-document", 1)
    _write_bad_stores(folder)
    _write_configs(folder)
    done = pretrain(*usual("done"), cwd=folder)
    assert done.returncode == 0, done.stderr
    for name in ("moved-latest", "flipped"):
        shutil.copytree(folder / "done", folder / name)
    (folder / "moved-latest/checkpoints/latest").write_text("step-00000099\n")
    _flip_a_byte(folder / "flipped/checkpoints/step-00000003/rank-00000.safetensors")
    return folder


def _write_bad_stores(folder: Path) -> None:
    for name in ("truncated", "version-9", "no-manifest"):
        shutil.copytree(folder / "store", folder / name)
    os.truncate(folder / "truncated/train-00000.tokens", 100)
    manifest = json.loads((folder / "store/manifest.json").read_text())
    (folder / "version-9/manifest.json").write_text(json.dumps(manifest | {"version": 9}))
    (folder / "no-manifest/manifest.json").unlink()


def _write_configs(folder: Path) -> None:
    write_model(folder / "tiny.json")
    write_model(folder / "vocabulary.json", vocab_size=999)
    write_model(folder / "roberta.json", "roberta")
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForPreTraining(BertConfig(vocab_size=VOCAB_SIZE + 1, **sizes)).save_pretrained(folder / "pretrained")
    texts = {
        "typo.toml": "[train]\nstep = 10\n",
        "type.toml": '[optimizer]\nlr = "high"\n',
        "lr.toml": "[optimizer]\nlr = 0.5\n",
        "broken.toml": "[train\n",
        "lr.json": '{"optimizer": {"type": "Lamb", "params": {"lr": 0.25}}}',
        "typo.json": '{"zero_optimzation": {"stage": 2}}',
        "refused.json": '{"amp": {"enabled": true}, "zero_optimization": {"offload_param": {"device": "nvme"}}}',
        "list.json": "[]",
        "broken.json": '{"bf16": {"enabled": tru}}',
    }
    for name, text in texts.items():
        (folder / name).write_text(text)


def _flip_a_byte(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(-10, os.SEEK_END)
        byte = file.read(1)[0]
        file.seek(-10, os.SEEK_END)
        file.write(bytes([byte ^ 1]))


def usual(output: str, *arguments: str) -> tuple[str, ...]:
    """A run that works, but for `arguments`."""
    model = () if any(each.startswith("model.") for each in arguments) else ("model.config=tiny.json",)
    options = ("--data", "store", "--output", output, "--backend", "fsdp")
    return (*options, *model, *TINY_RUN, *arguments)


def assert_refused(result: CompletedProcess[str], case: Case) -> None:
    message = error_of(result.stderr)
    assert result.returncode == case.code, result.stderr
    for part in case.parts:
        assert part in message
    assert "Traceback" not in result.stderr


def assert_nothing_looks_whole(output: Path) -> None:
    assert [name for name in TRACES if (output / name).exists()] == []


# Each of these as a command of its own, as it is typed.
TYPED: Mapping[str, Case] = {
    "truncated store": Case(("--data", "truncated"), 3, ("train-00000.tokens", "100 bytes")),
    "unknown key in a recipe": Case(
        ("--recipe", "typo.toml"), 2, ('typo.toml: unknown key "train.step"; did you mean "train.steps"?',)
    ),
    "product does not divide": Case(
        ("train.micro_batch=3",), 2, ("train.global_batch is 4", "micro-batch 3 x 1 rank(s)")
    ),
    "unknown option": Case(("--outptu", "x"), 2, ("unrecognized arguments: --outptu",)),
}

# These share a process.
SHARED: Mapping[str, Case] = {
    "store of another version": Case(("--data", "version-9"), 3, ("version 9", "versions 1 to 2")),
    "missing store": Case(("--data", "nowhere"), 2, ("no token store at nowhere",)),
    "vocabularies differ": Case(
        ("model.config=vocabulary.json",), 2, ("999", str(VOCAB_SIZE), "model.config")
    ),
    "over the positions": Case(("data.seq_len=64",), 2, ("data.seq_len: 64", f"{SEQ_LEN + 8} positions")),
    "wrong type in a recipe": Case(("--recipe", "type.toml"), 2, ("type.toml", '"optimizer.lr"', "'high'")),
    "recipe against ds_config": Case(
        ("--recipe", "lr.toml", "--ds_config", "lr.json"),
        2,
        ("optimizer.lr is 0.5 in lr.toml but 0.25 in ds_config lr.json", "optimizer.params.lr"),
    ),
    "ds_config is no JSON": Case(
        ("--ds_config", "broken.json"), 2, ("ds_config broken.json is no JSON", "column")
    ),
    "not a checkpoint": Case(("--resume", "store"), 3, ("store", "manifest.json")),
    "unknown key on the command line": Case(("trian.steps=3",), 2, ('"trian"; did you mean "train"?',)),
    "unknown key in a ds_config": Case(
        ("--ds_config", "typo.json"), 2, ('"zero_optimzation"; did you mean "zero_optimization"?',)
    ),
    "refused keys in a ds_config": Case(
        ("--ds_config", "refused.json"),
        2,
        ("ds_config refused.json: 2 keys do not fit:",),
    ),
    "ds_config is a list": Case(("--ds_config", "list.json"), 2, ("list.json holds list",)),
    "missing ds_config": Case(("--ds_config", "nowhere.json"), 2, ("nowhere.json cannot be read",)),
    "recipe is no TOML": Case(("--recipe", "broken.toml"), 2, ("broken.toml is no TOML",)),
    "missing recipe": Case(("--recipe", "nowhere.toml"), 2, ("nowhere.toml cannot be read",)),
    "unknown backend": Case(("--backend", "ddp"), 2, ("invalid choice: 'ddp'",)),
    "store without manifest": Case(("--data", "no-manifest"), 3, ("no-manifest", "manifest.json")),
    "store is a file": Case(("--data", "tiny.json"), 2, ("tiny.json",)),
    "one document for nsp": Case(
        ("--data", "one-document"), 3, ("one document", "set data.objective to sop or mlm")
    ),
    "sentence pairs for RoBERTa": Case(("model.config=roberta.json",), 2, ("data.objective", "'roberta'")),
    "unknown preset": Case(("model.preset=bert-tinny",), 2, ("did you mean 'bert-tiny'?",)),
    "two models": Case(
        ("model.config=tiny.json", "model.preset=bert-tiny"), 2, ("model.preset and model.config",)
    ),
    "missing model config": Case(("model.config=nowhere.json",), 2, ("model.config", "nowhere.json")),
    "missing pretrained model": Case(("model.pretrained=nowhere",), 2, ("model.pretrained", "nowhere")),
    "pretrained vocabulary": Case(
        ("model.pretrained=pretrained",), 2, (str(VOCAB_SIZE + 1), str(VOCAB_SIZE), "model.pretrained")
    ),
    "bounds of trust for AdamW": Case(
        ("optimizer.name=adamw", "optimizer.max_trust=1.0"), 2, ("optimizer.max_trust", "adamw")
    ),
    "missing checkpoint": Case(("--resume", "nowhere"), 2, ("--resume: nowhere is not a folder",)),
    "checkpoint of another store": Case(
        ("--data", "other-store", "--resume", "done/checkpoints/step-00000003"), 3, ("another token store",)
    ),
    "checkpoint of another seed": Case(
        ("seed=1", "--resume", "done/checkpoints/step-00000003"), 2, ("seed = 42", "this run has 1")
    ),
    "checkpoint of other samples": Case(
        ("data.packing=false", "--resume", "done/checkpoints/step-00000003"), 2, ("data.packing = True",)
    ),
    "checkpoint of another model": Case(
        ("model.preset=bert-mini", "--resume", "done/checkpoints/step-00000003"),
        2,
        ("another model", "shape"),
    ),
    "checkpoint beyond the end": Case(
        ("train.steps=2", "--resume", "done/checkpoints/step-00000003"), 2, ("at step 3", "train.steps = 2")
    ),
    "damaged checkpoint": Case(
        ("--resume", "flipped/checkpoints/step-00000003"), 3, ("rank-00000.safetensors", "checksum")
    ),
    "output below a file": Case(
        ("--output", "tiny.json/run"), 2, ("--output tiny.json/run cannot be written",)
    ),
    "output is empty": Case(("--output", ""), 2, ("--output: is empty; expected a path",)),
    "output is a file": Case(("--output", "tiny.json"), 2, ("--output tiny.json cannot be written",)),
}


@pytest.mark.parametrize("name", TYPED)
def test_as_typed(world: Path, tmp_path: Path, name: str) -> None:
    output = tmp_path / "run"
    result = pretrain_as_typed(*usual(str(output), *TYPED[name].arguments), cwd=world)
    assert_refused(result, TYPED[name])
    assert_nothing_looks_whole(output)


@pytest.fixture(scope="module")
def shared_results(world: Path) -> dict[str, CompletedProcess[str]]:
    outputs = {name: f"shared-{index}" for index, name in enumerate(SHARED)}
    cases = [usual(outputs[name], *case.arguments) for name, case in SHARED.items()]
    return dict(zip(SHARED, pretrain_each(cases, world), strict=True))


@pytest.mark.parametrize("name", SHARED)
def test_in_a_shared_process(
    world: Path, shared_results: dict[str, CompletedProcess[str]], name: str
) -> None:
    assert_refused(shared_results[name], SHARED[name])
    assert_nothing_looks_whole(world / f"shared-{list(SHARED).index(name)}")


@pytest.mark.parametrize(
    ("run", "arguments", "code", "parts"),
    [
        ("done", ("--resume", "never"), 2, ("done already holds a run (step-00000003)", "--resume never")),
        ("flipped", (), 3, ("rank-00000.safetensors differs from its checksum",)),
        ("moved-latest", (), 3, ("latest names 'step-00000099'", "--resume PATH")),
    ],
)
def test_a_run_that_is_there_already_stays_as_it_is(
    world: Path, run: str, arguments: tuple[str, ...], code: int, parts: tuple[str, ...]
) -> None:
    before = contents(world / run)
    assert_refused(pretrain(*usual(run, *arguments), cwd=world), Case(arguments, code, parts))
    assert contents(world / run) == before


def test_a_folder_that_another_process_uses(world: Path, tmp_path: Path) -> None:
    """This process holds the lock, and keeps it."""
    folder = RunFolder(tmp_path / "run")
    folder.create()
    folder.lock(None)
    held = contents(folder.path)
    result = pretrain(*usual(str(folder.path)), cwd=world)
    assert_refused(result, Case((), 2, (f"in use by process {os.getpid()}", "run.lock")))
    assert contents(folder.path) == held


@pytest.mark.parametrize(
    ("name", "arguments", "code", "part"),
    [
        ("torchrun", ("train.global_batch=1",), 2, "is 1 rows but there are 2 ranks"),
        ("torchrun", ("--data", "truncated"), 3, "train-00000.tokens"),
        ("deepspeed", ("--ds_config", "broken.json"), 2, "is no JSON"),
    ],
)
def test_two_ranks_say_it_once(
    world: Path, tmp_path: Path, name: str, arguments: tuple[str, ...], code: int, part: str
) -> None:
    """deepspeed hands the exit code on; torchrun ends with 1, and names the ranks' code in its report."""
    result = launcher(name, *usual(str(tmp_path / "run"), *arguments), cwd=world)
    assert part in error_of(result.stderr)
    if name == "deepspeed":
        assert result.returncode == code, result.stderr
    else:
        assert (result.returncode, f"exitcode  : {code}" in result.stderr) == (1, True), result.stderr
    assert_nothing_looks_whole(tmp_path / "run")
