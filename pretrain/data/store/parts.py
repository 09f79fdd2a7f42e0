"""One store out of several, built apart: each part is a finished store in a direct subfolder of the whole.

1. the parts' manifests are read and must agree on all that a reader takes for granted (`_check_agreement`);
2. report.json and a copy of the tokenizer are written beside them;
3. manifest.json comes last: it lists every file of every part with its checksum, the shards under their parts'
   names, the blocks in the order of the parts.

No token is read or moved. Before step 3 the folder is no store; a merge that was killed is run again.
"""

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pretrain.data.store.files import fsync_file, fsync_folder, name_problem, write_atomically
from pretrain.data.store.manifest import (
    MANIFEST_NAME,
    REPORT_NAME,
    SPLITS,
    TOKENIZER_FOLDER,
    VERSION,
    FileEntry,
    Manifest,
    ShardEntry,
    SplitEntry,
    entry_of,
)
from pretrain.data.store.reader import TokenStore
from pretrain.data.store.writer import report_bytes
from pretrain.errors import DataError, UsageError

_HIDDEN_TOKENIZER = ".tokenizer.tmp"


def merge_parts(output: Path, parts: Sequence[Path], report: dict[str, Any]) -> Manifest:
    """Make `output` the store of `parts`, in this order; returns its manifest.

    Raises UsageError where the parts do not belong together, are not subfolders of `output`, or `output` is a
    store already; DataError where one is damaged. Nothing is written before all of that is checked.
    """
    _check_places(output, parts)
    manifests = {part.name: TokenStore.open(part).manifest for part in parts}
    _check_agreement(manifests)
    content = report_bytes(report)
    files = {REPORT_NAME: entry_of(content)}
    for part in parts:
        files |= {f"{part.name}/{name}": entry for name, entry in _all_files(part, manifests[part.name])}
    first = manifests[parts[0].name]
    tokenizer = [name for name in first.files if name.startswith(f"{TOKENIZER_FOLDER}/")]
    files |= {name: first.files[name] for name in tokenizer}
    whole = Manifest(
        token_dtype=first.token_dtype,
        vocab_size=first.vocab_size,
        special_ids=first.special_ids,
        all_special_ids=first.all_special_ids,
        tokenizer_sha256=first.tokenizer_sha256,
        block_tokens=first.block_tokens,
        splits={split: SplitEntry.of(tuple(_shards(manifests, split))) for split in SPLITS},
        files=files,
    )
    _copy_tokenizer(parts[0], output, {name: first.files[name] for name in tokenizer})
    write_atomically(output / REPORT_NAME, content)
    whole.write(output / MANIFEST_NAME)
    return whole


def _check_places(output: Path, parts: Sequence[Path]) -> None:
    if not parts:
        raise UsageError(f"There are no parts to merge in {output}.")
    if (output / MANIFEST_NAME).exists():
        raise UsageError(f"{output} is a token store already; its parts are merged.")
    names = [part.name for part in parts]
    for part in parts:
        if part.parent.absolute() != output.absolute() or name_problem(part.name) is not None:
            raise UsageError(
                f"{part} is not a folder in {output}; a part lies directly in the store's folder."
            )
        if part.is_symlink():
            raise UsageError(
                f"{part} is a symbolic link; a store's files lie in its own folder: move it there."
            )
        if names.count(part.name) > 1 or part.name == TOKENIZER_FOLDER:
            raise UsageError(f"{part} cannot be a part of {output}: its name is taken.")


def _check_agreement(manifests: dict[str, Manifest]) -> None:
    """Whatever a reader takes from the first part must be true of all."""
    (first_name, first), *others = manifests.items()
    for name, manifest in manifests.items():
        if manifest.version != VERSION:
            raise UsageError(f"{name} is a store of version {manifest.version}: build that part again.")
    for name, other in others:
        for (key, before), (_, now) in zip(_agreed(first), _agreed(other), strict=True):
            if before != now:
                raise UsageError(
                    f"The parts do not belong together: {key} is {before} in {first_name} and {now} in {name}; "
                    "build all parts with the same tokenizer and options."
                )


def _agreed(manifest: Manifest) -> Iterator[tuple[str, object]]:
    """What all parts must have in common, with its name in the manifest."""
    yield "token_dtype", manifest.token_dtype
    yield "vocab_size", manifest.vocab_size
    for role, token_id in manifest.special_ids.model_dump().items():
        yield f"special_ids.{role}", token_id
    yield "all_special_ids", list(manifest.all_special_ids)
    yield "tokenizer_sha256", manifest.tokenizer_sha256
    yield "block_tokens", manifest.block_tokens


def _all_files(part: Path, manifest: Manifest) -> Iterator[tuple[str, FileEntry]]:
    yield from manifest.files.items()
    yield MANIFEST_NAME, entry_of((part / MANIFEST_NAME).read_bytes())


def _shards(manifests: dict[str, Manifest], split: str) -> Iterator[ShardEntry]:
    for name, manifest in manifests.items():
        for shard in manifest.splits[split].shards:
            yield shard.model_copy(update={"name": f"{name}/{shard.name}"})


def _copy_tokenizer(part: Path, output: Path, files: dict[str, FileEntry]) -> None:
    """The part's tokenizer as the whole's, under its name only once it is complete."""
    hidden, target = output / _HIDDEN_TOKENIZER, output / TOKENIZER_FOLDER
    for leftover in (hidden, target):
        if leftover.exists():
            shutil.rmtree(leftover)
    for name, entry in files.items():
        content = (part / name).read_bytes()
        if entry_of(content) != entry:
            raise DataError(
                f"{part / name} has changed: its sha256 is not the manifest's; build the part again."
            )
        path = hidden / Path(name).relative_to(TOKENIZER_FOLDER)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        fsync_file(path)
    fsync_folder(hidden)
    hidden.rename(target)
    fsync_folder(output)
