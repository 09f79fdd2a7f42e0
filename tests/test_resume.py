"""What a run begins with: which checkpoint, what is said of it, and what a damaged one leads to."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from pretrain.checkpoint import RunState, save_checkpoint
from pretrain.comm import Placement
from pretrain.config import Recipe
from pretrain.errors import DataError, UsageError
from pretrain.faults.small import CUT, contents, make_optimizer, state_at
from pretrain.optim import LossScaleState, NoiseScale, ShardedOptimizer, Validations
from pretrain.resume import Resumption, earlier_cut
from tests.checkpoint.saved import OLD
from tests.worlds import run_ranks

FILE = "rank-00000.safetensors"
WRITTEN_BY = {"backend": "fsdp", "ranks": 1, "precision": "fp16", "versions": {"torch": "2.13.0"}}


@dataclass
class FakeBackend:
    """An optimizer over hand-made shards; what the engine would be told is noted."""

    optimizer: ShardedOptimizer = field(default_factory=lambda: make_optimizer(*CUT, seed=9))
    told: list[Any] = field(default_factory=list)

    @property
    def loss_scaler(self) -> Any:
        return self

    def refresh_weights(self) -> None:
        self.told.append("refreshed")

    def restore(self, scale: LossScaleState | None) -> None:
        self.told.append(scale)


@dataclass
class Said:
    """A terminal that remembers."""

    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        self.lines.append(text)


def run_state(step: int, **changes: Any) -> RunState:
    config = {"recipe": Recipe().model_dump(), "ds_config": {"fp16": {"loss_scale_window": 9}}}
    return state_at(step).model_copy(update={"written_by": WRITTEN_BY, "run_config": config, **changes})


def save(checkpoints: Path, step: int, **changes: Any) -> Path:
    """Weights that tell the step."""
    optimizer = make_optimizer(*CUT, seed=step)
    state = run_state(step, applied_steps=step, **changes)
    return save_checkpoint(checkpoints, optimizer, state, 9, 0)


def resumption(
    run: Path, choice: str = "auto", initial: RunState | None = None, repeats_bits: bool = True, **keys: Any
) -> Any:
    place = Placement(dist.get_rank(), 0, dist.get_world_size(), 1)
    recipe = Recipe.model_validate({"checkpoint": keys})
    backend: Any = FakeBackend()
    terminal: Any = Said()
    return Resumption(
        recipe,
        choice,
        run,
        run / "checkpoints",
        initial or run_state(0),
        10,
        "fp16",
        repeats_bits,
        backend,
        NoiseScale(),
        place,
        terminal,
    )


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


@pytest.fixture
def run(tmp_path: Path, one_rank: None) -> Path:
    for step in (1, 2, 3):
        save(tmp_path / "checkpoints", step)
    return tmp_path


def assert_holds(found: Resumption, step: int) -> None:
    for name, values in contents(make_optimizer(*CUT, seed=step)).items():
        assert torch.equal(contents(found.backend.optimizer)[name], values), name


def test_nothing_is_begun_with_nothing(tmp_path: Path, one_rank: None) -> None:
    found = resumption(tmp_path)
    assert found.begin() == run_state(0)
    assert (found.backend.told, found.terminal.lines) == ([], [])


def test_the_latest_fills_everything_and_says_so(run: Path) -> None:
    scale = LossScaleState(512.0, 3, 1, 0)
    changes: dict[str, Any] = {"loss_scale": scale, "tokens": 12345, "seconds": 61.0, "cursor": [1, 2, 3]}
    save(run / "checkpoints", 4, recent_norms=[1.0, 2.0], **changes)
    found = resumption(run)
    assert found.begin().step == 4
    assert_holds(found, 4)
    assert found.backend.told == ["refreshed", scale]
    assert found.terminal.lines == [
        f"Continuing {run}/checkpoints/step-00000004 after step 4, bit for bit.",
        "  restored: master weights of 2 parameters; moments exp_avg, exp_avg_sq after 4 updates; loss scale 512; "
        "2 norms of earlier updates; 12,345 tokens and 61 s of training counted; the row at cursor [1, 2, 3] is next; "
        "every draw by seed 3",
        "  verified: 1 file(s), 0.0 MB, every element accounted for, every checksum right",
    ]


def test_what_stands_against_bit_for_bit_is_named(run: Path) -> None:
    now = WRITTEN_BY | {"ranks": 2, "versions": {"torch": "2.14.0"}}
    found = resumption(run, initial=run_state(0, written_by=now))
    found.begin()
    assert found.terminal.lines[0].endswith(
        "after step 3, within rounding: the machine, the cut or the versions differ."
    )
    assert found.terminal.lines[3:] == [
        "  rounds otherwise by ranks: 1 -> 2",
        "  rounds otherwise by versions.torch: '2.13.0' -> '2.14.0'",
    ]


def test_a_device_that_repeats_no_bits_is_named(run: Path) -> None:
    found = resumption(run, repeats_bits=False)
    found.begin()
    assert found.terminal.lines[0].endswith(
        "after step 3, within rounding: on a GPU train.deterministic=true is what repeats every bit."
    )


@pytest.mark.parametrize(
    ("section", "key", "value", "how"),
    [
        ("optimizer", "lr", 0.5, "with another recipe or loss scale."),
        ("checkpoint", "every", 5, "bit for bit."),
        ("eval", "rows", 5, "bit for bit."),
        ("train", "deterministic", True, "bit for bit."),
    ],
)
def test_a_changed_recipe_is_told_apart_by_what_it_changes(
    run: Path, section: str, key: str, value: Any, how: str
) -> None:
    recipe = Recipe().model_dump()
    before, recipe[section] = recipe[section][key], recipe[section] | {key: value}
    config = {"recipe": recipe, "ds_config": {"fp16": {"loss_scale_window": 9}}}
    found = resumption(run, initial=run_state(0, run_config=config))
    found.begin()
    assert found.terminal.lines[0].endswith(how)
    assert f"  changed since: {section}.{key}: {before!r} -> {value!r}" in found.terminal.lines


def test_a_damaged_latest_ends_the_run_and_says_what_else_there_is(run: Path) -> None:
    flip(run / "checkpoints/step-00000003" / FILE)
    found = resumption(run)
    with pytest.raises(DataError) as error:
        found.begin()
    for part in (
        f"step-00000003/{FILE} differs from its checksum",
        "step-00000002, step-00000001",
        "fall_back=true",
    ):
        assert part in str(error.value)
    assert_holds(found, 9)
    assert (run / "checkpoints/latest").read_text() == "step-00000003\n"


def test_falling_back_takes_the_newest_whole_one_and_says_so(run: Path) -> None:
    flip(run / "checkpoints/step-00000003" / FILE)
    (run / "checkpoints/step-00000002/manifest.json").write_text("{")
    found = resumption(run, fall_back=True)
    assert found.begin().step == 1
    assert_holds(found, 1)
    first, second, third = found.terminal.lines[:3]
    assert (
        f"step-00000003/{FILE} differs" in first
        and f"Falling back to {run}/checkpoints/step-00000002." in first
    )
    assert "step-00000002/manifest.json is not valid JSON" in second and "back to" in second
    assert third.startswith(f"Continuing {run}/checkpoints/step-00000001 after step 1")
    assert (run / "checkpoints/latest").read_text() == "step-00000001\n"


def test_falling_back_never_takes_steps_that_were_left(run: Path) -> None:
    """`latest` was set back to step 2 by --resume: step 3 is of another course."""
    (run / "checkpoints/latest").write_text("step-00000002\n")
    flip(run / "checkpoints/step-00000002" / FILE)
    found = resumption(run, fall_back=True)
    assert found.begin().step == 1


@pytest.mark.parametrize("name", ["step-00000009", "\ufffd", "../checkpoints/step-00000003", ""])
def test_a_latest_that_names_nothing(run: Path, name: str) -> None:
    (run / "checkpoints/latest").write_text(name)
    with pytest.raises(
        DataError, match=r"latest names .* step-00000003, step-00000002, step-00000001 besides"
    ):
        resumption(run).begin()
    found = resumption(run, fall_back=True)
    assert found.begin().step == 3
    assert (run / "checkpoints/latest").read_text() == "step-00000003\n"


def test_nothing_whole_is_left(run: Path) -> None:
    for path in (run / "checkpoints").glob("step-*"):
        flip(path / FILE)
    with pytest.raises(DataError, match=r"step-00000001/.* differs .* No older checkpoint in .* is whole"):
        resumption(run, fall_back=True).begin()


def test_a_checkpoint_that_was_named_is_taken_or_refused_never_replaced(run: Path) -> None:
    named = run / "checkpoints/step-00000002"
    assert resumption(run, str(named)).begin().step == 2
    assert (run / "checkpoints/latest").read_text() == "step-00000002\n"
    flip(named / FILE)
    with pytest.raises(DataError, match=f"step-00000002/{FILE} differs"):
        resumption(run, str(named), fall_back=True).begin()
    with pytest.raises(UsageError, match=r"already holds a run \(step-00000002\)"):
        resumption(run, "never").begin()


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_what_lies_beyond_is_set_aside_and_never_mixed_with_what_follows(run: Path) -> None:
    """Back from 3 to 1, then on to 4 by another course, whose checkpoint is damaged: 1 is the one to fall back to."""
    found = resumption(run, str(run / "checkpoints/step-00000001"))
    found.begin()
    left = f"  set aside: {run}/checkpoints/step-00000003.left and 1 more, saved after this step by a course"
    assert found.terminal.lines[-1].startswith(left)
    kept = ["latest", "step-00000001", "step-00000002.left", "step-00000003.left"]
    assert names(run) == kept
    flip(save(run / "checkpoints", 4) / FILE)
    found = resumption(run, fall_back=True)
    assert found.begin().step == 1
    assert names(run) == [*kept, "step-00000004.left"]
    # Set aside once more: the newer one of that name stays. And what was set aside is another folder's.
    save(run / "checkpoints", 3)
    assert resumption(run, str(run / "checkpoints/step-00000001")).begin().step == 1
    assert names(run) == [*kept, "step-00000004.left"]
    with pytest.raises(UsageError, match="already holds a run"):
        resumption(run, str(run / "checkpoints/step-00000003.left")).begin()
    other = resumption(run / "other", str(run / "checkpoints/step-00000003.left"))
    assert other.begin().step == 3
    assert names(run) == [*kept, "step-00000004.left"]


@pytest.mark.parametrize("keys", [{"seed": 8}, {"store_fingerprint": "other"}])
def test_a_start_that_is_refused_changes_nothing(run: Path, keys: dict[str, Any]) -> None:
    before = names(run)
    with pytest.raises((UsageError, DataError)):
        resumption(run, str(run / "checkpoints/step-00000002"), run_state(0, **keys)).begin()
    assert (names(run), (run / "checkpoints/latest").read_text()) == (before, "step-00000003\n")


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nowhere", "--resume: .*nowhere is not a folder"),
        (".", "is no checkpoint, it has no manifest.json; give one of the checkpoints in .*/checkpoints"),
        (
            "checkpoints",
            "is no checkpoint, it has no manifest.json; give one of the checkpoints in .*/checkpoints",
        ),
    ],
)
def test_a_path_that_is_no_checkpoint_is_a_mistake_of_the_command_line(
    run: Path, path: str, says: str
) -> None:
    with pytest.raises(UsageError, match=says):
        resumption(run / "other", str(run / path)).begin()


def test_validations_are_counted_on_where_the_best_checkpoint_is_elsewhere(run: Path) -> None:
    known = Validations(best_step=4, best_loss=1.5, mark=2.0, without_improvement=2, last_step=4)
    save(run / "checkpoints", 4, validations=known)
    here = resumption(run)
    assert here.begin().validations == known
    assert "best validation 1.5000 at step 4" in here.terminal.lines[1]
    assert (run / "checkpoints/best").read_text() == "step-00000004\n"
    elsewhere = resumption(run / "other", str(run / "checkpoints/step-00000004"))
    assert elsewhere.begin().validations == Validations(None, None, 2.0, 2, 4)
    assert "but not the best checkpoint, which is not in this folder" in elsewhere.terminal.lines[1]


def test_without_checksums_the_accounting_stays(run: Path) -> None:
    path = run / "checkpoints/step-00000003" / FILE
    flip(path)
    found = resumption(run, verify=False)
    assert found.begin().step == 3
    assert "not verified (checkpoint.verify is false)" in found.terminal.lines[2]
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(DataError, match=rf"{FILE} has \d+ bytes, the manifest says \d+"):
        resumption(run, verify=False).begin()


def test_unfinished_folders_and_files_that_nobody_knows_are_in_nobodys_way(run: Path) -> None:
    checkpoints = run / "checkpoints"
    shutil.copytree(checkpoints / "step-00000003", checkpoints / ".step-00000004.partial")
    (checkpoints / "step-of-mine").mkdir()
    (checkpoints / "step-00000005").write_text("a file")
    (checkpoints / "best").write_text("step-00000001\n")
    (checkpoints / "step-00000003" / "rank-00000.json").write_text("{")
    assert resumption(run).begin().step == 3


def on_two_ranks(run: Path, damaged: str, keys: dict[str, Any]) -> tuple[str, list[str], list[float]]:
    """What each rank ends with; `damaged` is what the second rank alone cannot see."""
    found = resumption(run, **keys)
    if dist.get_rank() == 1 and damaged:
        object.__setattr__(found, "checkpoints", run / damaged)
    try:
        end = str(found.begin().step)
    except DataError as error:
        end = str(error)
    return end, found.terminal.lines, contents(found.backend.optimizer)["master bias"].tolist()


def test_two_ranks_come_to_the_same(run: Path) -> None:
    flip(run / "checkpoints/step-00000003" / FILE)
    (one, _, _), (two, _, _) = run_ranks(on_two_ranks, 2, run, "", {})
    assert one == two and f"{FILE} differs from its checksum" in one
    expected = contents(make_optimizer(*CUT, seed=2))["master bias"].tolist()
    # The second rank's own look at the folder counts for nothing.
    ends = run_ranks(on_two_ranks, 2, run, "elsewhere", {"fall_back": True})
    assert [(end, weights) for end, _, weights in ends] == [("2", expected)] * 2


def a_run(folder: Path, *steps: int) -> Path:
    """With the shipped checkpoint, of two ranks with four rows a step, under the names of these steps."""
    checkpoints = folder / "checkpoints"
    for step in steps:
        saved = Path(shutil.copytree(OLD, checkpoints / f"step-{step:08d}"))
        manifest = json.loads((saved / "manifest.json").read_text())
        manifest["state"]["step"] = step
        (saved / "manifest.json").write_text(json.dumps(manifest))
    (checkpoints / "latest").write_text(f"step-{max(steps):08d}\n")
    return folder


def test_the_cut_of_what_the_run_goes_on_from(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", 3)
    cut = earlier_cut(run, "auto")
    assert cut is not None and (cut.ranks, cut.global_batch, cut.micro_batch) == (2, 4, 2)
    assert earlier_cut(tmp_path / "other", str(run / "checkpoints" / "step-00000003")) == cut
    assert earlier_cut(run, "never") is None
    assert earlier_cut(tmp_path / "other", "auto") is None
    assert earlier_cut(tmp_path / "other", str(tmp_path)) is None


def test_a_damaged_latest_leaves_it_to_the_older_ones_to_say_the_cut(tmp_path: Path) -> None:
    run = a_run(tmp_path / "run", 2, 3)
    (run / "checkpoints" / "step-00000003" / "manifest.json").write_text("{")
    cut = earlier_cut(run, "auto")
    assert cut is not None and cut.ranks == 2


def test_a_job_that_has_saved_nothing_says_the_cut_too(tmp_path: Path) -> None:
    """By what its first start wrote; what another job, or a user, left there says nothing."""
    state = json.loads((OLD / "manifest.json").read_text())["state"]
    config = tmp_path / "config.json"
    config.write_text(json.dumps(state["run_config"] | {"run": state["written_by"], "job": "17"}))
    cut = earlier_cut(tmp_path, "auto", "17")
    assert cut is not None and (cut.ranks, cut.global_batch, cut.micro_batch) == (2, 4, 2)
    for choice, job in (("auto", "18"), ("auto", None), ("never", "17")):
        assert earlier_cut(tmp_path, choice, job) is None
    config.write_text(json.dumps(state["run_config"] | {"run": state["written_by"], "job": None}))
    assert earlier_cut(tmp_path, "auto", None) is None
    config.write_text('{"job": "17"')
    assert earlier_cut(tmp_path, "auto", "17") is None
