"""Validation against closed forms, and its sums against another cut of the same rows."""

from dataclasses import asdict, replace
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
from pretrain.evaluate import Evaluator, HeldoutRows, batch_sums, entropy, token_shares, wilson_low
from pretrain.faults.tiny import write_tiny_store
from pretrain.metrics import EvalRecord
from pretrain.model import ModelOptions, build_model
from tests.data.fakes import FakeSplit
from tests.worlds import run_ranks


class Blocks:
    """A split whose blocks hold these tokens."""

    def __init__(self, *blocks: list[int]) -> None:
        self._blocks = blocks
        self.num_blocks = len(blocks)

    def block(self, index: int) -> Any:
        made = FakeSplit([[len(self._blocks[index])]]).block(0)
        return replace(made, tokens=np.array(self._blocks[index]))


def unigram_entropy(split: Any, vocab_size: int, max_tokens: int = 1000) -> float:
    return entropy(token_shares(split, vocab_size, max_tokens))


def test_entropy_of_even_and_uneven_frequencies() -> None:
    assert unigram_entropy(Blocks([5, 6], [7, 8]), 100) == pytest.approx(np.log(4))
    assert unigram_entropy(Blocks([5, 5, 5, 6]), 100) == pytest.approx(np.log(4) - 0.75 * np.log(3))
    assert unigram_entropy(Blocks([9, 9]), 10) == 0.0


def test_entropy_reads_no_token_beyond_its_limit() -> None:
    read: list[int] = []

    class Counted(Blocks):
        def block(self, index: int) -> Any:
            read.append(index)
            return super().block(index)

    split = Counted([5, 6], [5, 7], [7, 8])
    assert unigram_entropy(split, 100, max_tokens=3) == pytest.approx(np.log(3) - 2 / 3 * np.log(2))
    assert unigram_entropy(split, 100, max_tokens=2) == pytest.approx(np.log(2))
    assert read == [0, 1, 0]


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


def evaluated(folder: Path, stores: int, micro_batches: tuple[int, ...]) -> list[EvalRecord]:
    """On a rank: the held-out rows in one cut after another, by a model whose large weights make losses differ."""
    opened = [TokenStore.open(folder / f"store{number}") for number in range(stores)]
    model = build_model(
        ModelOptions(preset="bert-tiny", dropout=0.0),
        vocab_size=opened[0].vocab_size,
        special_ids=opened[0].special_ids,
        seq_len=48,
        objective="nsp",
        tokenizer_path=opened[0].tokenizer_path,
        seed=1,
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4)
    options = SamplingOptions(seq_len=48, objective="nsp", packing=True)
    parts = [
        HeldoutRows(
            f"store{number}" if stores > 1 else None,
            row_stream(store, "heldout", options, 3).epoch_rows(0, ROWS - 3 * number),
            token_shares(store.split("heldout"), store.vocab_size),
        )
        for number, store in enumerate(opened)
    ]
    rank, ranks = dist.get_rank(), dist.get_world_size()
    backend: Any = model
    return [
        Evaluator(parts, each, rank, ranks, torch.device("cpu"), seed=3).run(backend, 5, shuffled=True)
        for each in micro_batches
    ]


def flat(record: EvalRecord) -> dict[str, Any]:
    """Figures of the whole and of each store, by one name each."""
    content = asdict(record)
    stores = content.pop("stores") or {}
    return content | {
        f"{s} {name}": value for s, figures in stores.items() for name, value in figures.items()
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stores")
    for number in range(2):
        write_tiny_store(path / f"store{number}", seed=number)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("stores", [1, 2])
def test_cut_does_not_show(folder: Path, stores: int) -> None:
    ((one,),) = run_ranks(evaluated, 1, folder, stores, (ROWS,))
    assert (one.rows, one.step) == (ROWS if stores == 1 else 2 * ROWS - 3, 5)
    assert one.pairs >= ROWS
    assert one.shuffled_mask_only_loss is not None
    assert abs(one.shuffled_mask_only_loss - one.mask_only_loss) > 1e-3
    assert abs(one.mlm_loss - one.mask_only_loss) > 1e-3
    for records in run_ranks(evaluated, 2, folder, stores, (3, 5)):
        for record in records:
            assert flat(record) == pytest.approx(flat(one), rel=1e-6)


@pytest.mark.usefixtures("one_rank")
def test_a_blend_is_its_stores_and_all_of_them_together(folder: Path) -> None:
    (both,), (first,) = evaluated(folder, 2, (4,)), evaluated(folder, 1, (4,))
    assert first.stores is None
    assert both.stores is not None
    one, two = both.stores["store0"], both.stores["store1"]
    assert dict(one) == {
        name: value for name, value in asdict(first).items() if name not in ("step", "stores")
    }
    assert one["mlm_loss"] != two["mlm_loss"]
    for total in ("rows", "masked", "pairs"):
        assert getattr(both, total) == one[total] + two[total]
    for mean, count in (("mlm_loss", "masked"), ("mlm_accuracy", "masked"), ("nsp_accuracy", "pairs")):
        expected = (one[mean] * one[count] + two[mean] * two[count]) / (one[count] + two[count])
        assert getattr(both, mean) == pytest.approx(expected, rel=1e-9)
    # Of texts with different frequencies, the mixture is less certain than they are on average.
    shares = [token_shares(TokenStore.open(folder / s).split("heldout"), 301) for s in ("store0", "store1")]
    mixed = (ROWS * shares[0] + (ROWS - 3) * shares[1]) / (2 * ROWS - 3)
    assert both.unigram_entropy == pytest.approx(entropy(mixed))
    assert both.unigram_entropy > min(one["unigram_entropy"], two["unigram_entropy"])
