"""Malicious files of every kind: nothing of them runs, nothing is written outside, and the error is clear."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForPreTraining

from pretrain.checkpoint import CheckpointManifest, export_model, read_verified
from pretrain.checkpoint.manifest import MAX_MANIFEST_BYTES, sha256_of
from pretrain.data.store import TokenStore
from pretrain.errors import DataError, PretrainError, UsageError
from pretrain.files import sealed
from pretrain.model import ModelOptions, build_model
from tests.checkpoint.test_versions import OLD, OLD_STORE

FILE = "rank-00000.safetensors"
DEEP = "[" * 100_000 + "]" * 100_000
pytestmark = pytest.mark.usefixtures("one_rank")


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    return tmp_path / "it-ran"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return shutil.copytree(OLD, tmp_path / "run" / OLD.name)


def edit(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Another manifest, under a seal of its own."""
    path = checkpoint / "manifest.json"
    content = json.loads(path.read_text())
    content["version"] = 2
    content.pop("manifest_sha256", None)
    change(content)
    path.write_bytes(sealed(json.dumps(content, indent=1).encode()))


def rename(name: str, manifest: dict[str, Any]) -> None:
    manifest["files"][0]["name"] = name


def put(checkpoint: Path, content: bytes) -> None:
    """Another file of rank 0, under a checksum that fits."""
    path = checkpoint / FILE
    path.write_bytes(content)
    edit(checkpoint, lambda m: m["files"][0].update(sha256=sha256_of(path), bytes=len(content)))


def refused(checkpoint: Path, kind: type[PretrainError] = DataError) -> str:
    """What reading and exporting say; both must refuse."""
    output = checkpoint.parent / "model"
    with pytest.raises(kind) as exported:
        export_model(checkpoint, OLD_STORE / "tokenizer", output, checksums=True)
    assert not output.exists()
    try:
        read_verified(checkpoint, True, 0, 1)
    except DataError as error:
        assert str(error).removesuffix(" The checkpoint is damaged.") == str(exported.value)
    return str(exported.value)


@pytest.mark.parametrize("how", ["pickle", "torch.save"])
def test_a_pickle_in_the_place_of_tensors(checkpoint: Path, tmp_path: Path, mark: Path, how: str) -> None:
    torch.save(Bomb(mark), tmp_path / "saved")
    content = pickle.dumps(Bomb(mark)) if how == "pickle" else (tmp_path / "saved").read_bytes()
    put(checkpoint, content)
    assert f"{FILE} is no safetensors file" in refused(checkpoint)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("header", "part"),
    [
        (b"\xff" * 8, "header would have"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "header would have"),
        (len(DEEP).to_bytes(8, "little") + DEEP.encode(), "is no safetensors file of flat fp32 tensors"),
        (b"\x02" + bytes(7) + b"{}", "the file holds no tensor of that name"),
        (b"\x02" + bytes(7) + b"[]", "is no safetensors file of flat fp32 tensors"),
    ],
)
def test_a_header_that_lies(checkpoint: Path, header: bytes, part: str) -> None:
    put(checkpoint, header)
    assert part in refused(checkpoint)


@pytest.mark.parametrize("offsets", [[0, 1 << 40], [1 << 40, (1 << 40) + 128], [64, 0], [-128, 0]])
def test_tensors_beyond_the_file(checkpoint: Path, offsets: list[int]) -> None:
    path = checkpoint / FILE
    save_file({"master:x:0": torch.zeros(32)}, path)
    content = path.read_bytes()
    header = json.dumps({"master:x:0": {"dtype": "F32", "shape": [32], "data_offsets": offsets}}).encode()
    put(checkpoint, len(header).to_bytes(8, "little") + header + content[-128:])
    assert FILE in refused(checkpoint)


