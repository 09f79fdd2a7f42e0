"""Tokens and passwords stay out of what a run writes down; everything else stays as it is."""

import json
import sys
from pathlib import Path

import pytest

from pretrain.checkpoint import CheckpointManifest, find_checkpoint
from pretrain.config import Recipe
from pretrain.faults.tiny import write_tiny_store
from pretrain.secrets import secrets_in, without_secrets
from tests.end_to_end.runs import LAUNCH, ONE_THREAD, TINY_RUN, write_model
from tests.worlds import run_command

SECRET = "hf_Ab12Cd34Ef56Gh78"


def test_variables_are_told_by_their_names() -> None:
    environment = {
        "HF_TOKEN": "hf_secret_value",
        "AWS_SECRET_ACCESS_KEY": "aws-secret-value",
        "WANDB_API_KEY": "wandb-key-value",
        "DB_PASSWORD": "password-value",
        "GOOGLE_CREDENTIALS": "google-value",
        "SHORT_TOKEN": "on",
        "TOKENIZERS_PARALLELISM": "false-and-long",
        "KEYBOARD": "us-international",
        "PATH": "/usr/bin:/bin:/sbin",
    }
    assert secrets_in(environment) == set(list(environment.values())[:5])


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("https://me:pass@host.org/x", "https://***@host.org/x"),
        ("https:/me:pass@host.org/x", "https:/***@host.org/x"),  # as a Path writes it
        ("s3://token@bucket/x", "s3://***@bucket/x"),
        ("https://host/x?token=abc&part=1", "https://host/x?token=***&part=1"),
        ("https://host/x?part=1&X-Amz-Signature=abc", "https://host/x?part=1&X-Amz-Signature=***"),
        (f"stores/{SECRET}/x", "stores/***/x"),
        ("https://host/@scope/x", "https://host/@scope/x"),
        ("runs/me@host/x", "runs/me@host/x"),
    ],
)
def test_texts(written: str, expected: str) -> None:
    assert without_secrets({"a": [written]}, {SECRET}) == {"a": [expected]}


def test_keys_that_are_named_as_secrets_are() -> None:
    content = {
        "api_key": "x",
        "hub_token": "y",
        "password": "",
        "tokens": 5,
        "mask_token": 7,
        "tokenizer": "z",
    }
    hidden = {"api_key": "***", "hub_token": "***"}
    assert without_secrets({"a": content}, ()) == {"a": content | hidden}


def test_a_recipe_without_secrets_stays_as_it_is() -> None:
    recipe = Recipe().model_dump()
    assert without_secrets(recipe, {SECRET}) == recipe


def test_a_run_writes_none_of_them(tmp_path: Path) -> None:
    store = tmp_path / "https:" / "me:password@host" / SECRET
    store.parent.mkdir(parents=True)
    write_tiny_store(store, 60)
    model = write_model(tmp_path / "tiny.json")
    options = ("--backend", "fsdp", "--output", tmp_path / "run", f"model.config={model}", *TINY_RUN)
    env = ONE_THREAD | {"HF_TOKEN": SECRET, "SOME_PASSWORD": "hunter2-hunter2"}
    command: list[str | Path] = [sys.executable, LAUNCH, *options, f"data.store={store}"]
    done = run_command(command, cwd=tmp_path, env=env)
    assert done.returncode == 0, done.stderr
    config = (tmp_path / "run" / "config.json").read_text()
    assert json.loads(config)["store"] == f"{tmp_path}/https:/***@host/***"
    path = find_checkpoint(tmp_path / "run" / "checkpoints")
    assert path is not None
    manifest = CheckpointManifest.read(path).model_dump_json()
    for text in (config, manifest):
        assert not any(secret in text for secret in (SECRET, "me:password", "hunter2"))
