"""Counts against the closed form of a BERT, and against the numbers that are published."""

from pathlib import Path

import pytest

from pretrain.model import ModelOptions, PretrainingModel
from pretrain.model.build import build_model
from pretrain.plan.parameters import Shapes, count_parameters

VOCAB_SIZE = 30_522
# Of BertForPreTraining in transformers, with the vocabulary of bert-base-uncased.
PUBLISHED = {"bert-base": (768, 12, 110_106_428), "bert-large": (1024, 24, 336_226_108)}


def build(preset: str, frozen: tuple[str, ...] = ()) -> PretrainingModel:
    return build_model(
        ModelOptions(preset=preset, frozen=frozen),
        vocab_size=VOCAB_SIZE,
        special_ids={"pad": 0, "unk": 100, "cls": 101, "sep": 102, "mask": 103},
        seq_len=512,
        objective="nsp",
        tokenizer_path=Path("nowhere"),
        seed=0,
        on_meta=True,
    )


@pytest.mark.parametrize("preset", PUBLISHED)
def test_counts_of_a_bert(preset: str) -> None:
    width, layers, published = PUBLISHED[preset]
    normalization, square = 2 * width, width * width + width
    embeddings = (VOCAB_SIZE + 512 + 2) * width + normalization
    feed_forward = (4 * width * width + 4 * width) + (4 * width * width + width)
    encoder = layers * (4 * square + feed_forward + 2 * normalization)
    pooler_and_nsp, mlm = square + 2 * width + 2, square + normalization + VOCAB_SIZE
    model = build(preset)
    counts = count_parameters(model)
    assert [part.numel for part in counts.parts] == [embeddings, encoder, pooler_and_nsp + mlm]
    assert counts.numel == counts.trained == published
    shapes = Shapes.of(model)
    assert shapes.numel == published and shapes.rest_numel == embeddings + pooler_and_nsp + mlm
    assert shapes.rest_trained_numel == shapes.rest_numel
    assert shapes.layer_numels == (encoder // layers,) * layers


def test_frozen_parameters_are_told_apart() -> None:
    model = build("bert-tiny", frozen=("bert.embeddings.*", "bert.encoder.layer.0.*"))
    embeddings, encoder, heads = count_parameters(model).parts
    assert embeddings.trained == 0 and encoder.trained == encoder.numel // 2 and heads.trained == heads.numel
    shapes = Shapes.of(model)
    assert shapes.frozen_numel == embeddings.numel + encoder.numel // 2
    assert shapes.rest_trained_numel == shapes.rest_numel - embeddings.numel