def test_files_that_lie_elsewhere(checkpoint: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.safetensors"
    shutil.move(checkpoint / FILE, outside)
    (checkpoint / FILE).symlink_to(outside)
    assert f"{FILE} is a symbolic link" in refused(checkpoint)
    (checkpoint / FILE).unlink()
    os.mkfifo(checkpoint / FILE)  # whoever opens it waits for ever
    assert f"{FILE} is not a regular file" in refused(checkpoint)
    (checkpoint / FILE).unlink()
    for name in ("../../outside.safetensors", str(outside), "a\x00b", "..", "."):
        edit(checkpoint, partial(rename, name))
        assert "is no plain file name" in refused(checkpoint)


@pytest.mark.parametrize("kind", ["link", "pipe", "huge", "deep", "numbers"])
def test_a_manifest_that_is_none(checkpoint: Path, tmp_path: Path, kind: str) -> None:
    path = checkpoint / "manifest.json"
    if kind == "link":
        shutil.move(path, tmp_path / "aside")
        path.symlink_to(tmp_path / "aside")
    elif kind == "pipe":
        path.unlink()
        os.mkfifo(path)
    elif kind == "huge":
        os.truncate(path, MAX_MANIFEST_BYTES + 1)
    else:
        path.write_text(DEEP if kind == "deep" else '{"version": ' + "9" * 100_000 + "}")
    parts = {
        "link": "symbolic link",
        "pipe": "regular file",
        "huge": "more than the",
        "deep": "not valid JSON",
    }
    message = refused(checkpoint)
    assert parts.get(kind, "manifest.json") in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["parameters"].update({"bert.pooler.dense.bias": [1 << 50]}),
        lambda m: m["parameters"].update({"bert.pooler.dense.bias": [-8]}),
        lambda m: m["parameters"].update({"bert.pooler.dense.bias": [1 << 40, 0]}),
        lambda m: m["files"][0]["slices"][0].update(numel=1 << 50),
        lambda m: m["files"][0]["slices"][0].update(start=-1),
        lambda m: m["files"][0].update(bytes=1 << 62),
        lambda m: m["state"].update(step=1 << 70),
    ],
)
def test_sizes_that_cannot_be(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """No memory is asked for that the files do not fill."""
    edit(checkpoint, change)
    assert str(checkpoint) in refused(checkpoint)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("os", "which is none"),
        ("Trainer", "which is none"),
        ("pipeline", "which is none"),
        ("__loader__", "which is none"),
        ("GPT2LMHeadModel", "which is not trained here"),
        ("PreTrainedModel", "which is not trained here"),
    ],
)
def test_model_classes_that_are_none(checkpoint: Path, name: str, part: str) -> None:
    edit(checkpoint, lambda m: m["state"].update(model_class=name))
    assert part in refused(checkpoint)


@pytest.mark.parametrize(
    "content",
    ["", "[]", DEEP, '{"hidden_size": 1e999}', '{"hidden_size": "x"}', '{"hidden_size": 100000000000}'],
)
def test_a_model_config_that_fits_no_model(checkpoint: Path, content: str) -> None:
    edit(checkpoint, lambda m: m["state"].update(model_config_json=content))
    assert str(checkpoint) in refused(checkpoint)


def test_a_model_config_that_names_code_is_exported_without(checkpoint: Path, tmp_path: Path) -> None:
    config = json.loads(CheckpointManifest.read(checkpoint).state.model_config_json)
    config |= {"auto_map": {"AutoModel": "evil--evil.Model"}, "attn_implementation": "evil/kernel"}
    config |= {"_attn_implementation_internal": "evil/kernel", "custom_generate": "evil"}
    edit(checkpoint, lambda m: m["state"].update(model_config_json=json.dumps(config)))
    export_model(checkpoint, OLD_STORE / "tokenizer", tmp_path / "model")
    for path in (tmp_path / "model").glob("*.json"):
        assert "evil" not in path.read_text()


