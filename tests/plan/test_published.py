"""The model of a step against published rates: from one GPU to 256, phase 1 and 2, nothing fitted."""

from pathlib import Path

import pytest

from pretrain.model import PretrainingModel
from tests.benchmarks.plan_scale import RESULT, table
from tests.plan.published import PUBLISHED, Prediction, bert_large, flops_of_sequence, predictions


@pytest.fixture(scope="module")
def model() -> PretrainingModel:
    return bert_large()


@pytest.fixture(scope="module")
def found(model: PretrainingModel) -> list[Prediction]:
    return list(predictions(model))


def test_the_published_table_agrees_with_itself() -> None:
    """65,536 samples a step in phase 1 and 32,768 in phase 2, on 8 GPUs and more of A100."""
    for rows in PUBLISHED:
        if rows.machine == "A100":
            batches = {rows.micro_batch * accumulation * gpus for gpus, accumulation, _ in rows.larger}
            assert batches == {65_536 if rows.seq_len == 128 else 32_768}


def test_bert_large_has_its_size(model: PretrainingModel) -> None:
    """FLOPs by hand; 580 samples a second of 128 tokens are 44.7% of an A100's 312 TFLOP/s."""
    width, layers, seq_len, masked = 1024, 24, 128, 20
    linear = 6 * layers * 12 * width**2 * seq_len + 12 * layers * width * seq_len**2
    heads = 6 * masked * (width**2 + width * 30_528) + 6 * (width**2 + 2 * width)
    assert flops_of_sequence(model, 128) == linear + heads
    assert 580 * flops_of_sequence(model, 128) / 312e12 == pytest.approx(0.447, abs=0.001)


def test_mixed_precision_within_5_percent(found: list[Prediction]) -> None:
    """Phase 1 and 2 on 8 to 256 A100, and on 8 V100."""
    errors = [each.error for each in found if each.rows.precision == "fp16"]
    assert len(errors) == 16 and max(map(abs, errors)) < 0.05


def test_single_precision(found: list[Prediction]) -> None:
    """Within 5% in phase 1. In phase 2 they lose a quarter of TF32's rate from 1 to 256 GPUs, and of fp16's no tenth,
    which the model does not explain."""
    of_phase = {
        seq_len: [
            each.error for each in found if each.rows.precision != "fp16" and each.rows.seq_len == seq_len
        ]
        for seq_len in (128, 512)
    }
    assert max(map(abs, of_phase[128])) < 0.05
    assert max(map(abs, of_phase[512])) == pytest.approx(0.291, abs=0.005)


def test_it_is_always_too_fast(found: list[Prediction]) -> None:
    """Waiting for the slowest rank and for data is not modelled."""
    assert all(each.error > 0 for each in found)


def test_it_says_more_than_one_gpus_rate_does(found: list[Prediction]) -> None:
    """At 256 GPUs each error is smaller than that of 256 times the rate of one."""
    largest = [each for each in found if each.gpus == 256]
    assert len(largest) == 4
    assert all(abs(each.error) < abs(each.linear_error) for each in largest)


def test_the_table_in_the_docs(found: list[Prediction]) -> None:
    assert Path(RESULT).read_text(encoding="utf-8") == table(found)
