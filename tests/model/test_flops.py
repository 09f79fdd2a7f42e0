"""The formula against torch's counter of the matrix products that really run."""

from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pretrain.model import ModelOptions
from tests.model.packed_rows import VOCAB_SIZE
from tests.model.tiny_models import build, build_tiny


@pytest.mark.parametrize(("model_type", "objective"), [("bert", "nsp"), ("bert", "mlm"), ("roberta", "mlm")])
def test_formula_equals_the_counted_products(tmp_path: Path, model_type: str, objective: str) -> None:
    model = build_tiny(tmp_path, model_type, objective)
    model.encoder.set_attn_implementation("eager")
    rows, seq_len = 2, 16
    labels = torch.randint(5, VOCAB_SIZE, (rows, seq_len))
    pairs = {"next_sentence_label": torch.tensor([0, 1])} if objective == "nsp" else {}
    counter = FlopCounterMode(display=False)
    with counter:
        model.encoder(input_ids=labels, labels=labels, **pairs).loss.backward()
    tokens = rows * seq_len
    expected = counter.get_total_flops()
    assert model.flops.step(tokens, tokens, seq_len, num_pairs=len(pairs) and rows) == expected


@pytest.mark.parametrize(
    ("patterns", "more_than_counted"),
    [
        (["bert.encoder.layer.1.*", "bert.pooler.*"], 0),
        # The lowest layer that is trained has no gradient of its input: 2 for each weight of query, key and value.
        (["bert.embeddings.*", "bert.encoder.layer.[01].*"], 2 * 3 * 32**2),
        (["bert.embeddings.*"], 2 * 3 * 32**2),
    ],
)
def test_formula_of_frozen_layers(tmp_path: Path, patterns: list[str], more_than_counted: int) -> None:
    model = build_tiny(tmp_path, "bert", "nsp", frozen=patterns)
    model.encoder.set_attn_implementation("eager")
    rows, seq_len = 2, 16
    labels = torch.randint(5, VOCAB_SIZE, (rows, seq_len))
    counter = FlopCounterMode(display=False)
    with counter:
        model.encoder(
            input_ids=labels, labels=labels, next_sentence_label=torch.tensor([0, 1])
        ).loss.backward()
    tokens = rows * seq_len
    expected = counter.get_total_flops() + more_than_counted * tokens
    assert model.flops.step(tokens, tokens, seq_len, num_pairs=rows) == expected


def test_a_preset_costs_what_its_shape_says() -> None:
    """Layers of 12 h^2 weights, a head of h^2 + h * vocabulary; 15% of the tokens masked."""
    model = build(ModelOptions(preset="bert-tiny"))
    hidden, layers, seq_len, num_tokens, num_masked = 128, 2, 512, 1000, 150
    expected = num_tokens * (6 * layers * 12 * hidden**2 + 12 * layers * hidden * seq_len)
    expected += num_masked * 6 * (hidden**2 + hidden * VOCAB_SIZE)
    assert model.flops.step(num_tokens, num_masked, seq_len) == expected


def test_a_sliding_window_bounds_the_attention(tmp_path: Path) -> None:
    """Two of three layers see 5 tokens however long the sample is."""
    flops = build_tiny(tmp_path, "modernbert").flops
    longer = flops.step(1, 0, 100) - flops.step(1, 0, 40)
    assert flops.sliding_windows == (None, 5, 5)
    assert longer == 12 * flops.hidden_size * (100 - 40)