def test_of_a_tokenizer_s_folder_only_a_tokenizer_is_taken(
    checkpoint: Path, tmp_path: Path, mark: Path
) -> None:
    tokenizer = shutil.copytree(OLD_STORE / "tokenizer", tmp_path / "tokenizer")
    for name in ("config.json", "model.safetensors", "evil.py", "pytorch_model.bin"):
        (tokenizer / name).write_bytes(pickle.dumps(Bomb(mark)))
    (tokenizer / "folder").mkdir()
    (tmp_path / "secret").write_text("a key")
    (tokenizer / "id_rsa").symlink_to(tmp_path / "secret")
    content = json.loads((tokenizer / "tokenizer_config.json").read_text())
    (tokenizer / "tokenizer_config.json").write_text(
        json.dumps(content | {"auto_map": {"AutoTokenizer": "evil.T"}})
    )
    export_model(checkpoint, tokenizer, tmp_path / "model")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert names == {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert json.loads((tmp_path / "model/tokenizer_config.json").read_text()) == content
    assert json.loads((tmp_path / "model/config.json").read_text())["model_type"] == "bert"
    (tokenizer / "vocab.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(DataError, match=r"vocab\.txt is a symbolic link"):
        export_model(checkpoint, tokenizer, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("content", [DEEP, "[]", "{", " " * (1 << 25)])
def test_a_tokenizer_config_that_is_none(checkpoint: Path, tmp_path: Path, content: str) -> None:
    tokenizer = shutil.copytree(OLD_STORE / "tokenizer", tmp_path / "tokenizer")
    (tokenizer / "tokenizer_config.json").write_text(content)
    with pytest.raises(DataError, match=r"tokenizer_config\.json"):
        export_model(checkpoint, tokenizer, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_an_export_follows_no_link_out_of_its_folder(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / ".model.partial").symlink_to(tmp_path / "outside")
    with pytest.raises(PretrainError, match="File exists"):
        export_model(checkpoint, OLD_STORE / "tokenizer", tmp_path / "model")
    assert list((tmp_path / "outside").iterdir()) == []


@pytest.fixture
def pretrained(tmp_path: Path) -> Path:
    sizes: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    BertForPreTraining(BertConfig(vocab_size=30, **sizes)).save_pretrained(tmp_path / "pretrained")
    return tmp_path / "pretrained"


def load(folder: Path) -> torch.nn.Module:
    return build_model(
        ModelOptions(pretrained=folder),
        vocab_size=30,
        special_ids={"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4},
        seq_len=32,
        objective="nsp",
        tokenizer_path=folder,
        seed=0,
    )


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_pretrained_folder_whose_index_names_a_pickle(pretrained: Path, mark: Path) -> None:
    torch.save({"bert.x": Bomb(mark)}, pretrained / "evil.bin")
    shutil.move(pretrained / "model.safetensors", pretrained / "other.safetensors")
    for name in ("evil.bin", "../pretrained/other.safetensors", str(pretrained / "other.safetensors"), 7):
        content = {"metadata": {}, "weight_map": {"bert.x": name}}
        (pretrained / "model.safetensors.index.json").write_text(json.dumps(content))
        with pytest.raises(DataError, match="index"):
            load(pretrained)
    assert not mark.exists()


def test_a_pretrained_folder_with_a_pickle_alone(pretrained: Path, mark: Path) -> None:
    (pretrained / "model.safetensors").unlink()
    torch.save({"bert.x": Bomb(mark)}, pretrained / "pytorch_model.bin")
    with pytest.raises(UsageError, match="holds no"):
        load(pretrained)
    shutil.move(pretrained / "pytorch_model.bin", pretrained / "model.safetensors")
    with pytest.raises(DataError, match="cannot be loaded"):
        load(pretrained)
    assert not mark.exists()


def test_a_pretrained_folder_with_code(pretrained: Path, mark: Path) -> None:
    (pretrained / "evil.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    edit_config(pretrained, auto_map={"AutoModelForPreTraining": "evil.Model", "AutoConfig": "evil.Config"})
    edit_config(pretrained, attn_implementation="evil/kernel", _attn_implementation="evil/kernel")
    model = load(pretrained)
    assert not mark.exists()
    assert "evil" not in model.encoder.config.to_json_string()  # type: ignore[union-attr, operator]


def test_a_pretrained_folder_that_leads_elsewhere(pretrained: Path) -> None:
    edit_config(pretrained, quantization_config={"quant_method": "evil"})
    with pytest.raises(UsageError, match="quantization_config"):
        load(pretrained)
    edit_config(pretrained, quantization_config=None)
    (pretrained / "adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}')
    with pytest.raises(UsageError, match="adapter"):
        load(pretrained)


@pytest.mark.parametrize("content", [DEEP, " " * (1 << 21)])
def test_a_pretrained_config_beyond_bounds(pretrained: Path, content: str) -> None:
    (pretrained / "config.json").write_text(content)
    with pytest.raises(UsageError, match=r"model\.pretrained: .*config\.json"):
        load(pretrained)


def test_a_store_with_a_pickle_for_a_tokenizer_or_a_link_in_it(tmp_path: Path, mark: Path) -> None:
    """A pickle is text of no tokenizer; the other lies of a store's manifest are in tests/data/store."""
    store = shutil.copytree(OLD_STORE, tmp_path / "store")
    path = store / "tokenizer" / "tokenizer.json"
    content = pickle.dumps(Bomb(mark))
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"tokenizer\.json has"):
        TokenStore.open(store)
    path.unlink()
    path.symlink_to(OLD_STORE / "tokenizer" / "tokenizer.json")
    with pytest.raises(DataError, match="symbolic link"):
        TokenStore.open(store)
    assert not mark.exists()
