"""The heads on gathered positions give what Hugging Face's whole forward gives with labels."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from pretrain.model import PretrainingModel
from tests.model.packed_rows import PackedRows, lay_out, make_samples
from tests.model.tiny_models import SEQ_LEN, build_tiny


def padded_pairs() -> PackedRows:
    """One pair in each row, of uneven lengths: the form that Hugging Face takes."""
    return lay_out([[sample] for sample in make_samples([20, 32, 11, 8])], SEQ_LEN)


def whole_forward(model: PretrainingModel, batch: PackedRows) -> tuple[Tensor, Tensor, Tensor]:
    """Hugging Face's own loss (mean over masked tokens plus mean over pairs) and its two logits."""
    labels = torch.full_like(batch.input_ids, -100).flatten()
    real = batch.masked_labels != -100
    labels[batch.masked_positions[real]] = batch.masked_labels[real]
    model.encoder.set_attn_implementation("eager")
    output = model.encoder(
        input_ids=batch.input_ids,
        attention_mask=(batch.sample_ids > 0).long(),
        token_type_ids=batch.token_type_ids,
        labels=labels.view_as(batch.input_ids),
        next_sentence_label=batch.nsp_labels[: len(batch.input_ids)],
    )
    model.encoder.set_attn_implementation("packed")
    return output.loss, output.prediction_logits, output.seq_relationship_logits


def test_sums_of_both_losses_equal_the_loss_of_bert_for_pretraining(tmp_path: Path) -> None:
    model, batch = build_tiny(tmp_path, "bert", "nsp"), padded_pairs()
    expected, _, _ = whole_forward(model, batch)
    mlm_sum, nsp_sum = model(batch)
    num_masked, num_pairs = (batch.masked_labels != -100).sum(), (batch.nsp_labels != -100).sum()
    torch.testing.assert_close(mlm_sum / num_masked + nsp_sum / num_pairs, expected)


def test_score_gives_losses_and_predictions_of_each_position(tmp_path: Path) -> None:
    model, batch = build_tiny(tmp_path, "bert", "nsp"), padded_pairs()
    _, mlm, nsp = whole_forward(model, batch)
    mlm = mlm.flatten(0, 1)[batch.masked_positions]
    nsp = nsp[batch.cls_positions // SEQ_LEN]
    mlm_losses, mlm_predictions, nsp_losses, nsp_predictions = model.score(batch)
    torch.testing.assert_close(mlm_losses, cross_entropy(mlm, batch.masked_labels, reduction="none"))
    torch.testing.assert_close(nsp_losses, cross_entropy(nsp, batch.nsp_labels, reduction="none"))
    assert torch.equal(mlm_predictions, mlm.argmax(-1))
    assert torch.equal(nsp_predictions, nsp.argmax(-1))
    assert not mlm_losses.requires_grad


def test_without_a_head_or_labels_the_nsp_loss_is_zero(tmp_path: Path) -> None:
    batch = padded_pairs()
    unlabelled = replace(batch, nsp_labels=torch.full_like(batch.nsp_labels, -100))
    assert build_tiny(tmp_path, "bert", "mlm")(batch)[1] == 0.0
    assert build_tiny(tmp_path, "bert", "nsp")(unlabelled)[1] == 0.0
    _, _, losses, predictions = build_tiny(tmp_path, "bert", "mlm").score(batch)
    assert losses.shape == predictions.shape == batch.nsp_labels.shape
    assert losses.eq(0).all()


def test_losses_are_fp32_under_half_precision(tmp_path: Path) -> None:
    model, batch = build_tiny(tmp_path, "bert", "nsp"), padded_pairs()
    expected = model(batch)
    for loss, exact in zip(model.bfloat16()(batch), expected, strict=True):
        assert loss.dtype == torch.float32
        assert loss.item() == pytest.approx(exact.item(), rel=0.05)


@pytest.mark.parametrize("smoothing", [0.1, 0.6])
def test_label_smoothing_is_of_the_masked_tokens_in_training_only(tmp_path: Path, smoothing: float) -> None:
    model, batch = build_tiny(tmp_path, "bert", "nsp"), padded_pairs()
    _, mlm, _ = whole_forward(model, batch)
    logits, labels = mlm.flatten(0, 1)[batch.masked_positions], batch.masked_labels
    plain_sum, plain_nsp = model(batch)
    plain_scores = model.score(batch)
    model.label_smoothing = smoothing
    smoothed_sum, smoothed_nsp = model(batch)
    expected = cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    torch.testing.assert_close(smoothed_sum, expected)
    # By hand: (1 - s) of the label's loss and s of the mean loss over the vocabulary (Szegedy et al. 2016, section 7).
    losses = -logits[labels != -100].log_softmax(-1)
    by_hand = (1 - smoothing) * plain_sum + smoothing * losses.mean(-1).sum()
    torch.testing.assert_close(smoothed_sum, by_hand)
    assert torch.equal(smoothed_nsp, plain_nsp)
    for ours, before in zip(model.score(batch), plain_scores, strict=True):
        assert torch.equal(ours, before)
