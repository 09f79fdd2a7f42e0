"""From a preset, a config JSON or a pretrained folder to a Hugging Face config that fits the token store.

A model that starts from nothing takes its vocabulary size (where the config names none) and its special ids
from the store. A pretrained one must already agree with the store. Whatever would change the model in
silence - a misspelt key, a decoder, relative positions that this version of `transformers` no longer has - is
refused by key.
"""

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from tokenizers import Tokenizer
from transformers import AutoConfig, PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

from pretrain.errors import DataError, UsageError
from pretrain.files import read_bounded
from pretrain.model.heads import SUPPORTED_MODEL_TYPES
from pretrain.model.presets import PRESETS, Preset, preset_config

_ATTENTION_DROPOUT_KEYS = ("attention_probs_dropout_prob", "attention_dropout")
_DROPOUT_KEYS = (*_ATTENTION_DROPOUT_KEYS, "hidden_dropout_prob", "embedding_dropout", "mlp_dropout")
# Keys that mean nothing to an encoder unless they hold another value than this one.
_ONLY_VALUE = {
    "is_decoder": False,
    "add_cross_attention": False,
    "position_embedding_type": "absolute",
    "quantization_config": None,
}
# Keys by which a config names code to load, from its folder or the Hub: never followed, and never passed on.
_NAME_CODE = frozenset(
    {
        "auto_map",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
        "kernel_config",
        "custom_generate",
    }
)
_MAX_CONFIG_BYTES = 1 << 20
_MAX_TOKENIZER_BYTES = 1 << 28
# Above this similarity an unknown key is taken for a misspelt one; old configs carry harmless unknown keys.
_MISSPELT = 0.85


def config_from_preset(preset: str | Preset, vocab_size: int) -> PreTrainedConfig:
    """By its name in the recipe, or by its sizes."""
    if isinstance(preset, str) and preset not in PRESETS:
        nearest = difflib.get_close_matches(preset, PRESETS, n=1, cutoff=0.0)[0]
        raise UsageError(
            f"model.preset: there is no preset {preset!r}; did you mean {nearest!r}? "
            f"(the presets are {', '.join(PRESETS)})"
        )
    return preset_config(preset, vocab_size)


