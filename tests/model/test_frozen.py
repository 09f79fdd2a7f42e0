"""Which parameters a pattern freezes, and what is said of one that freezes none."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pretrain.errors import UsageError
from pretrain.model import PretrainingModel
from tests.model.packed_rows import lay_out, make_samples
from tests.model.tiny_models import SEQ_LEN, build_tiny

WORDS = "bert.embeddings.word_embeddings.weight"


def frozen(model: PretrainingModel) -> list[str]:
    return [name for name, parameter in model.encoder.named_parameters() if not parameter.requires_grad]


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        ([], []),
        (["bert.pooler.*"], ["bert.pooler.dense.weight", "bert.pooler.dense.bias"]),
        (
            ["bert.encoder.layer.[02].attention.self.key.bias"],
            [f"bert.encoder.layer.{i}.attention.self.key.bias" for i in (0, 2)],
        ),
        (["cls.predictions.bias", WORDS], [WORDS, "cls.predictions.bias"]),
    ],
)
def test_patterns_are_those_of_a_shell(tmp_path: Path, patterns: list[str], expected: list[str]) -> None:
    assert frozen(build_tiny(tmp_path, "bert", "nsp", frozen=patterns)) == expected


def test_a_head_does_not_take_the_embeddings_with_it(tmp_path: Path) -> None:
    """Its matrix is theirs, and has their name."""
    found = frozen(build_tiny(tmp_path, "bert", "nsp", frozen=["cls.*"]))
    assert WORDS not in found and "cls.predictions.bias" in found
    with pytest.raises(
        UsageError, match=rf"cls.predictions.decoder.weight is tied to {WORDS}, so give that name\."
    ):
        build_tiny(tmp_path, "bert", "nsp", frozen=["cls.predictions.decoder.weight"])


@pytest.mark.parametrize(
    ("pattern", "nearest"),
    [
        ("bert.embeddings", r"bert\.embeddings\.\*"),
        ("bert.encoder.layers.0.*", r"bert\.encoder\.layer\.0\.\*"),
        ("BERT.pooler.dense.bias", r"bert\.pooler\.dense\.bias"),
    ],
)
def test_one_that_matches_nothing_gets_the_nearest_names(tmp_path: Path, pattern: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=rf"model\.frozen: no parameter's name matches .*{nearest}") as error:
        build_tiny(tmp_path, "bert", "nsp", frozen=["bert.pooler.*", pattern])
    assert error.value.exit_code == 2


def test_something_is_left_to_train(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="leave something to train"):
        build_tiny(tmp_path, "bert", "nsp", frozen=["*"])


@pytest.mark.parametrize("choice", ["none", "full"])
@pytest.mark.parametrize(
    ("model_type", "objective"), [("bert", "nsp"), ("roberta", "mlm"), ("modernbert", "mlm")]
)
def test_gradients_of_the_others_are_those_they_had(
    tmp_path: Path, model_type: str, objective: str, choice: Any
) -> None:
    """Bit for bit, recomputed layers whose input has no gradient included."""
    found = []
    for patterns in ([], ["*embeddings*", "*.0.*"]):
        model = build_tiny(
            tmp_path, model_type, objective, dropout=0.2, activation_checkpointing=choice, frozen=patterns
        )
        samples = make_samples([13, 9, 10, 20])
        torch.manual_seed(7)
        sum(model.train()(lay_out([samples[:3], samples[3:]], SEQ_LEN))).backward()
        found.append({name: parameter.grad for name, parameter in model.encoder.named_parameters()})
    whole, trained = found
    kept = [name for name, gradient in trained.items() if gradient is None]
    assert kept and all("embeddings" in name or ".0." in name for name in kept)
    for name, gradient in trained.items():
        before = whole[name]
        assert before is not None
        assert gradient is None or torch.equal(gradient, before), name
