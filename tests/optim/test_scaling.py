"""Rates for other batches against a published table and by hand."""

import pytest

from pretrain.optim import scaled_lr


@pytest.mark.parametrize("exponent", range(7))
def test_square_root_gives_the_lamb_papers_table(exponent: int) -> None:
    """You et al. 2020 (arXiv 1904.00962), BERT: 5 / (2^3 * 10^3) at 512 samples to 5 / (2^0 * 10^3) at 32,768."""
    batch = 512 * 2**exponent
    expected = 5 / (2 ** (3 - exponent / 2) * 1e3)
    assert scaled_lr(5 / (2**3.0 * 1e3), "sqrt", batch, 512) == pytest.approx(expected, rel=1e-12)
    assert scaled_lr(5e-3, "sqrt", batch, 32_768) == pytest.approx(expected, rel=1e-12)


def test_linear_and_none() -> None:
    """Goyal et al. 2017: 0.1 at 256 images is 3.2 at 8,192."""
    assert scaled_lr(0.1, "linear", 8192, 256) == pytest.approx(3.2)
    assert scaled_lr(0.1, "none", 8192, 256) == 0.1
