"""Packing against the plain algorithm, and how full the rows get."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pretrain.data.options import SamplingOptions
from pretrain.data.pack import PackedRows, pack
from pretrain.data.plan import plan_window
from tests.data.fakes import demo_like_documents, fake_block, random_documents

ROW = 64
lengths_strategy = st.lists(st.integers(1, ROW), max_size=200).map(lambda values: np.array(values, np.int64))


def row_lengths(rows: PackedRows, lengths: np.ndarray) -> list[int]:
    pairs = zip(rows.offsets[:-1], rows.offsets[1:], strict=True)
    return [int(lengths[rows.samples[low:high]].sum()) for low, high in pairs]


def best_fit_decreasing(lengths: list[int]) -> list[int]:
    """Row lengths when each sample, from the longest on, goes where the least room is left."""
    rows: list[int] = []
    for length in sorted(lengths, reverse=True):
        fitting = [row for row in range(len(rows)) if rows[row] + length <= ROW]
        if fitting:
            rows[max(fitting, key=lambda row: rows[row])] += length
        else:
            rows.append(length)
    return rows


@given(lengths=lengths_strategy, draw_key=st.integers(0, 2**64 - 1), packing=st.booleans())
def test_every_sample_is_in_one_row_and_no_row_overflows(
    lengths: np.ndarray, draw_key: int, packing: bool
) -> None:
    rows = pack(lengths, ROW, draw_key, packing)
    assert sorted(rows.samples.tolist()) == list(range(len(lengths)))
    assert all(0 < length <= ROW for length in row_lengths(rows, lengths))
    assert packing or np.diff(rows.offsets).tolist() == [1] * len(lengths)


@given(lengths=lengths_strategy)
def test_rows_are_those_of_best_fit_decreasing(lengths: np.ndarray) -> None:
    rows = pack(lengths, ROW, 1)
    assert sorted(row_lengths(rows, lengths)) == sorted(best_fit_decreasing(lengths.tolist()))


@pytest.mark.parametrize("packing", [True, False])
def test_the_order_of_rows_is_keyed(packing: bool) -> None:
    lengths = np.full(1000, ROW)
    one, other = pack(lengths, ROW, 1, packing), pack(lengths, ROW, 2, packing)
    assert one.samples.tolist() != other.samples.tolist()
    assert one.samples.tolist() == pack(lengths, ROW, 1, packing).samples.tolist()
    # A random order correlates with the original one by about 1 / sqrt(1000).
    assert abs(np.corrcoef(one.samples, np.arange(1000))[0, 1]) < 0.15


def test_a_sample_longer_than_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="65 tokens does not fit"):
        pack(np.array([65]), ROW, 1)


@pytest.mark.parametrize("seq_len", [128, 512])
@pytest.mark.parametrize("objective", ["nsp", "sop", "mlm"])
@pytest.mark.parametrize("documents", ["short", "long", "like the demo's"])
def test_rows_are_at_least_98_percent_full(objective: str, seq_len: int, documents: str) -> None:
    options = SamplingOptions(seq_len, objective, packing=True)  # type: ignore[arg-type]
    texts = {
        "short": random_documents(5000, sentences=5.0),
        "long": random_documents(5000, sentences=30.0),
        "like the demo's": demo_like_documents(2000),
    }
    plan = plan_window([fake_block(texts[documents])], options, 1)
    lengths = plan.text_lengths + options.num_special_tokens
    assert lengths.sum() / (pack(lengths, seq_len, 1).num_rows * seq_len) >= 0.98


def test_geometric_short_samples_fill_rows() -> None:
    lengths = np.minimum(np.random.default_rng(0).geometric(1 / 40, 20_000) + 3, 128)
    assert lengths.sum() / (pack(lengths, 128, 1).num_rows * 128) >= 0.98


def fewest_rows(lengths: np.ndarray, row_length: int) -> int:
    """The lower bound L2 of Martello and Toth (1990, section 8.3.1) on the rows that any packing needs."""
    half, bounds = row_length // 2, []
    for least in range(half + 1):
        alone = lengths > row_length - least
        paired = (lengths > half) & ~alone
        small = lengths[(lengths >= least) & (lengths <= half)].sum()
        room = paired.sum() * row_length - lengths[paired].sum()
        bounds.append(alone.sum() + paired.sum() + max(0, -(-(small - room) // row_length)))
    return int(max(bounds))


@pytest.mark.parametrize("objective", ["nsp", "sop"])
@pytest.mark.parametrize(("sentences", "tokens"), [(4, 25), (8, 20), (12, 25), (40, 30)])
def test_where_rows_are_less_full_no_packing_could_fill_them(
    objective: str, sentences: int, tokens: int
) -> None:
    """Documents alike in length, whose pairs are of more than half a row, with few to fill the rest."""
    draw = np.random.default_rng(0)
    documents = [
        np.maximum(1, draw.normal(tokens, tokens / 4, max(1, count)).round().astype(int)).tolist()
        for count in draw.poisson(sentences, 1487)
    ]
    options = SamplingOptions(128, objective, packing=True)  # type: ignore[arg-type]
    lengths = plan_window([fake_block(documents)], options, 1).text_lengths + options.num_special_tokens
    assert fewest_rows(lengths, 128) <= pack(lengths, 128, 1).num_rows <= 1.005 * fewest_rows(lengths, 128)
