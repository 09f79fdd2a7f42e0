"""The format page is true: its keys are the manifest's, and its recipe for the checksum gives the checksum."""

import hashlib
import json
import re
from pathlib import Path

import pytest
import torch

from pretrain.checkpoint import CheckpointManifest, RunState
from pretrain.checkpoint.manifest import MAX_MANIFEST_BYTES, VERSION, SavedFile, SavedSlice, SavedStore
from pretrain.checkpoint.tensors import MAX_HEADER_BYTES
from pretrain.faults.small import CUT, contents, make_optimizer
from pretrain.optim import LossScaleState
from tests.checkpoint.by_hand import read_parameters
from tests.checkpoint.saved import save
from tests.worlds import ROOT

PAGE = (ROOT / "pretrain/checkpoint/README.md").read_text()


def test_the_table_has_every_key_of_the_manifest() -> None:
    table = re.findall(r"^\| `(\w+)` \|", PAGE, flags=re.MULTILINE)
    assert table == [*CheckpointManifest.model_fields, "manifest_sha256"]


@pytest.mark.parametrize("part", [SavedFile, SavedSlice, SavedStore, RunState])
def test_every_key_of_its_parts_is_described(part: type[CheckpointManifest]) -> None:
    assert [name for name in part.model_fields if f"`{name}`" not in PAGE] == []


def test_versions_and_sizes_are_the_code_s() -> None:
    assert [name for name in LossScaleState.__dataclass_fields__ if f"`{name}`" not in PAGE] == []
    assert f"- **{VERSION}** (current)." in PAGE
    assert MAX_MANIFEST_BYTES == 2**28 and "2^28 bytes" in PAGE
    assert f"{MAX_HEADER_BYTES:,} bytes" in PAGE


@pytest.mark.usefixtures("one_rank")
def test_what_is_written_now_is_read_by_hand(tmp_path: Path) -> None:
    optimizer = make_optimizer(*CUT)
    path = save(tmp_path, 5, optimizer)
    content = (path / "manifest.json").read_bytes()
    saved = json.loads(content)
    digits = saved["manifest_sha256"].encode()
    assert content.endswith(b',\n "manifest_sha256": "' + digits + b'"\n}\n')
    assert hashlib.sha256(content.replace(digits, b"")).hexdigest().encode() == digits
    assert saved["version"] == VERSION
    for file in saved["files"]:
        assert hashlib.sha256((path / file["name"]).read_bytes()).hexdigest() == file["sha256"]
    found = read_parameters(path)
    for name, values in contents(optimizer).items():
        assert torch.equal(torch.frombuffer(bytearray(found[name]), dtype=torch.float32), values), name
    assert len(found) == len(contents(optimizer))
