"""BERT in the sizes of the literature: base and large (Devlin et al. 2018, arXiv 1810.04805) and the smaller
ones (Turc et al. 2019, arXiv 1908.08962). Heads are 64 wide; the feed-forward layer is four times the width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from transformers import BertConfig

_HEAD_SIZE = 64


@dataclass(frozen=True)
class Preset:
    """The sizes of a BERT."""

    num_layers: int
    hidden_size: int
    num_positions: int = 512


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "bert-tiny": Preset(num_layers=2, hidden_size=128),
        "bert-mini": Preset(num_layers=4, hidden_size=256),
        "bert-small": Preset(num_layers=4, hidden_size=512),
        "bert-medium": Preset(num_layers=8, hidden_size=512),
        "bert-base": Preset(num_layers=12, hidden_size=768),
        "bert-large": Preset(num_layers=24, hidden_size=1024),
    }
)


def preset_config(preset: str | Preset, vocab_size: int) -> BertConfig:
    """The Hugging Face config of a preset, by its name or its sizes; all else is BERT's default."""
    preset = PRESETS[preset] if isinstance(preset, str) else preset
    return BertConfig(
        vocab_size=vocab_size,
        hidden_size=preset.hidden_size,
        num_hidden_layers=preset.num_layers,
        num_attention_heads=preset.hidden_size // _HEAD_SIZE,
        intermediate_size=4 * preset.hidden_size,
        max_position_embeddings=preset.num_positions,
    )
