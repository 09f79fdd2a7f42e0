"""Whether a run may go on from a checkpoint: what the further course depends on must be the same."""

from pathlib import Path
from typing import Any

from pretrain.checkpoint.manifest import RunState
from pretrain.errors import DataError, UsageError


def check_same_course(folder: Path, saved: RunState, now: RunState, total_steps: int) -> None:
    """Raises DataError for another token store, UsageError for other sampling, seed or model."""
    if saved.store_fingerprint != now.store_fingerprint:
        raise DataError(
            f"{folder} was trained on another token store (fingerprint {saved.store_fingerprint[:12]}, this one has "
            f"{now.store_fingerprint[:12]}): give that store by --data, or start anew with another --output."
        )
    for name, before, after in (
        ("seed", saved.seed, now.seed),
        *((f"data.{name}", saved.sampling.get(name), value) for name, value in now.sampling.items()),
        ("model class", saved.model_class, now.model_class),
    ):
        if before != after:
            raise UsageError(
                f"{folder} was made with {name} = {before!r}, this run has {after!r}: make them equal, or start anew "
                "with another --output."
            )
    if saved.step > total_steps:
        raise UsageError(
            f"{folder} is at step {saved.step}, beyond train.steps = {total_steps}: raise train.steps."
        )


def is_bitwise(saved: RunState, now: RunState) -> bool:
    """Whether the run goes on in every bit: same backend, stage, ranks, cut, precision and versions."""
    return saved.written_by == now.written_by


def differences(saved: dict[str, Any], now: dict[str, Any], prefix: str = "") -> list[str]:
    """ "key: before -> after" for each value of a resolved config that has changed."""
    found = []
    for key in sorted(saved.keys() | now.keys()):
        before, after = saved.get(key), now.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {before!r} -> {after!r}")
    return found
