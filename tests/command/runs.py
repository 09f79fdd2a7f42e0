"""A run folder with two checkpoints of version 1, as a run that was trained on the store of version 1 left it."""

import json
import shutil
from pathlib import Path

from pretrain.command import main
from tests.worlds import ROOT

STORE = ROOT / "tests/data/store/version_1"
CHECKPOINT = ROOT / "tests/checkpoint/version_1/step-00000003"
TOKENIZER = STORE / "tokenizer"


def make_run(path: Path, store: Path = STORE) -> Path:
    shutil.copytree(CHECKPOINT, path / "checkpoints" / CHECKPOINT.name)
    other = shutil.copytree(CHECKPOINT, path / "checkpoints" / "step-00000004")
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["state"]["step"] = 4
    (other / "manifest.json").write_text(json.dumps(manifest))
    (path / "checkpoints" / "latest").write_text("step-00000004\n")
    (path / "config.json").write_text(json.dumps({"store": str(store)}))
    return path


def command(*arguments: str | Path) -> int:
    return main([str(each) for each in arguments])
