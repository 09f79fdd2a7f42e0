"""What is computed in the equality tests: model, samples, batch, learning rate. How is `cells`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import torch.distributed as dist

from pretrain.data.options import SamplingOptions
from pretrain.data.store import TokenStore
from pretrain.model import ModelOptions, PretrainingModel, build_model

OptimizerName = Literal["lamb", "adamw"]

GLOBAL_BATCH = 16
WEIGHT_DECAY, MAX_GRAD_NORM = 0.01, 1.5
BETA1, BETA2, EPS = 0.9, 0.999, 1e-6
PEAK_LR = MappingProxyType({"lamb": 0.02, "adamw": 0.004})
SEED = 11
_SAMPLING = SamplingOptions(
    seq_len=48, objective="nsp", packing=False, short_sample_probability=0.4, window_blocks=2
)
# No size is a multiple of another, so that cuts fall inside rows and ranks get unequal pieces.
MODEL_CONFIG = {
    "model_type": "bert",
    "hidden_size": 38,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 51,
    "max_position_embeddings": 50,
    "initializer_range": 0.1,
}


@dataclass(frozen=True)
class Setting:
    """What changes the course, so that each has a judge of its own."""

    optimizer: OptimizerName
    packing: bool
    steps: int
    frozen: tuple[str, ...] = ()

    @property
    def sampling(self) -> SamplingOptions:
        return replace(_SAMPLING, packing=self.packing)

    @property
    def warmup_steps(self) -> int:
        return self.steps // 4

    @property
    def peak_lr(self) -> float:
        return PEAK_LR[self.optimizer]

    def __str__(self) -> str:
        return f"{self.optimizer}, {'packed' if self.packing else 'padded'}"


def make_model(
    store: TokenStore,
    folder: Path,
    checkpointing: Literal["none", "full"] | int = "none",
    frozen: tuple[str, ...] = (),
) -> PretrainingModel:
    config = folder / f"model-{dist.get_rank() if dist.is_initialized() else 'plain'}.json"
    config.write_text(json.dumps(MODEL_CONFIG))
    return build_model(
        ModelOptions(config=config, dropout=0.0, activation_checkpointing=checkpointing, frozen=frozen),
        vocab_size=store.vocab_size,
        special_ids=store.special_ids,
        seq_len=_SAMPLING.seq_len,
        objective="nsp",
        tokenizer_path=store.tokenizer_path,
        seed=SEED,
    )
