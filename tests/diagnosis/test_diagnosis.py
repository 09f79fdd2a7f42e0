"""What is said of a step that is not finite, of findings made by hand."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nan

from pretrain.backends.base import LossWeights
from pretrain.data.loader import Loader
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.stream import RowStream
from pretrain.diagnosis import Diagnosis
from pretrain.diagnosis.diagnosis import names_of
from pretrain.rng import key
from pretrain.sharding import ParameterInfo, Shard, ShardLayout, Slice
from tests.data.fakes import ALL_SPECIAL_IDS, SPECIAL_IDS, VOCAB_SIZE, FakeSplit
from tests.model.tiny_models import build_tiny

pytestmark = pytest.mark.usefixtures("one_rank")
ROWS, MICRO_BATCH = 8, 2


def stream() -> RowStream:
    documents = [[7, 9], [6, 8, 5], [12, 11, 4]] * 20  # lengths of sentences
    options = SamplingOptions(seq_len=32, objective="nsp", packing=True)
    return RowStream(FakeSplit(documents), SPECIAL_IDS, ALL_SPECIAL_IDS, VOCAB_SIZE, options, 3)


def batches(rank: int = 0, world: int = 1) -> Any:
    with Loader(stream(), Cursor(0, 0, 0), ROWS, MICRO_BATCH, rank, world) as loader:
        return next(loader)


class Engine:
    """Stands for a backend that trains without a fault."""

    def __init__(self, folder: Path, weight: torch.Tensor) -> None:
        self.model = build_tiny(folder, "bert", "nsp")
        infos = ParameterInfo("first", (2,)), ParameterInfo("second", (2,))
        self.layout = ShardLayout(infos, (Shard(weight, (Slice(1, 0, 0, 2), Slice(0, 0, 2, 2))),))
        self.calls: list[Any] = []

    def train_micro_batch(self, batch: Any, weights: LossWeights, *, last: bool) -> torch.Tensor:
        self.calls.append((len(batch.input_ids), last, float(torch.rand(()))))
        return torch.tensor([2.0, 1.0])

    def measure_gradient(self) -> float:
        self.calls.append("measured")
        return 0.5


def said(folder: Path, engine: Any, sums: tuple[float, float] = (nan, 1.0)) -> tuple[str, dict[str, Any]]:
    diagnosis = Diagnosis(folder, 5, 0, torch.device("cpu"), {"store_fingerprint": "f"})
    figures = {"loss": nan, "grad_norm": 0.25}
    text = diagnosis.of(engine, batches(), 7, figures, torch.tensor(sums))
    path = folder / "not-finite-step-00000007.json"
    return text, json.loads(path.read_text()) if path.exists() else {}


def test_samples_by_rank_and_micro_batch_are_those_of_its_rows() -> None:
    """Two ranks, two micro-batches of two rows each; row r is that of micro-batch r // 4 of rank r // 2 % 2."""
    whole = batches()
    by_row = whole.rows.names_by_row()
    assert len(by_row) == ROWS and [name for row in by_row for name in row] == whole.rows.sample_names()
    found = names_of(batches(1, 2), 2)
    assert [[len(names) for names in rank] for rank in found] == [
        [sum(len(by_row[row]) for row in rows) for rows in each]
        for each in ([(0, 1), (4, 5)], [(2, 3), (6, 7)])
    ]
    assert found[1][0] == [*by_row[2], *by_row[3]]


def test_weights_come_first_and_the_step_is_not_repeated(tmp_path: Path) -> None:
    engine = Engine(tmp_path, torch.tensor([1.0, nan, torch.inf, 0.0]))
    text, details = said(tmp_path, engine)
    assert text.startswith("the weights of first and 1 more parameters hold values that are not finite")
    assert details["master_weights_not_finite"] == ["first", "second"]
    assert details["came_again"] is None and engine.calls == []


def test_frozen_weights_are_looked_at_too(tmp_path: Path) -> None:
    engine = Engine(tmp_path, torch.ones(4))
    frozen = ShardLayout(
        (ParameterInfo("kept", (2,)),), (Shard(torch.tensor([nan, 1.0]), (Slice(0, 0, 0, 2),)),)
    )
    engine.layout = replace(engine.layout, frozen=frozen)
    text, details = said(tmp_path, engine)
    assert text.startswith("the weights of kept hold") and details["master_weights_not_finite"] == ["kept"]


def test_what_does_not_come_again_is_the_hardware(tmp_path: Path) -> None:
    engine = Engine(tmp_path, torch.ones(4))
    text, details = said(tmp_path, engine)
    assert "did not come again" in text and "hardware of rank 0 (" in text and "cursor [0, 0, 0]" in text
    assert (details["loss"], details["grad_norm"], details["seed"]) == ("nan", 0.25, 5)
    assert details["ranks"][0]["loss_sums"] == ["nan", 1.0]
    assert details["ranks"][0]["repeated_loss_sums"] == [8.0, 4.0]
    assert [call[:2] for call in engine.calls[:-1]] == [(2, False), (2, False), (2, False), (2, True)]
    assert engine.calls[-1] == "measured"
    for index, call in enumerate(engine.calls[:-1]):
        torch.manual_seed(key(5, "dropout", 7, index, 0))  # as the loop does
        assert call[2] == float(torch.rand(()))


def test_no_rank_stands_out(tmp_path: Path) -> None:
    """The same losses as before, in every bit: then any of the machines."""
    text, _ = said(tmp_path, Engine(tmp_path, torch.ones(4)), (8.0, 4.0))
    assert "rank 0" not in text and "suspect the hardware of " in text


def test_a_full_disk_does_not_hide_what_was_found(tmp_path: Path) -> None:
    (tmp_path / "gone").touch()
    text, _ = said(tmp_path / "gone", Engine(tmp_path, torch.ones(4)))
    assert "did not come again" in text and "could not be written: Not a directory" in text
