"""Packed rows give what every sample gives on its own.

The expected values come from Hugging Face's own forward, with its own eager attention, position ids, full
head and losses, on one sample at a time without padding.
"""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from pretrain.model import ModelInput, PretrainingModel
from pretrain.model.attention import PackedSamples
from tests.model.packed_rows import PackedRows, Sample, lay_out, make_samples
from tests.model.tiny_models import MODEL_TYPES, SEQ_LEN, build_tiny

CASES = [("bert", "nsp"), *((model_type, "mlm") for model_type in MODEL_TYPES)]
LENGTHS = (13, 9, 10, 5, 20, 7, 32)
Result = tuple[Tensor, Tensor, dict[str, Tensor]]


def packed(samples: list[Sample]) -> PackedRows:
    """One row is full to the last token, one has padding, one is a single sample."""
    return lay_out([samples[:3], samples[3:6], samples[6:]], SEQ_LEN)


def losses_and_gradients(model: PretrainingModel, batch: ModelInput) -> Result:
    model.zero_grad()
    mlm_loss, nsp_loss = model(batch)
    (mlm_loss + nsp_loss).backward()
    return mlm_loss.detach(), nsp_loss.detach(), gradients(model)


def one_by_one(model: PretrainingModel, samples: list[Sample], nsp: bool) -> Result:
    model.zero_grad()
    model.encoder.set_attn_implementation("eager")
    mlm_sum, nsp_sum = torch.zeros(()), torch.zeros(())
    for sample in samples:
        labels = torch.full((1, len(sample.tokens)), -100)
        for position, label in sample.masked:
            labels[0, position] = label
        inputs = {"input_ids": torch.tensor([sample.tokens]), "labels": labels}
        if nsp:
            inputs["token_type_ids"] = torch.tensor([sample.token_types])
            inputs["next_sentence_label"] = torch.tensor([sample.nsp_label])
        # Hugging Face returns the mean over the masked tokens, plus the mean over the pairs: one here.
        both = model.encoder(**inputs)
        nsp_loss = torch.zeros(())
        if nsp:
            nsp_loss = torch.nn.functional.cross_entropy(
                both.seq_relationship_logits, inputs["next_sentence_label"]
            )
        mlm_loss = (both.loss - nsp_loss) * len(sample.masked)
        (mlm_loss + nsp_loss).backward()
        mlm_sum, nsp_sum = mlm_sum + mlm_loss.detach(), nsp_sum + nsp_loss.detach()
    model.encoder.set_attn_implementation("packed")
    return mlm_sum, nsp_sum, gradients(model)


def gradients(model: PretrainingModel) -> dict[str, Tensor]:
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def assert_same(actual: Result, expected: Result, rtol: float, atol: float) -> None:
    assert actual[2].keys() == expected[2].keys()
    for index in (0, 1):
        torch.testing.assert_close(actual[index], expected[index], rtol=rtol, atol=atol, check_dtype=False)
    for name, gradient in expected[2].items():
        largest = max(1.0, float(gradient.abs().max()))
        try:
            torch.testing.assert_close(actual[2][name], gradient, rtol=rtol, atol=atol * largest)
        except AssertionError as error:
            raise AssertionError(f"gradient of {name}: {error}") from error


@pytest.mark.parametrize(("model_type", "objective"), CASES)
@pytest.mark.parametrize(
    ("dtype", "rtol", "atol"),
    [(torch.float32, 1e-5, 3e-5), (torch.float64, 1e-9, 1e-10)],
    ids=["fp32", "fp64"],
)
def test_packed_rows_equal_samples_one_by_one(
    tmp_path: Path, model_type: str, objective: str, dtype: torch.dtype, rtol: float, atol: float
) -> None:
    if model_type == "modernbert" and dtype == torch.float64:
        rtol, atol = 1e-5, 1e-6  # its rotary embedding is computed in fp32 whatever the model's dtype
    nsp = objective == "nsp"
    samples = make_samples(LENGTHS, nsp=nsp)
    model = build_tiny(tmp_path, model_type, objective).to(dtype)
    expected = one_by_one(model, samples, nsp)
    assert_same(losses_and_gradients(model, packed(samples)), expected, rtol, atol)


@pytest.mark.parametrize(("model_type", "objective"), CASES)
def test_padded_rows_equal_packed_rows(tmp_path: Path, model_type: str, objective: str) -> None:
    samples = make_samples(LENGTHS, nsp=objective == "nsp")
    model = build_tiny(tmp_path, model_type, objective).double()
    padded = lay_out([[sample] for sample in samples], SEQ_LEN)
    tight = {"rtol": 1e-5, "atol": 1e-6} if model_type == "modernbert" else {"rtol": 1e-9, "atol": 1e-10}
    assert_same(losses_and_gradients(model, padded), losses_and_gradients(model, packed(samples)), **tight)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_a_leaking_mask_is_noticed(tmp_path: Path, model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = make_samples(LENGTHS, nsp=False)
    model = build_tiny(tmp_path, model_type)
    expected = one_by_one(model, samples, nsp=False)

    def all_true(packed_samples: PackedSamples, radius: int | None) -> Tensor:
        rows, seq_len = packed_samples.sample_ids.shape
        return torch.ones(rows, 1, seq_len, seq_len, dtype=torch.bool)

    monkeypatch.setattr(PackedSamples, "mask", all_true)
    with pytest.raises(AssertionError):
        assert_same(losses_and_gradients(model, packed(samples)), expected, 1e-5, 1e-5)


def test_a_window_that_is_ignored_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = make_samples(LENGTHS, nsp=False)
    model = build_tiny(tmp_path, "modernbert")
    expected = one_by_one(model, samples, nsp=False)
    mask = PackedSamples.mask
    monkeypatch.setattr(PackedSamples, "mask", lambda packed_samples, radius: mask(packed_samples, None))
    with pytest.raises(AssertionError):
        assert_same(losses_and_gradients(model, packed(samples)), expected, 1e-5, 1e-5)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_padding_is_never_seen(tmp_path: Path, model_type: str) -> None:
    rows = [make_samples([9, 6], nsp=False), []]
    model = build_tiny(tmp_path, model_type)
    batch = lay_out(rows, SEQ_LEN)
    expected = model(batch)
    assert all(torch.isfinite(loss) for loss in expected)
    batch.input_ids[batch.sample_ids == 0] = 50
    for actual, loss in zip(model(batch), expected, strict=True):
        torch.testing.assert_close(actual, loss, rtol=0, atol=0)
