"""Validation against closed forms, and its sums against another cut of the same rows."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from pretrain.build import row_stream
from pretrain.data.batches import Batch
from pretrain.data.options import SamplingOptions
from pretrain.data.store import TokenStore
from pretrain.evaluate import Evaluator, batch_sums, unigram_entropy, wilson_low
from pretrain.metrics import EvalRecord
from pretrain.model import ModelOptions, build_model
from tests.data.fakes import FakeSplit
from tests.tiny_store import write_tiny_store
from tests.worlds import run_ranks


class Blocks:
    """A split whose blocks hold these tokens."""

    def __init__(self, *blocks: list[int]) -> None:
        self._blocks = blocks
        self.num_blocks = len(blocks)

    def block(self, index: int) -> Any:
        made = FakeSplit([[len(self._blocks[index])]]).block(0)
        return type(made)(np.array(self._blocks[index]), made.sentence_lengths, made.document_lengths)


def test_entropy_of_even_and_uneven_frequencies() -> None:
    even: Any = Blocks([5, 6], [7, 8])
    assert unigram_entropy(even, 100) == pytest.approx(np.log(4))
    uneven: Any = Blocks([5, 5, 5, 6])
    assert unigram_entropy(uneven, 100) == pytest.approx(np.log(4) - 0.75 * np.log(3))
    one: Any = Blocks([9, 9])
    assert unigram_entropy(one, 10) == 0.0


def test_entropy_reads_whole_blocks_up_to_its_limit() -> None:
    split: Any = Blocks([5, 6], [5, 6], [7, 8])
    assert unigram_entropy(split, 100, max_tokens=3) == pytest.approx(np.log(2))


@pytest.mark.parametrize(("share", "count", "low"), [(0.5, 100, 0.4038), (1.0, 10, 0.7225), (0.0, 10, 0.0)])
def test_wilson_bound_of_published_cases(share: float, count: int, low: float) -> None:
    assert wilson_low(share, count) == pytest.approx(low, abs=1e-4)


@pytest.mark.parametrize(("share", "count"), [(0.6, 7), (0.91, 1234), (0.3, 40)])
def test_wilson_bound_is_where_the_normal_test_just_rejects(share: float, count: int) -> None:
    low = wilson_low(share, count)
    assert low < share
    assert share - low == pytest.approx(1.96 * (low * (1 - low) / count) ** 0.5, rel=1e-9)


def test_sums_of_a_batch_by_hand() -> None:
    nothing = torch.zeros(0)
    batch = Batch(
        input_ids=nothing,
        token_type_ids=nothing,
        position_ids=nothing,
        sample_ids=nothing,
        cu_seqlens=nothing,
        max_seqlen=0,
        masked_positions=nothing,
        masked_labels=torch.tensor([7, 8, 9, -100]),
        masked_is_mask=torch.tensor([True, False, True, True]),
        cls_positions=nothing,
        nsp_labels=torch.tensor([0, 1, 1, -100]),
        num_masked=3,
        num_pairs=3,
        num_samples=3,
        num_tokens=3,
    )
    losses, predictions = torch.tensor([1.0, 2.0, 4.0, 0.0]), torch.tensor([7, 8, 1, -100])
    scores = (losses, predictions, torch.zeros(4), torch.tensor([0, 1, 0, -100]))
    assert batch_sums(batch, scores) == {
        "mlm_loss": 7.0,
        "masked": 3.0,
        "mlm_correct": 2.0,
        "mask_only_loss": 5.0,
        "mask_only": 2.0,
        "nsp_correct": 2.0,
        "pairs": 3.0,
    }


ROWS = 7  # no multiple of a micro-batch, so that the last pass is short and a rank may sit it out


def evaluated(store_path: Path, micro_batches: tuple[int, ...]) -> list[EvalRecord]:
    """On a rank: the held-out rows in one cut after another, by a model whose large weights make losses differ."""
    store = TokenStore.open(store_path)
    model = build_model(
        ModelOptions(preset="bert-tiny", dropout=0.0),
        vocab_size=store.vocab_size,
        special_ids=store.special_ids,
        seq_len=48,
        objective="nsp",
        tokenizer_path=store.tokenizer_path,
        seed=1,
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    options = SamplingOptions(seq_len=48, objective="nsp", packing=True)
    rows = row_stream(store, "heldout", options, 3).epoch_rows(0, ROWS)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    backend: Any = model
    return [
        Evaluator(rows, 4.0, each, rank, ranks, torch.device("cpu"), seed=3).run(backend, 5, shuffled=True)
        for each in micro_batches
    ]


@pytest.mark.slow
def test_cut_does_not_show(tmp_path: Path) -> None:
    write_tiny_store(tmp_path / "store")
    ((one,),) = run_ranks(evaluated, 1, tmp_path / "store", (ROWS,))
    assert (one.rows, one.step, one.unigram_entropy) == (ROWS, 5, 4.0)
    assert one.pairs >= ROWS
    assert one.shuffled_mask_only_loss is not None
    assert abs(one.shuffled_mask_only_loss - one.mask_only_loss) > 1e-3
    assert abs(one.mlm_loss - one.mask_only_loss) > 1e-3
    for records in run_ranks(evaluated, 2, tmp_path / "store", (3, 5)):
        for record in records:
            assert asdict(record) == pytest.approx(asdict(one), rel=1e-6)
