"""From a checkpoint to a Hugging Face model folder, in one process, without any engine."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.utils.logging import disable_progress_bar

from pretrain.checkpoint.manifest import MASTER, CheckpointManifest, slice_key
from pretrain.checkpoint.tensors import TensorFile
from pretrain.checkpoint.verify import verify_checkpoint
from pretrain.errors import DataError


def export_model(checkpoint: Path, tokenizer: Path, output: Path) -> None:
    """Writes weights (fp32 safetensors), config and tokenizer; `output` appears whole or not at all.

    Raises:
        DataError: the checkpoint names a class that transformers does not have, or its weights do not fit it.
    """
    manifest = CheckpointManifest.read(checkpoint)
    # The manifest alone may promise any size; what the files hold, fits into memory as it did before.
    for problem in verify_checkpoint(checkpoint, manifest, checksums=False):
        raise DataError(problem)
    model = _empty_model(checkpoint, manifest)
    weights = {name: torch.empty(shape) for name, shape in manifest.parameters.items()}
    for file in manifest.files:
        tensors = TensorFile.open(checkpoint / file.name)
        for piece in file.slices:
            values = tensors.read(slice_key(MASTER, piece.parameter, piece.start), 0, piece.numel)
            weights[piece.parameter].view(-1)[piece.start : piece.start + piece.numel] = values
    unknown = model.load_state_dict(weights, strict=False).unexpected_keys
    absent = {name for name, _ in model.named_parameters()} - weights.keys()
    if unknown or absent:
        raise DataError(
            f"{checkpoint}: parameter {[*unknown, *sorted(absent)][0]} does not fit {type(model).__name__}."
        )
    partial = output.with_name(f".{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    disable_progress_bar()  # a bar for one file would stand in the middle of the run's own lines
    model.save_pretrained(partial)
    shutil.copytree(tokenizer, partial, dirs_exist_ok=True, copy_function=shutil.copyfile)
    if getattr(model.config, "type_vocab_size", 2) < 2:
        _without_token_types(partial / "tokenizer_config.json")
    if output.exists():
        shutil.rmtree(output)
    partial.rename(output)


def _without_token_types(tokenizer_config: Path) -> None:
    """A model with one token type (RoBERTa) must not be given the second of a pair."""
    content = json.loads(tokenizer_config.read_text(encoding="utf-8"))
    names = content.get("model_input_names", ["input_ids", "token_type_ids", "attention_mask"])
    content["model_input_names"] = [name for name in names if name != "token_type_ids"]
    tokenizer_config.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _empty_model(checkpoint: Path, manifest: CheckpointManifest) -> transformers.PreTrainedModel:
    named = getattr(transformers, manifest.state.model_class, None)
    if not isinstance(named, type) or not issubclass(named, transformers.PreTrainedModel):
        raise DataError(f"{checkpoint} names the model class {manifest.state.model_class!r}, which is none.")
    model_class: Any = named
    content = json.loads(manifest.state.model_config_json)
    return model_class(model_class.config_class.from_dict(content))
