"""The heads on gathered positions, by the model's own modules.

A full-vocabulary projection of every token is most of a small model's time, while only the masked tokens have
a label. So the hidden states are gathered first and the head that the model already has is applied to those.
"""

from torch import Tensor
from transformers import (
    BertForMaskedLM,
    BertForPreTraining,
    CamembertForMaskedLM,
    ModernBertForMaskedLM,
    PreTrainedModel,
    RobertaForMaskedLM,
    XLMRobertaForMaskedLM,
)

SUPPORTED_MODEL_TYPES = ("bert", "camembert", "modernbert", "roberta", "xlm-roberta")


def mlm_logits(encoder: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Vocabulary logits [n, vocab_size] of hidden states [n, hidden_size] taken at the masked positions."""
    match encoder:
        case BertForPreTraining() | BertForMaskedLM():
            return encoder.cls.predictions(hidden)
        case RobertaForMaskedLM() | CamembertForMaskedLM() | XLMRobertaForMaskedLM():
            return encoder.lm_head(hidden)
        case ModernBertForMaskedLM():
            return encoder.decoder(encoder.head(hidden))
    raise TypeError(f"no masked-language-model head is known for {type(encoder).__name__}")


def has_nsp_head(encoder: PreTrainedModel) -> bool:
    return isinstance(encoder, BertForPreTraining)


def nsp_logits(encoder: PreTrainedModel, hidden: Tensor) -> Tensor:
    """Logits [p, 2] (0 = is next, 1 = random) of hidden states [p, hidden_size] at the [CLS] positions."""
    assert isinstance(encoder, BertForPreTraining) and encoder.bert.pooler is not None
    # The pooler takes the first token of each sequence; here each [CLS] is a sequence of one token.
    pooled = encoder.bert.pooler(hidden.unsqueeze(1))
    return encoder.cls.seq_relationship(pooled)
