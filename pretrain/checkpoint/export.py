"""From a checkpoint to a Hugging Face model folder, in one process, without any engine.

The checkpoint and the tokenizer's folder may come from anywhere: the model is made of classes of transformers alone, no
key of its config may name code, and of the tokenizer's folder only a tokenizer's own files are taken.
"""

import errno
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.utils.logging import disable_progress_bar

from pretrain.checkpoint.manifest import MASTER, CheckpointManifest, slice_key
from pretrain.checkpoint.tensors import TensorFile
from pretrain.checkpoint.verify import verify_checkpoint
from pretrain.disk import free_bytes, refusal, sync
from pretrain.errors import DataError, PretrainError, UsageError
from pretrain.files import json_object, kind_problem, read_bounded
from pretrain.model.configs import without_code
from pretrain.model.heads import SUPPORTED_MODEL_TYPES

# Whatever else lies in a tokenizer's folder - a config, weights, a program - is no part of it.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
MAX_TOKENIZER_CONFIG_BYTES = 1 << 24
# What transformers raises for sizes that do not divide, an activation that does not exist, a text where a number goes.
NOT_BUILDABLE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)


def export_model(checkpoint: Path, tokenizer: Path, output: Path, checksums: bool = False) -> None:
    """Writes weights (fp32 safetensors), config and tokenizer; `output` appears whole or not at all.

    Raises:
        DataError: the checkpoint is damaged (contents are looked at with `checksums` only), names a class that cannot
            be, its weights do not fit it, or the tokenizer's files are none.
        UsageError: the tokenizer's folder has no tokenizer.
        PretrainError: there is no room for it.
    """
    manifest = CheckpointManifest.read(checkpoint)
    # A manifest may promise any size; what the files hold, fits into memory.
    for problem in verify_checkpoint(checkpoint, manifest, checksums=checksums):
        raise DataError(problem)
    model = _empty_model(checkpoint, manifest)
    weights = {name: torch.empty(shape) for name, shape in manifest.parameters.items()}
    for file in manifest.files:
        tensors = TensorFile.open(checkpoint / file.name)
        for piece in file.slices:
            values = tensors.read(slice_key(MASTER, piece.parameter, piece.start), 0, piece.numel)
            weights[piece.parameter].view(-1)[piece.start : piece.start + piece.numel] = values
    model.load_state_dict(weights, strict=False)
    files = _tokenizer_files(tokenizer)
    with _appearing_whole(output, 4 * sum(weight.numel() for weight in weights.values())) as partial:
        disable_progress_bar()  # a bar for one file would stand in the middle of the run's own lines
        model.save_pretrained(partial)
        for path in files:
            shutil.copyfile(path, partial / path.name)
        _make_safe(partial / "tokenizer_config.json", getattr(model.config, "type_vocab_size", 2))


@contextmanager
def _appearing_whole(output: Path, needed: int) -> Iterator[Path]:
    """A hidden folder that gets its name at the end, and goes if anything fails. Raises PretrainError where fewer than
    `needed` bytes are free or something cannot be written."""
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)  # fails where a link of that name leads elsewhere
        if free_bytes(partial) < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(partial))
        yield partial
        for path in (*partial.iterdir(), partial):
            sync(path)
        if output.exists():
            shutil.rmtree(output)
        partial.rename(output)
        sync(output.parent)
    except (OSError, SafetensorError) as error:
        said = refusal(error, partial, needed) if isinstance(error, OSError) else f"{partial}: {error}"
        raise PretrainError(
            f"{output} could not be written ({said}); the checkpoint is whole: free space or choose another folder, "
            "and try again."
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _tokenizer_files(folder: Path) -> list[Path]:
    found = [
        folder / name for name in TOKENIZER_FILES if (folder / name).is_symlink() or (folder / name).exists()
    ]
    if not found:
        raise UsageError(f"{folder} holds no tokenizer: give the folder of a Hugging Face tokenizer.")
    for path in found:
        problem = kind_problem(str(path), stat.S_ISREG, "regular file")
        if problem is not None:
            raise DataError(problem)
    return found


def _make_safe(tokenizer_config: Path, num_token_types: int) -> None:
    """No code is named, and a model with one token type (RoBERTa) is not given the second of a pair."""
    if not tokenizer_config.exists():
        return
    try:
        content = json_object(read_bounded(tokenizer_config, MAX_TOKENIZER_CONFIG_BYTES))
    except ValueError as error:
        raise DataError(f"The tokenizer's tokenizer_config.json is not valid JSON: {error}.") from None
    safe = without_code(content)
    if num_token_types < 2:
        names = content.get("model_input_names", ["input_ids", "token_type_ids", "attention_mask"])
        safe["model_input_names"] = [name for name in names if name != "token_type_ids"]
    if safe != content:
        text = json.dumps(safe, indent=2, ensure_ascii=False) + "\n"
        tokenizer_config.write_text(text, encoding="utf-8")


def _empty_model(checkpoint: Path, manifest: CheckpointManifest) -> transformers.PreTrainedModel:
    """The model that the manifest names, with weights of the shapes that the checkpoint has."""
    state = manifest.state
    named = getattr(transformers, state.model_class, None)
    if not isinstance(named, type) or not issubclass(named, transformers.PreTrainedModel):
        raise DataError(f"{checkpoint} names the model class {state.model_class!r}, which is none.")
    model_class: Any = named
    if getattr(model_class.config_class, "model_type", None) not in SUPPORTED_MODEL_TYPES:
        raise DataError(
            f"{checkpoint} names the model class {state.model_class!r}, which is not trained here."
        )
    try:
        content = without_code(json_object(state.model_config_json.encode()))
        config = model_class.config_class.from_dict(content)
        with torch.device("meta"):  # sizes are compared before there is memory for them
            shapes = {name: list(each.shape) for name, each in model_class(config).named_parameters()}
        for name in sorted(shapes.keys() | manifest.parameters.keys()):
            if shapes.get(name) != manifest.parameters.get(name):
                raise DataError(f"{checkpoint}: parameter {name} does not fit {state.model_class}.")
        return model_class(config)
    except (*NOT_BUILDABLE, StrictDataclassError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"{checkpoint}: no {state.model_class} can be made of its config: {reason}") from None
