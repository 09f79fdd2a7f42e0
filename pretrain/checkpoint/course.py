"""Whether a run may go on from a checkpoint: what the further course depends on must be the same."""

from dataclasses import fields
from pathlib import Path
from typing import Any

from pretrain.checkpoint.manifest import RunState, SavedStore
from pretrain.config import Recipe
from pretrain.data.options import SamplingOptions
from pretrain.errors import DataError, UsageError

# Parts of a recipe that change when things are written or when the run ends, and no result. Of the stores it says where
# they lie; that they and their shares are the same is checked by their fingerprints.
NOT_OF_THE_COURSE = (
    "train.stop_at_step",
    "train.hours",
    "train.max_skipped_steps",
    "train.deterministic",
    "eval.",
    "checkpoint.",
    "log.",
    "watch.",
    "data.store",
    "data.blend",
    "data.verify",
)


def check_same_course(folder: Path, saved: RunState, now: RunState, total_steps: int | None) -> None:
    """Raises DataError for another token store, UsageError for other shares, sampling, seed or model."""
    if saved.blend and now.blend:
        _check_same_blend(folder, saved.blend, now.blend)
    elif saved.blend or now.blend:
        one, other = ("a blend", "one store") if saved.blend else ("one store", "a blend")
        raise UsageError(
            f"{folder} was trained on {one}, and this run reads {other}: give it data as before, or start anew with "
            "another --output."
        )
    elif saved.store_fingerprint != now.store_fingerprint:
        raise DataError(
            f"{folder} was trained on another token store (fingerprint {saved.store_fingerprint[:12]}, this one has "
            f"{now.store_fingerprint[:12]}){_what_differs(saved, now)}: give that store by --data, or start anew with "
            "another --output."
        )
    # An option that came later did what its default does.
    sampling = {option.name: option.default for option in fields(SamplingOptions)} | saved.sampling
    for name, before, after in (
        ("seed", saved.seed, now.seed),
        *((f"data.{name}", sampling[name], value) for name, value in now.sampling.items()),
        ("model class", saved.model_class, now.model_class),
    ):
        if before != after:
            raise UsageError(
                f"{folder} was made with {name} = {before!r}, this run has {after!r}: make them equal, or start anew "
                "with another --output."
            )
    if total_steps is not None and saved.step > total_steps:
        raise UsageError(
            f"{folder} is at step {saved.step}, beyond train.steps = {total_steps}: raise train.steps."
        )


def _what_differs(saved: RunState, now: RunState) -> str:
    """Of two stores, where it is known."""
    one, other = saved.tokenizer_sha256, now.tokenizer_sha256
    if not one or not other:
        return ""
    if one == other:
        return ", made by the same tokenizer of another text or in another way"
    return f", made by another tokenizer (tokenizer.json {one[:12]}, now {other[:12]})"


def _check_same_blend(folder: Path, saved: list[SavedStore], now: list[SavedStore]) -> None:
    """The same stores in the same order with the same shares; where they lie does not matter."""
    before, after = ({store.fingerprint: store.name for store in stores} for stores in (saved, now))
    gone = {name: fingerprint for fingerprint, name in before.items() if fingerprint not in after}
    new = {name: fingerprint for fingerprint, name in after.items() if fingerprint not in before}
    found = [
        f"{name} holds another store now (fingerprint {gone[name][:12]} before, {new[name][:12]} now)"
        for name in gone
        if name in new
    ]
    found += [f"{name} is not there now" for name in gone if name not in new]
    found += [f"{name} is new" for name in new if name not in gone]
    if found:
        raise DataError(
            f"{folder} was trained on another blend: {'; '.join(found)}. Name the stores that it was trained "
            "on in data.blend, or start anew with another --output."
        )
    if list(before) != list(after):
        difference = f"its stores came in the order {', '.join(before.values())}"
    else:
        shares = [" : ".join(str(store.weight) for store in stores) for stores in (saved, now)]
        difference = f"its stores shared the rows {shares[0]}, now {shares[1]}"
        if shares[0] == shares[1]:
            return
    raise UsageError(
        f"{folder} was trained on another blend: {difference}. Make data.blend equal, or start anew with another "
        "--output."
    )


def is_same_course(changes: list[str]) -> bool:
    """Whether none of these `recipe_changes` has a part in what is computed."""
    return all(change.startswith(NOT_OF_THE_COURSE) for change in changes)


def recipe_changes(saved: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """`differences` of two resolved recipes; a key that came after the first was written had its default then."""
    defaults = Recipe().model_dump()
    before = {
        key: default | saved.get(key, {}) if isinstance(default, dict) else saved.get(key, default)
        for key, default in defaults.items()
    }
    return differences(before | {key: saved[key] for key in saved.keys() - before.keys()}, now)


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
