"""What a run is: from config.json, its checkpoints and its folder; and in what several configs differ."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import prod
from pathlib import Path
from typing import Any

from pretrain import checkpoint
from pretrain.checkpoint import CheckpointManifest
from pretrain.errors import DataError, PretrainError, UsageError
from pretrain.report.axes import NOTHING
from pretrain.report.lines import read_object
from pretrain.run_folder import RunFolder

MAX_RUNS = 8
MAX_DIFFERENCES = 200
MAX_VALUE_CHARACTERS = 160
# What was resolved is compared, not who said it.
_NOT_COMPARED = ("origins",)


@dataclass(frozen=True)
class About:
    """`notes`: what could not be read, in sentences."""

    name: str
    folder: RunFolder
    config: Mapping[str, Any]
    finished_steps: int | None
    notes: Sequence[str]

    def at(self, *keys: str) -> Any:
        """A value of config.json; None where it is not there."""
        found: Any = self.config
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found


def read_runs(paths: Sequence[Path]) -> list[About]:
    """Raises UsageError where one is no run, or there are too many."""
    if len(paths) > MAX_RUNS:
        raise UsageError(f"{len(paths)} runs are too many for a page: name up to {MAX_RUNS}.")
    folders = [RunFolder(path) for path in paths]
    for folder in folders:
        if not folder.path.is_dir():
            raise UsageError(f"{folder.path} is not a folder: give that of a run.")
        if not folder.config.exists() and not folder.metrics.exists():
            raise UsageError(
                f"{folder.path} holds no run, neither config.json nor metrics.jsonl: give the folder that --output of "
                "the training named, once it has begun."
            )
    return [_read(name, folder) for name, folder in zip(_names(paths), folders, strict=True)]


def _names(paths: Sequence[Path]) -> list[str]:
    """The folders' names, with as many of the folders above as tell them apart."""
    resolved = [path.resolve() for path in paths]
    for depth in range(1, max(len(path.parts) for path in resolved) + 1):
        names = ["/".join(path.parts[-depth:]) for path in resolved]
        if len(set(names)) == len(names):
            return names
    return [f"{path.name} ({index + 1})" for index, path in enumerate(resolved)]


def _read(name: str, folder: RunFolder) -> About:
    notes, config, finished = [], {}, None
    try:
        config = read_object(folder.config)
        if not config:
            notes.append("config.json is missing or empty, so little is known of what this run is.")
    except DataError as error:
        notes.append(str(error))
    try:
        finished = folder.finished_steps()
    except (OSError, ValueError) as error:
        notes.append(f"Whether it is finished cannot be read: {error}.")
    return About(name, folder, config, finished, notes)


def described(about: About) -> dict[str, str]:
    """What the run is, by property."""
    run = _mapping(about.at("run"))
    versions = _mapping(run.get("versions"))
    model, parameters = _model(about)
    stores = about.at("blend") if isinstance(about.at("blend"), list) else []
    store = ", ".join(str(each.get("name")) for each in stores if isinstance(each, dict)) or about.at("store")
    content = {
        "model": model,
        "model config": _first(
            about.at("recipe", "model", key) for key in ("preset", "config", "pretrained")
        ),
        "parameters": f"{parameters:,}" if parameters else None,
        "objective": about.at("recipe", "data", "objective"),
        "optimizer": about.at("recipe", "optimizer", "name"),
        "peak learning rate": about.at("schedule", "peak_lr"),
        "rows per step": about.at("recipe", "train", "global_batch"),
        "tokens per row": about.at("recipe", "data", "seq_len"),
        "backend": run.get("backend"),
        "stage": run.get("stage"),
        "ranks": run.get("ranks"),
        "micro-batch x accumulation": _joined(run, ("micro_batch", "accumulation"), " x "),
        "precision": run.get("precision"),
        "device": run.get("device"),
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items()),
        "store": store,
        "store fingerprint": str(about.at("store_fingerprint") or "")[:16],
    }
    return {name: _shown(value) for name, value in content.items() if value not in (None, "")}


def differences(runs: Sequence[About]) -> tuple[list[tuple[str, list[str]]], int]:
    """(key, each run's value) of the keys that differ, and how many more there are."""
    flat = [dict(_flattened(run.config)) for run in runs]
    keys = dict.fromkeys(key for each in flat for key in each)
    rows = [(key, [each.get(key, NOTHING) for each in flat]) for key in keys]
    differing = [(key, values) for key, values in rows if len(set(values)) > 1]
    shown = [
        (_shown(key), [_shown(value) for value in values]) for key, values in differing[:MAX_DIFFERENCES]
    ]
    return shown, len(differing) - len(shown)


def whole_config(about: About, most: int) -> str:
    """All of config.json, indented; cut after `most` characters."""
    text = json.dumps(about.config, indent=2, ensure_ascii=False)
    if len(text) <= most:
        return text
    return f"{text[:most]}\n… {len(text) - most:,} more characters in {about.folder.config}"


def last_written(folder: RunFolder) -> str:
    """When metrics.jsonl was last written to, in UTC."""
    try:
        at = folder.metrics.lstat().st_mtime
    except OSError:
        return NOTHING
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _flattened(value: Any, key: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [
            pair
            for name, inner in value.items()
            if key or name not in _NOT_COMPARED
            for pair in _flattened(inner, f"{key}.{name}" if key else str(name))
        ]
    return [(key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))]


def _model(about: About) -> tuple[Any, int]:
    """The model's class and its number of parameters; of runs whose config.json has neither, by a checkpoint."""
    known = about.at("model", "parameters")
    if isinstance(known, int):
        return about.at("model", "class"), known
    try:
        latest = checkpoint.find_checkpoint(about.folder.checkpoints)
        manifest = None if latest is None else CheckpointManifest.read(latest)
    except (PretrainError, OSError):
        manifest = None
    if manifest is None:
        return None, 0
    return manifest.state.model_class, sum(prod(shape) for shape in manifest.parameters.values())


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _first(values: Any) -> Any:
    return next((value for value in values if value), None)


def _joined(content: Mapping[str, Any], keys: Sequence[str], between: str) -> str | None:
    values = [content.get(key) for key in keys]
    return None if None in values else between.join(map(str, values))


def _shown(value: Any) -> str:
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= MAX_VALUE_CHARACTERS else text[: MAX_VALUE_CHARACTERS - 1] + "…"
