"""Files made to do harm to whoever reads them, of each kind that is read."""

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from pretrain.checkpoint import export_model, read_verified, saved_checkpoints
from pretrain.checkpoint.manifest import sha256_of
from pretrain.data.store import TokenStore
from pretrain.errors import DataError, UsageError
from pretrain.faults.bench import SEQ_LEN, Bench
from pretrain.faults.damage import MANIFEST, ONE, copied
from pretrain.faults.row import Red, Row, Try, expect
from pretrain.faults.small import one_rank
from pretrain.files import sealed
from pretrain.model import ModelOptions, build_model

_HUGE_BYTES = 1 << 40  # sparse, and more than there is memory for
_DEEP = "[" * 100_000 + "]" * 100_000


class Bomb:
    """Whoever unpickles it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


def edit(checkpoint: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Another manifest, under a seal of its own."""
    path = checkpoint / MANIFEST
    content = json.loads(path.read_text(encoding="utf-8"))
    del content["manifest_sha256"]
    change(content)
    path.write_bytes(sealed(json.dumps(content, indent=1).encode()))


def _put(checkpoint: Path, content: bytes) -> None:
    """Another file of rank 0, under a checksum that fits."""
    path = checkpoint / ONE
    path.write_bytes(content)
    edit(checkpoint, lambda m: m["files"][0].update(sha256=sha256_of(path), bytes=len(content)))


def _pickle(checkpoint: Path, mark: Path) -> None:
    _put(checkpoint, pickle.dumps(Bomb(mark)))


def _torch_save(checkpoint: Path, mark: Path) -> None:
    torch.save(Bomb(mark), checkpoint / "saved")
    _put(checkpoint, (checkpoint / "saved").read_bytes())


def _huge_header(checkpoint: Path, mark: Path) -> None:
    _put(checkpoint, (1 << 40).to_bytes(8, "little") + b"{}")


def _file_above(checkpoint: Path, mark: Path) -> None:
    shutil.copy(checkpoint / ONE, checkpoint.parent / ONE)
    edit(checkpoint, lambda m: m["files"][0].update(name=f"../{ONE}"))


def _absolute(checkpoint: Path, mark: Path) -> None:
    edit(checkpoint, lambda m: m["files"][0].update(name=str(checkpoint / ONE)))


def _link(checkpoint: Path, mark: Path) -> None:
    outside = Path(shutil.move(checkpoint / ONE, checkpoint.parent / "outside"))
    (checkpoint / ONE).symlink_to(outside)


def _pipe(checkpoint: Path, mark: Path) -> None:
    """Whoever opens it waits for ever."""
    (checkpoint / ONE).unlink()
    os.mkfifo(checkpoint / ONE)


def _huge_manifest(checkpoint: Path, mark: Path) -> None:
    os.truncate(checkpoint / MANIFEST, _HUGE_BYTES)


def _deep_manifest(checkpoint: Path, mark: Path) -> None:
    (checkpoint / MANIFEST).write_text(_DEEP, encoding="ascii")


def _code(checkpoint: Path, mark: Path) -> None:
    edit(checkpoint, lambda m: m["state"].update(model_class="pipeline"))


def _huge_tensor(checkpoint: Path, mark: Path) -> None:
    edit(checkpoint, lambda m: m["files"][0]["slices"][0].update(numel=1 << 50))


CHECKPOINTS: tuple[tuple[str, Callable[[Path, Path], None]], ...] = (
    ("a pickle", _pickle),
    ("torch.save", _torch_save),
    ("a header of a terabyte", _huge_header),
    ("a name with ../", _file_above),
    ("an absolute name", _absolute),
    ("a symbolic link", _link),
    ("a pipe", _pipe),
    ("a huge manifest", _huge_manifest),
    ("a manifest nested deep", _deep_manifest),
    ("a class of another kind", _code),
    ("a tensor of a petabyte", _huge_tensor),
)


