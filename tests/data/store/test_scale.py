"""A store of a trillion tokens opens within the budget of DESIGN: 10 s and 1 GB; it takes a fiftieth of both."""

from pathlib import Path

import numpy as np
import pytest

from pretrain.data.options import SamplingOptions
from pretrain.data.order import Cursor
from pretrain.data.store import TokenStore
from pretrain.data.stream import RowStream
from tests.data.store.sparse import BLOCK_DOCUMENTS, DOCUMENT_TOKENS, measure_open, write_sparse_store

TRILLION = 10**12


@pytest.fixture(scope="module")
def trillion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sparse") / "store"
    manifest = write_sparse_store(path, TRILLION)
    assert manifest.splits["train"].tokens >= TRILLION
    assert 3800 < len(manifest.splits["train"].shards) < 4000
    return path


def test_it_opens_within_the_budget(trillion: Path) -> None:
    cost = measure_open(trillion)
    assert cost.num_tokens >= TRILLION
    assert cost.open_seconds < 10
    assert cost.bytes_after < 1_000_000_000


def test_any_block_is_read_and_any_window_planned(trillion: Path) -> None:
    store = TokenStore.open(trillion)
    split = store.split("train")
    assert split.num_blocks * BLOCK_DOCUMENTS * DOCUMENT_TOKENS == split.num_tokens
    for index in (0, 244, 245, 500_000, split.num_blocks - 1):
        block = split.block(index)
        assert len(block.tokens) == block.num_tokens == BLOCK_DOCUMENTS * DOCUMENT_TOKENS
        assert len(block.document_lengths) == BLOCK_DOCUMENTS
        assert not block.tokens.any()
    options = SamplingOptions(seq_len=512, objective="nsp", packing=True, window_blocks=1)
    stream = RowStream(split, store.special_ids, store.all_special_ids, store.vocab_size, options, seed=1)
    assert stream.windows_per_epoch == split.num_blocks
    for window in (0, stream.windows_per_epoch - 1):
        rows = stream.step(Cursor(3, window, 0), 8)
        batch = rows.batch(0, 8)
        # A document of 16 sentences of 24 tokens makes pairs of at most 384 tokens.
        assert rows.num_tokens > 8 * 400
        assert 0 in np.asarray(batch.input_ids)
