"""What the terminal says, as it is read there."""

from dataclasses import replace

import pytest

from pretrain.metrics import Terminal
from tests.metrics.test_writer import EVALUATION


@pytest.mark.parametrize(
    ("loss", "reads"),
    [(2.75, "1.250 nat below the"), (4.0, "0.000 nat below the"), (5.5625, "1.562 nat above the")],
)
def test_a_loss_is_above_or_below_the_unigram_entropy(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, loss: float, reads: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    Terminal(True, 1).summary(replace(EVALUATION, mask_only_loss=loss))
    assert f"  {reads} unigram entropy" in capsys.readouterr().out.replace("│", " ")
