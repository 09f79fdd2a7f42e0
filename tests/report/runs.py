"""Run folders written by hand, with figures that a formula gives."""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

CONFIG = {
    "recipe": {
        "seed": 1,
        "data": {"seq_len": 32, "objective": "nsp", "mask_probability": 0.15},
        "optimizer": {"name": "lamb", "lr": 0.01},
        "train": {"steps": 1000, "global_batch": 16},
        "log": {"parameters_every": 0},
    },
    "origins": {"seed": "nobody asked"},
    "schedule": {"name": "linear", "peak_lr": 0.01, "total_steps": 1000},
    "run": {"backend": "fsdp", "stage": 2, "ranks": 4, "precision": "bf16", "versions": {"torch": "2.13.0"}},
    "model": {"class": "BertForPreTraining", "parameters": 30671},
    "store": "/nowhere/store",
    "store_fingerprint": "0123456789abcdef" * 4,
}


def loss_at(step: int) -> float:
    """Falls, with noise of a period that no bucket has."""
    return 4.0 + 6.0 * math.exp(-step / 200) + 0.3 * math.sin(2.4 * step)


def metrics(step: int, **other: Any) -> dict[str, Any]:
    """A line of metrics.jsonl."""
    loss = loss_at(step)
    line = {
        "step": step,
        "loss": loss,
        "mlm_loss": loss - 0.7,
        "nsp_loss": 0.7,
        "lr": 0.01 * (1 - step / 1e7),
        "grad_norm": 1.0 + 1.0 / step,
        "loss_scale": 1.0,
        "skipped": False,
        "samples": 20,
        "tokens": 500,
        "cursor": [step // 100, 0, step % 100],
        "seconds": 0.25,
        "tokens_per_second": 2000.0 + step % 7,
        "mfu": None,
        "global_batch": 16,
    }
    return line | other


def validation(step: int) -> dict[str, Any]:
    """A line of eval.jsonl."""
    return {
        "step": step,
        "mlm_loss": loss_at(step) - 1.0,
        "mask_only_loss": loss_at(step) - 0.5,
        "shuffled_mask_only_loss": None,
        "unigram_entropy": 5.5,
        "mlm_accuracy": 0.25,
        "nsp_accuracy": 0.75,
        "nsp_accuracy_low": 0.5,
        "rows": 64,
        "masked": 300,
        "pairs": 64,
    }


def of_ranks(step: int, **other: Any) -> dict[str, Any]:
    """A line of ranks.jsonl: four ranks, the third of which takes 2.5 times the median rank's time."""
    own = [0.1, 0.11, 0.25, 0.09]
    line = {
        "step": step,
        "steps": 10,
        "seconds": 0.25,
        "data_wait": 0.04 + step / 1e4,
        "slowest_rank": 2,
        "to_median": 2.5,
        "own_seconds": own,
        "data_wait_seconds": [0.01] * 4,
        "peak_bytes": [1 << 30, 2 << 30, 3 << 29, 1 << 30],
    }
    return line | other


def write_run(
    folder: Path,
    steps: int,
    changed: Mapping[int, Mapping[str, Any]] | None = None,
    config: Mapping[str, Any] = CONFIG,
    eval_every: int = 50,
) -> Path:
    """A run of so many steps; `changed`: by step, other figures than the formula's."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_lines(
        folder / "metrics.jsonl",
        (metrics(step, **(changed or {}).get(step, {})) for step in range(1, steps + 1)),
    )
    write_lines(
        folder / "eval.jsonl", (validation(step) for step in range(eval_every, steps + 1, eval_every))
    )
    return folder


def write_lines(path: Path, lines: Iterator[Mapping[str, Any]]) -> None:
    """Objects, one a line."""
    with open(path, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def event(name: str, step: int, **figures: Any) -> dict[str, Any]:
    """A line of events.jsonl."""
    return {"event": name, "date": "2026-01-02T03:04:05+00:00", "step": step, **figures}