def _tries(bench: Bench) -> Iterator[Try]:
    with one_rank():
        for what, spoil in CHECKPOINTS:
            yield Try(f"checkpoint: {what}", partial(_checkpoint, bench, spoil))
        for what, write in (("a pickle", _pickled_tokenizer), ("a symbolic link", _linked_tokenizer)):
            yield Try(f"store: {what} for a tokenizer", partial(_store, bench, write))
        for what, name in (("above", "../model/other.safetensors"), ("a pickle", "evil.bin")):
            yield Try(f"pretrained folder: an index to {what}", partial(_pretrained, bench, name))


def _refused(act: Callable[[], object], mark: Path) -> str:
    """The message. Raises Red where it is taken, or something of it was run."""
    try:
        act()
    except (DataError, UsageError) as error:
        expect(not mark.exists(), f"its code was run before it was refused: {error}")
        expect(len(str(error)) < 1000, f"a message of {len(str(error))} characters")
        return str(error)
    raise Red("its code was run" if mark.exists() else "it was taken")


def _checkpoint(bench: Bench, spoil: Callable[[Path, Path], None]) -> None:
    run = copied(bench)
    checkpoint, mark, output = saved_checkpoints(run / "checkpoints")[0], run / "it-ran", run / "exported"
    tokenizer = TokenStore.open(bench.store).tokenizer_path
    spoil(checkpoint, mark)
    before = sorted(run.rglob("*"))
    said = _refused(lambda: export_model(checkpoint, tokenizer, output, checksums=True), mark)
    expect(str(checkpoint) in said, f"it is not named: {said}")
    if spoil is not _code:  # whose files are whole: it is the export that would make an object of that class
        said = _refused(lambda: read_verified(checkpoint, True, 0, 1), mark)
        expect(str(checkpoint) in said, f"it is not named: {said}")
    expect(sorted(run.rglob("*")) == before, "something was written")


def _pickled_tokenizer(path: Path, mark: Path) -> None:
    path.write_bytes(pickle.dumps(Bomb(mark)))


def _linked_tokenizer(path: Path, mark: Path) -> None:
    path.rename(mark.with_name("aside"))
    path.symlink_to(mark.with_name("aside"))


def _store(bench: Bench, write: Callable[[Path, Path], None]) -> None:
    folder = bench.new_folder("bad-store")
    store = Path(shutil.copytree(bench.store, folder / "store"))
    write(store / "tokenizer" / "tokenizer.json", folder / "it-ran")
    said = _refused(lambda: TokenStore.open(store), folder / "it-ran")
    expect("tokenizer.json" in said, f"the file is not named: {said}")


def _pretrained(bench: Bench, name: str) -> None:
    folder, checkpoint = bench.new_folder("pretrained"), saved_checkpoints(copied(bench) / "checkpoints")[0]
    store = TokenStore.open(bench.store)
    export_model(checkpoint, store.tokenizer_path, folder / "model")
    for path in (folder / "model").glob("tokenizer*"):
        path.unlink()
    (folder / "model" / "model.safetensors").rename(folder / "model" / "other.safetensors")
    torch.save({"bert.x": Bomb(folder / "it-ran")}, folder / "model" / "evil.bin")
    index = {"metadata": {}, "weight_map": {"bert.x": name}}
    (folder / "model" / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")

    def load() -> None:
        build_model(
            ModelOptions(pretrained=folder / "model"),
            vocab_size=store.vocab_size,
            special_ids=store.special_ids,
            seq_len=SEQ_LEN,
            objective="nsp",
            tokenizer_path=store.tokenizer_path,
            seed=0,
        )

    said = _refused(load, folder / "it-ran")
    expect("index" in said, f"it is not named: {said}")


ROWS = (
    Row(
        "malicious",
        "a pickle, `../`, a link, a pipe, a huge or deep JSON",
        "nothing runs, nothing is written outside, a clear error",
        _tries,
    ),
)
