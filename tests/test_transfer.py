"""Numbers between host and device; on the CPU there is nothing to copy (on a GPU: tests/gpu)."""

import torch

from pretrain.transfer import Fetched, sent


def test_what_is_sent_is_a_copy_with_every_digit() -> None:
    numbers = torch.tensor([1.0, 1 / 3, 2.0**-1000], dtype=torch.float64)
    there = sent(numbers, torch.device("cpu"))
    numbers.zero_()
    assert there.dtype == torch.float64 and there.tolist() == [1.0, 1 / 3, 2.0**-1000]


def test_what_is_fetched_comes_as_it_is() -> None:
    assert Fetched(torch.tensor([1.5, 0.1], dtype=torch.float64)).tolist() == [1.5, 0.1]
