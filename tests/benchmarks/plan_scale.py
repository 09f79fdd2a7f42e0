"""What the model behind `pretrain plan --gpus` says of NVIDIA's BERT-large on 8 to 256 GPUs, beside what is published.

    python -m tests.benchmarks.plan_scale            # prints the table
    python -m tests.benchmarks.plan_scale --write    # and writes it where the docs read it

Nothing is measured here: the published rates and how they are predicted stand in tests/plan/published.py.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

from tests.plan.published import Prediction, bert_large, predictions

RESULT = Path(__file__).parent / "results" / "plan_scale.md"
_HEADINGS = ("GPUs", "precision", "phase", "micro-batch x accumulation", "published", "modelled", "error")


def table(found: Iterable[Prediction]) -> str:
    """In Markdown; rates in samples per second, and in brackets the error of one GPU's rate times their number."""
    lines = [f"| {' | '.join(_HEADINGS)} |", f"|{' ---: |' * len(_HEADINGS)}"]
    for each in found:
        rows = each.rows
        cells = (
            f"{each.gpus} {rows.machine}",
            rows.precision,
            "1" if rows.seq_len == 128 else "2",
            f"{rows.micro_batch} x {each.accumulation}",
            f"{each.published:,.0f}",
            f"{each.predicted:,.0f}",
            f"{each.error:+.1%} ({each.linear_error:+.1%})",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description="Published and modelled rates of BERT-large on many GPUs.")
    parser.add_argument("--write", action="store_true", help=f"into {RESULT.name}")
    arguments = parser.parse_args()
    found = table(predictions(bert_large()))
    if arguments.write:
        RESULT.write_text(found, encoding="utf-8")
    print(found, end="")


if __name__ == "__main__":
    main()
