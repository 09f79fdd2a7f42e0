"""Imports only go down; the rules are in tests/floors.py, and each is shown to fail on a small offender."""

from pathlib import Path

import pytest

from tests.floors import FLOORS, MAX_FILE_LINES, MAX_FUNCTION_LINES, ROOT, modules, problems

MODULES = dict(modules())

OFFENDERS = {
    "unknown module": ("pretrain.shed", "x = 1", "has no floor"),
    "upward": ("pretrain.data.rows", "from pretrain.loop import Loop", "above"),
    "upward, floor 0": ("pretrain.rng", "import pretrain.data.order", "above"),
    "upward, module of a package": ("pretrain.data.rows", "from pretrain import build", "above"),
    "upward, relative": ("pretrain.loop", "from .build import train", "above"),
    "upward in a function": ("pretrain.loop", "def f():\n    import pretrain.build", "above"),
    "siblings": ("pretrain.model.heads", "from pretrain.optim import lamb", "siblings"),
    "siblings, floor 3": ("pretrain.evaluate", "from pretrain import checkpoint", "siblings"),
    "type checking": (
        "pretrain.loop",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING: pass",
        "TYPE_CHECKING",
    ),
    "type checking, dotted": (
        "pretrain.loop",
        "import typing\nif typing.TYPE_CHECKING: pass",
        "TYPE_CHECKING",
    ),
    "import in a function": ("pretrain.loop", "def f():\n    import json", "inside f()"),
    "import in a method": (
        "pretrain.build",
        "class A:\n    def f(self):\n        from json import loads",
        "inside f()",
    ),
    "import beside the backend": ("pretrain.build", "def train():\n    import json", "inside train()"),
    "environment": ("pretrain.loop", "import os\nx = os.environ['RANK']", "environment"),
    "environment, getenv": ("pretrain.loop", "import os\nx = os.getenv('RANK')", "environment"),
    "environment, by name": ("data_prep.build", "from os import environ as e", "environment"),
    "data_prep, training": ("data_prep.build", "from pretrain.data.batches import Batch", "may import only"),
    "data_prep, samples": (
        "data_prep.build",
        "from pretrain.data.plan import plan_window",
        "may import only",
    ),
    "inspection, torch": (
        "data_prep.inspection.samples",
        "from pretrain.data.batches import Batch",
        "may import only",
    ),
    "data_prep, package": ("data_prep.build", "from pretrain import data", "may import only"),
    "training, data_prep": ("pretrain.build", "from data_prep import build", "not data_prep"),
    "launch, data_prep": ("launch.pretrain", "from data_prep.build import build", "not data_prep"),
    "launch": ("pretrain.build", "from launch import pretrain", "nothing imports launch"),
    "tests": ("pretrain.build", "from tests.worlds import run_ranks", "nothing imports launch or tests"),
    "deepspeed": ("pretrain.loop", "import deepspeed", "engines"),
    "deepspeed, part": ("pretrain.build", "from deepspeed.runtime import engine", "engines"),
    "fsdp": ("pretrain.checkpoint.load", "from torch.distributed.fsdp import fully_shard", "engines"),
    "fsdp, module": ("pretrain.checkpoint.load", "from torch.distributed import fsdp", "engines"),
    "state, list": ("pretrain.loop", "_seen = []", "mutable state"),
    "state, annotated": ("pretrain.loop", "cache: dict[str, int] = {}", "mutable state"),
    "state, called": (
        "pretrain.loop",
        "from collections import defaultdict\nx = defaultdict(int)",
        "mutable state",
    ),
    "state, global": ("pretrain.loop", "def f():\n    global x\n    x = 1", "`global`"),
    "long file": ("pretrain.loop", "x = 1\n" * (MAX_FILE_LINES + 1), f"{MAX_FILE_LINES + 1} lines"),
    "long function": ("pretrain.loop", "def f():\n" + "    x = 1\n" * MAX_FUNCTION_LINES, "name its parts"),
}

ALLOWED = {
    "down": ("pretrain.loop", "from pretrain.checkpoint import save\nimport pretrain.rng"),
    "same room": ("pretrain.data.rows", "from pretrain.data.order import Cursor\nfrom . import pack"),
    "same floor, top": (
        "launch.pretrain",
        "from pretrain.build import train\nfrom data_prep.demo import build_demo_store",
    ),
    "the store": (
        "data_prep.build",
        "from pretrain.data.store import TokenStore\nfrom pretrain.errors import DataError",
    ),
    "inspection": ("data_prep.inspection.samples", "from pretrain.data.plan import plan_window"),
    "the lazy choice": (
        "pretrain.build",
        "def build_backend():\n    from pretrain.backends.fsdp import FsdpBackend",
    ),
    "engines at home": (
        "pretrain.backends.deepspeed",
        "import deepspeed\nfrom torch.distributed import fsdp",
    ),
    "environment at home": ("pretrain.comm", "import os\nx = os.environ.get('RANK')"),
    "environment, set": ("data_prep.workers", "import os\nos.environ['THREADS'] = '1'"),
    "constants": ("pretrain.loop", "SIZES = {'a': 1}\n__all__ = ['x']\n_NAMES: list[str] = []"),
    "the longest": ("pretrain.loop", "def f():\n" + "    x = 1\n" * (MAX_FUNCTION_LINES - 1)),
}


@pytest.mark.parametrize("name", MODULES)
def test_module_keeps_the_rules(name: str) -> None:
    found = problems(name, MODULES[name].read_text(encoding="utf-8"))
    assert not found, "\n".join(found)


@pytest.mark.parametrize(("name", "source", "sentence"), OFFENDERS.values(), ids=OFFENDERS)
def test_each_rule_can_fail(name: str, source: str, sentence: str) -> None:
    found = problems(name, source)
    assert any(sentence in each for each in found), found


@pytest.mark.parametrize(("name", "source"), ALLOWED.values(), ids=ALLOWED)
def test_what_is_allowed_passes(name: str, source: str) -> None:
    assert problems(name, source) == []


def test_every_room_exists() -> None:
    rooms = {room.replace(".", "/") for room in FLOORS}
    missing = [room for room in rooms if not any((ROOT / f"{room}{end}").exists() for end in ("", ".py"))]
    assert not missing, f"FLOORS in tests/floors.py names rooms that are gone: {missing}"


def test_top_level_is_fixed() -> None:
    """Benchmarks go into tests/, recipes and SLURM scripts into launch/."""
    fixed = {"data_prep", "ds_configs", "launch", "pretrain", "tests"}
    made = {"runs", "build", "dist"}  # by running and building
    folders = {
        path.name
        for path in Path(ROOT).iterdir()
        if path.is_dir() and not path.name.startswith((".", "_")) and path.suffix != ".egg-info"
    }
    assert folders - made == fixed
