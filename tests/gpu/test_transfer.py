"""Copies between host and GPU, without waiting; needs a GPU."""

from pathlib import Path

import pytest
import torch

from pretrain.build import row_stream
from pretrain.data.loader import Loader
from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.faults.tiny import write_tiny_store
from pretrain.transfer import Fetched, sent

pytestmark = pytest.mark.gpu


def test_numbers_there_and_back() -> None:
    device = torch.device("cuda")
    table = sent(torch.tensor([1.0, 1 / 3], dtype=torch.float64), device)
    fetched = Fetched(table)
    table.zero_()  # asked for later
    assert fetched.tolist() == [1.0, 1 / 3]


def test_batches_are_made_in_pinned_memory_by_a_thread_of_this_gpu(tmp_path: Path) -> None:
    write_tiny_store(tmp_path / "store")
    options = SamplingOptions(32, "mlm", packing=True)
    stream = row_stream(TokenStore.open(tmp_path / "store"), "train", options, 1)
    device = torch.device("cuda", torch.cuda.device_count() - 1)
    with Loader(stream, Cursor(0, 0, 0), 8, 4, 0, 1, device=device) as loader:
        batch = next(loader).micro_batches[0]
    assert batch.input_ids.is_pinned() and batch.cu_seqlens.is_pinned()
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = batch.to(device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(moved.input_ids.cpu(), batch.input_ids)
