"""Models of every supported type that are small enough to compare number by number."""

import json
from pathlib import Path
from typing import Any

from pretrain.model import ModelOptions, PretrainingModel, build_model
from tests.model.packed_rows import SPECIAL_IDS, VOCAB_SIZE

SEQ_LEN = 32
_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "max_position_embeddings": 48,
    "initializer_range": 0.3,  # large, so that attention is far from uniform and a leak is far from small
}
# Layer 1 and 2 of three see two tokens to either side.
_OF_TYPE: dict[str, dict[str, Any]] = {
    "bert": {},
    "camembert": {"type_vocab_size": 1},
    "modernbert": {"local_attention": 4, "global_attn_every_n_layers": 3},
    "roberta": {"type_vocab_size": 1},
    "xlm-roberta": {"type_vocab_size": 1},
}
MODEL_TYPES = tuple(_OF_TYPE)


def config_fields(model_type: str, **changes: Any) -> dict[str, Any]:
    return {"model_type": model_type, **_SIZES, **_OF_TYPE[model_type], **changes}


def write_config(folder: Path, model_type: str, **changes: Any) -> Path:
    path = folder / "config.json"
    path.write_text(json.dumps(config_fields(model_type, **changes)))
    return path


def build(options: ModelOptions, objective: Any = "mlm", **changes: Any) -> PretrainingModel:
    """`build_model` with what the tests do not care about filled in."""
    arguments: dict[str, Any] = {
        "vocab_size": VOCAB_SIZE,
        "special_ids": SPECIAL_IDS,
        "seq_len": SEQ_LEN,
        "objective": objective,
        "tokenizer_path": Path("no-tokenizer"),
        "seed": 0,
    }
    return build_model(options, **(arguments | changes))


def build_tiny(folder: Path, model_type: str, objective: Any = "mlm", **options: Any) -> PretrainingModel:
    path = write_config(folder, model_type)
    return build(ModelOptions(**{"config": path, "dropout": 0.0, **options}), objective)