def config_from_json(path: Path, key: str, vocab_size: int) -> PreTrainedConfig:
    """The config in a Hugging Face config JSON; `key` is the recipe key that named it, for the messages."""
    fields = _read_json_object(path, key)
    model_type = str(fields.pop("model_type", None))
    if model_type not in SUPPORTED_MODEL_TYPES:
        problem = "not supported" if model_type in CONFIG_MAPPING_NAMES else "unknown"
        known = ", ".join(SUPPORTED_MODEL_TYPES)
        raise UsageError(f"{key}: {path}: the model_type {model_type!r} is {problem}; use one of {known}.")
    for name, value in _ONLY_VALUE.items():
        if fields.get(name, value) != value:
            raise UsageError(
                f"{key}: {path}: {name} = {fields[name]!r} cannot be trained here; set it to {value!r}."
            )
    fields.setdefault("vocab_size", vocab_size)
    _refuse_misspelt_keys(fields, model_type, path, key)
    try:
        return AutoConfig.for_model(model_type, **fields)
    except (StrictDataclassError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{key}: {path} is not a valid {model_type} config: {reason}") from error


def without_code(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The config without keys that name code."""
    return {name: value for name, value in fields.items() if name not in _NAME_CODE}


def _read_json_object(path: Path, key: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_CONFIG_BYTES:
            raise UsageError(f"{key}: {path} has over {_MAX_CONFIG_BYTES} bytes; name a config JSON.")
        fields = json.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(f"{key}: cannot read {path} ({error.strerror}); name a config JSON.") from error
    except (ValueError, RecursionError) as error:  # broken JSON, invalid UTF-8, nested too deep
        raise UsageError(f"{key}: {path} is not valid JSON: {error}.") from error
    if not isinstance(fields, dict):
        raise UsageError(f"{key}: {path} must hold a JSON object, not a {type(fields).__name__}.")
    return without_code(fields)


def _refuse_misspelt_keys(fields: Mapping[str, Any], model_type: str, path: Path, key: str) -> None:
    known = set(AutoConfig.for_model(model_type).to_dict()) | set(_DROPOUT_KEYS) | set(_ONLY_VALUE)
    for name in fields:
        near = [] if name in known else difflib.get_close_matches(name, known, n=1, cutoff=_MISSPELT)
        if near and near[0] not in fields:
            raise UsageError(f"{key}: {path}: unknown key {name!r}; did you mean {near[0]!r}?")


def fit_special_ids(config: PreTrainedConfig, special_ids: Mapping[str, int]) -> None:
    """Take the special ids from the store: the padding id has an embedding that never learns, and RoBERTa
    counts positions from it, so a wrong one would be wrong in silence."""
    config.pad_token_id = special_ids["pad"]
    for name, special in (
        ("bos_token_id", "cls"),
        ("cls_token_id", "cls"),
        ("eos_token_id", "sep"),
        ("sep_token_id", "sep"),
    ):
        if getattr(config, name, None) is not None:
            setattr(config, name, special_ids[special])


def check_vocabulary(config: PreTrainedConfig, key: str, vocab_size: int) -> None:
    if config.vocab_size != vocab_size:
        raise UsageError(
            f"{key}: the model has a vocabulary of {config.vocab_size} tokens and the token store one of "
            f"{vocab_size}; they must be the same."
        )


def check_tokenizer(folder: Path, tokenizer_path: Path, key: str) -> None:
    """The pretrained folder's tokenizer, where it has one, must give every token the id of the store."""
    ours, theirs = tokenizer_path / "tokenizer.json", folder / "tokenizer.json"
    if not (ours.exists() and theirs.exists()):
        return
    store, model = (_vocabulary(path) for path in (ours, theirs))
    if differing := sorted(set(store.items()) ^ set(model.items()), key=lambda item: (item[1], item[0])):
        token = differing[0][0]
        raise UsageError(
            f"{key}: the tokenizer in {folder} is not the one of the token store ({token!r} has the id "
            f"{model.get(token)} there and {store.get(token)} in the store); build the store with this one."
        )


def _vocabulary(path: Path) -> dict[str, int]:
    try:
        # The Hub's cache consists of links.
        content = read_bounded(path.resolve(), _MAX_TOKENIZER_BYTES)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    try:
        return Tokenizer.from_str(content.decode("utf-8")).get_vocab()
    except Exception as error:  # the library raises nothing more exact
        raise DataError(f"{path} is nothing that the tokenizers library reads: {error}.") from None


def check_pad_token(config: PreTrainedConfig, key: str, pad_id: int) -> None:
    if config.pad_token_id != pad_id:
        raise UsageError(
            f"{key}: the padding token is {config.pad_token_id} in the model and {pad_id} in the store; "
            f"build the store with the model's tokenizer."
        )


def set_dropout(config: PreTrainedConfig, dropout: float | None, attention_dropout: float | None) -> None:
    """One probability for embeddings, attention and feed-forward, and perhaps another for attention's own, under
    whatever names the model has; None: as it is."""
    for key, names, value in (
        ("dropout", _DROPOUT_KEYS, dropout),
        ("attention_dropout", _ATTENTION_DROPOUT_KEYS, attention_dropout),
    ):
        if value is None:
            continue
        if not 0.0 <= value < 1.0:
            raise UsageError(f"model.{key}: {value} is not a probability below 1.")
        for name in names:
            if hasattr(config, name):
                setattr(config, name, value)


def first_position(config: PreTrainedConfig) -> int:
    """The position id of a sample's first token: RoBERTa and its kin keep 0 .. pad_token_id for padding."""
    if config.model_type in ("roberta", "camembert", "xlm-roberta"):
        return int(config.pad_token_id) + 1
    return 0


def check_positions(config: PreTrainedConfig, key: str, seq_len: int) -> None:
    positions = config.max_position_embeddings - first_position(config)
    if seq_len > positions:
        raise UsageError(
            f"data.seq_len: {seq_len} is over the {positions} positions of the model named by {key}; "
            f"lower it or take a model with more positions."
        )
