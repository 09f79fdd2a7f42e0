"""Checkpoints: of an optimizer over hand-made shards, saved by one rank; and the one of version 1 that is shipped."""

import json
from pathlib import Path
from typing import Any

from pretrain.checkpoint import save_checkpoint
from pretrain.checkpoint.manifest import MANIFEST_NAME
from pretrain.faults.small import CUT, make_optimizer, state_at
from pretrain.files import sealed
from pretrain.optim import ShardedOptimizer

KEEP = 2
OLD = Path(__file__).parent / "version_1" / "step-00000003"


def save(checkpoints: Path, step: int, optimizer: ShardedOptimizer | None = None) -> Path:
    optimizer = optimizer or make_optimizer(*CUT)
    return save_checkpoint(checkpoints, optimizer, state_at(step, optimizer.applied_steps), KEEP, 0)


def edit_manifest(checkpoint: Path, **changes: Any) -> None:
    """Other values under a checksum that fits."""
    content = json.dumps(manifest_of(checkpoint) | changes, indent=1)
    (checkpoint / MANIFEST_NAME).write_bytes(sealed(content.encode()))


def manifest_of(checkpoint: Path) -> dict[str, Any]:
    """What the manifest says, but for its own checksum."""
    content: dict[str, Any] = json.loads((checkpoint / MANIFEST_NAME).read_text())
    del content["manifest_sha256"]
    return content
