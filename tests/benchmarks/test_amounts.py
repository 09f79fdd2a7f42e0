"""What makes no sense on a benchmark's command line is refused."""

from argparse import ArgumentTypeError

import pytest

from tests.benchmarks.amounts import check_only, positive, whole


def test_counts_and_amounts() -> None:
    assert (whole("3"), positive("0.5")) == (3, 0.5)
    for text in ("0", "-1", "1.5", "many"):
        with pytest.raises(ArgumentTypeError, match="no whole number from 1"):
            whole(text)
    for text in ("0", "-1", "nan", "inf", "long"):
        with pytest.raises(ArgumentTypeError, match="no number above 0"):
            positive(text)


def test_parts_that_are_not_there() -> None:
    check_only(None, ["bert-mini, 128"])
    check_only(["mini", "128"], ["bert-mini, 128"])
    with pytest.raises(SystemExit, match=r"--only base: .* bert-mini, 128; bert-mini, 512"):
        check_only(["mini", "base"], ["bert-mini, 128", "bert-mini, 512"])
