"""From the `model` section of a recipe to a `PretrainingModel`, fp32, on the CPU.

1. exactly one of preset, config JSON or pretrained folder says what the model is;
2. its config is made to fit the token store, or refused (`configs`);
3. the Hugging Face model is built - BertForPreTraining where the objective has sentence pairs, else the model
   with an MLM head only, so that every parameter gets a gradient - from the seed, leaving the global
   generator as it was;
4. what is not to be trained is frozen (`frozen`), and activation checkpointing is switched on for the layers that
   are asked for.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForMaskedLM, AutoModelForPreTraining, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from pretrain.errors import DataError, UsageError
from pretrain.files import json_object, read_bounded
from pretrain.model import configs
from pretrain.model.attention import PACKED, register_packed_attention
from pretrain.model.dropout import use_dropout
from pretrain.model.encoder import PretrainingModel
from pretrain.model.frozen import freeze
from pretrain.model.presets import Preset
from pretrain.rng import key as random_key

Objective = Literal["nsp", "sop", "mlm"]
_MAX_INDEX_BYTES = 1 << 26
AutoModelClass = type[AutoModelForMaskedLM] | type[AutoModelForPreTraining]


@dataclass(frozen=True)
class ModelOptions:
    """The `model` section of a recipe, `train.activation_checkpointing` (k: every k-th layer) and
    `train.label_smoothing`."""

    preset: str | Preset | None = None  # a name, or sizes that have none
    config: Path | str | None = None
    pretrained: Path | str | None = None
    dropout: float | None = None
    attention_dropout: float | None = None
    frozen: Sequence[str] = ()  # patterns over parameter names
    activation_checkpointing: Literal["none", "full"] | int = "none"
    label_smoothing: float = 0.0


def build_model(
    options: ModelOptions,
    *,
    vocab_size: int,
    special_ids: Mapping[str, int],
    seq_len: int,
    objective: Objective,
    tokenizer_path: Path,
    seed: int,
    on_meta: bool = False,
) -> PretrainingModel:
    """The model to train, in fp32 on the CPU; the same seed gives the same weights. `on_meta`: its shapes alone, on
    torch's meta device, without reading or drawing a weight.

    `vocab_size`, `special_ids` (pad, unk, cls, sep, mask) and `tokenizer_path` (a Hugging Face tokenizer
    folder) are the token store's. Raises UsageError where options, store and objective do not fit together,
    DataError where pretrained weights are damaged.
    """
    register_packed_attention()
    auto_model = AutoModelForMaskedLM if objective == "mlm" else AutoModelForPreTraining
    with _quiet_transformers():
        key, config = _config(options, vocab_size, special_ids, tokenizer_path)
        configs.check_positions(config, key, seq_len)
        if objective != "mlm" and config.model_type != "bert":
            raise UsageError(
                f"data.objective: {objective!r} needs a next-sentence head, which the model type "
                f"{config.model_type!r} of {key} has not; take a model of type 'bert' or the objective 'mlm'."
            )
        configs.set_dropout(config, options.dropout, options.attention_dropout)
        with _seeded(random_key(seed, "model")), torch.device("meta") if on_meta else nullcontext():
            if options.pretrained is not None and not on_meta:
                encoder = _load(auto_model, Path(options.pretrained), config)
            else:
                encoder = _initialise(auto_model, config, key)
    use_dropout(encoder)
    freeze(encoder, options.frozen)
    model = PretrainingModel(encoder, options.label_smoothing)
    _checkpoint_activations(model, options.activation_checkpointing)
    return model


def _config(
    options: ModelOptions, vocab_size: int, special_ids: Mapping[str, int], tokenizer_path: Path
) -> tuple[str, PreTrainedConfig]:
    """The recipe key that names the model, and its config fitted to the store."""
    named = {
        "model.preset": options.preset,
        "model.config": options.config,
        "model.pretrained": options.pretrained,
    }
    given = [key for key, value in named.items() if value is not None]
    if len(given) != 1:
        found = " and ".join(given) + " are all set" if given else "no model is named"
        raise UsageError(f"{found}; set exactly one of {', '.join(named)}.")
    if options.pretrained is not None:
        folder = Path(options.pretrained)
        if not folder.is_dir():
            raise UsageError(
                f"model.pretrained: {folder} is not a folder; give that of a Hugging Face model."
            )
        config = configs.config_from_json(folder / "config.json", "model.pretrained", vocab_size)
        configs.check_vocabulary(config, "model.pretrained", vocab_size)
        configs.check_tokenizer(folder, tokenizer_path, "model.pretrained")
        configs.check_pad_token(config, "model.pretrained", special_ids["pad"])
        return "model.pretrained", config
    if options.config is not None:
        config = configs.config_from_json(Path(options.config), "model.config", vocab_size)
        configs.check_vocabulary(config, "model.config", vocab_size)
    else:
        assert options.preset is not None
        config = configs.config_from_preset(options.preset, vocab_size)
    configs.fit_special_ids(config, special_ids)
    return given[0], config


def _initialise(auto_model: AutoModelClass, config: PreTrainedConfig, key: str) -> PreTrainedModel:
    try:
        return auto_model.from_config(
            config, attn_implementation=PACKED, dtype=torch.float32, trust_remote_code=False
        )
    except (ArithmeticError, AssertionError, LookupError, RuntimeError, TypeError, ValueError) as error:
        # sizes that do not divide, an activation that does not exist, a probability above 1, ...
        reason = " ".join(str(error).split())
        raise UsageError(f"{key}: no model can be made of this config: {reason}") from error


def _load(auto_model: AutoModelClass, folder: Path, config: PreTrainedConfig) -> PreTrainedModel:
    """Weights from safetensors only: a pickle can run code. A head that the folder lacks starts anew."""
    if not any(folder.glob("*.safetensors")):
        raise UsageError(
            f"model.pretrained: {folder} holds no *.safetensors file; save the model again with "
            f"save_pretrained, which writes one."
        )
    _refuse_other_weights(folder)
    try:
        encoder, report = auto_model.from_pretrained(
            folder,
            config=config,
            attn_implementation=PACKED,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, SafetensorError, RuntimeError, ValueError) as error:
        raise DataError(
            f"model.pretrained: the weights in {folder} cannot be loaded: {' '.join(str(error).split())}"
        ) from error
    trunk = f"{encoder.base_model_prefix}."
    missing = sorted(
        name for name in report["missing_keys"] if name.startswith(trunk) and ".pooler." not in name
    )
    if missing:
        raise DataError(
            f"model.pretrained: {folder} lacks the weights of {len(missing)} parameters of the encoder, "
            f"{missing[0]} first; is it a whole model of type {config.model_type!r}?"
        )
    return encoder


def _refuse_other_weights(folder: Path) -> None:
    """transformers would follow an index to any file, a pickle too, and an adapter to any other model."""
    if (folder / "adapter_config.json").exists():
        raise UsageError(
            f"model.pretrained: {folder} holds an adapter (adapter_config.json); merge it into its model and save that."
        )
    for path in folder.glob("*.safetensors.index.json"):
        try:
            named = json_object(read_bounded(path.resolve(), _MAX_INDEX_BYTES)).get("weight_map", {}).values()
            wrong = [name for name in named if name != Path(name).name or not name.endswith(".safetensors")]
        except (OSError, ValueError, TypeError, AttributeError) as error:
            raise DataError(f"model.pretrained: {path} is no index of weights: {error}.") from None
        if wrong:
            raise DataError(
                f"model.pretrained: {path} names {wrong[0]!r}, which is no safetensors file of that folder; save the "
                "model again with save_pretrained."
            )


def recomputed_layers(choice: Literal["none", "full"] | int, num_layers: int) -> range:
    """Which layers the backward pass computes again: none, all, or every k-th from the first.

    Raises UsageError for another choice.
    """
    if choice == "none":
        return range(0)
    every = 1 if choice == "full" else choice
    if isinstance(every, str | bool) or every < 1:
        raise UsageError(
            f"train.activation_checkpointing: {choice!r} is none of 'none', 'full' and a whole number from 1."
        )
    return range(0, num_layers, every)


def _checkpoint_activations(model: PretrainingModel, choice: Literal["none", "full"] | int) -> None:
    """Recompute every k-th layer in the backward pass, by the flags of the layers themselves: the parameters
    keep their names, and the hooks of an engine stay outside what is recomputed."""
    recomputed = recomputed_layers(choice, len(model.blocks()))
    if choice == "none":
        return
    for index, block in enumerate(model.blocks()):
        block.gradient_checkpointing = index in recomputed
        block._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)  # type: ignore[assignment]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draws on the CPU come from `seed`; afterwards its generator is as it was before."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bar and no notes about unused heads on the terminal, which belongs to the run."""
    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
