"""Which data a run may go on with: the same store or blend, wherever it lies now."""

import json
from pathlib import Path

import pytest

from pretrain.checkpoint import RunState, SavedStore, check_same_course, is_same_course, recipe_changes
from pretrain.config import Recipe
from pretrain.errors import DataError, PretrainError, UsageError
from pretrain.faults.small import state_at
from pretrain.optim import LossScaleState, NoiseState

FOLDER = Path("run/checkpoints/step-00000003")
ONE = SavedStore(name="one", fingerprint="1" * 64, weight=2)
TWO = SavedStore(name="two", fingerprint="2" * 64, weight=1)
THREE = SavedStore(name="three", fingerprint="3" * 64, weight=1)


def state(*stores: SavedStore, fingerprint: str = "f" * 64) -> RunState:
    return state_at(3).model_copy(update={"blend": list(stores), "store_fingerprint": fingerprint})


def test_the_same_data_is_the_same_wherever_it_lies() -> None:
    check_same_course(FOLDER, state(), state(), 10)
    moved = [store.model_copy(update={"name": f"elsewhere/{store.name}"}) for store in (ONE, TWO)]
    check_same_course(FOLDER, state(ONE, TWO), state(*moved), 10)


@pytest.mark.parametrize(
    ("saved", "now", "kind", "message"),
    [
        (state(), state(fingerprint="e" * 64), DataError, "another token store"),
        (state(ONE, TWO), state(ONE, THREE), DataError, "two is not there now; three is new"),
        (
            state(ONE, TWO),
            state(ONE, THREE.model_copy(update={"name": "two"})),
            DataError,
            r"another blend: two holds another store now \(fingerprint 2{12} before, 3{12} now\)\. Name",
        ),
        (state(ONE, TWO), state(ONE, TWO, THREE), DataError, "another blend: three is new"),
        (state(ONE, TWO, THREE), state(ONE, TWO), DataError, "another blend: three is not there now"),
        (
            state(ONE, TWO),
            state(ONE, TWO.model_copy(update={"weight": 5})),
            UsageError,
            "shared the rows 2 : 1, now 2 : 5",
        ),
        (state(ONE, TWO), state(TWO, ONE), UsageError, "came in the order one, two"),
        (state(ONE, TWO), state(), UsageError, "was trained on a blend, and this run reads one store"),
        (state(), state(ONE, TWO), UsageError, "was trained on one store, and this run reads a blend"),
    ],
)
def test_other_data_is_refused_naming_the_difference(
    saved: RunState, now: RunState, kind: type[PretrainError], message: str
) -> None:
    with pytest.raises(kind, match=message) as error:
        check_same_course(FOLDER, saved, now, 10)
    assert str(FOLDER) in str(error.value)


def test_a_checkpoint_from_before_blends_is_read() -> None:
    content = state().model_dump()
    del content["blend"]
    assert RunState.model_validate(content) == state()


def test_a_checkpoint_from_before_loss_scales_is_read_and_one_with_a_scale_goes_through_json() -> None:
    content = state().model_dump()
    del content["loss_scale"]
    assert RunState.model_validate(content) == state()
    scaled = state().model_copy(update={"loss_scale": LossScaleState(0.5, 3, 1, 2)})
    assert RunState.model_validate_json(scaled.model_dump_json()) == scaled


def test_a_checkpoint_from_before_the_rule_for_spikes_is_read() -> None:
    content = state().model_dump()
    del content["recent_norms"], content["spikes_in_row"], content["skipped_tokens"]
    assert RunState.model_validate(content) == state()


def test_a_checkpoint_from_before_the_noise_scale_is_read_and_averages_go_through_json() -> None:
    content = state().model_dump()
    del content["noise"]
    assert RunState.model_validate(content) == state()
    measured = state().model_copy(update={"noise": NoiseState(3, 0.1, -1 / 3)})
    assert RunState.model_validate_json(measured.model_dump_json()) == measured


def test_what_is_written_and_where_the_run_ends_is_no_other_course() -> None:
    assert is_same_course([])
    assert is_same_course(["log.noise_every: 0 -> 5", "train.hours: None -> 2.0", "data.store: 'a' -> 'b'"])
    assert not is_same_course(["log.noise_every: 0 -> 5", "optimizer.lr: 0.1 -> 0.2"])


def test_an_option_that_came_later_had_its_default_before() -> None:
    old, now = (
        {"seq_len": 128, "objective": "mlm"},
        {"seq_len": 128, "objective": "mlm", "whole_words": False},
    )
    saved, following = (state().model_copy(update={"sampling": sampling}) for sampling in (old, now))
    check_same_course(FOLDER, saved, following, 10)
    changed = state().model_copy(update={"sampling": now | {"whole_words": True}})
    with pytest.raises(UsageError, match=r"data\.whole_words = False, this run has True"):
        check_same_course(FOLDER, saved, changed, 10)


def test_weights_of_any_size_go_through_json() -> None:
    large = state(ONE.model_copy(update={"weight": 10**30 + 1}), TWO)
    assert RunState.model_validate_json(large.model_dump_json()) == large


def test_a_recipe_key_that_came_later_is_no_change() -> None:
    now = Recipe().model_dump()
    old = json.loads(json.dumps(now))
    del old["train"]["label_smoothing"], old["schedule"], old["seed"]
    assert recipe_changes(old, now) == []
    changed = Recipe.model_validate({"train": {"label_smoothing": 0.1}}).model_dump()
    assert recipe_changes(old, changed) == ["train.label_smoothing: 0.0 -> 0.1"]


def test_a_checkpoint_from_before_tokens_were_counted_is_read() -> None:
    content = state().model_dump()
    del content["tokens"], content["seconds"]
    assert RunState.model_validate(content) == state()


@pytest.mark.parametrize(
    ("before", "after", "part"),
    [
        (
            "a" * 64,
            "b" * 64,
            rf"made by another tokenizer \(tokenizer\.json {'a' * 12}, now {'b' * 12}\): give",
        ),
        ("a" * 64, "a" * 64, "made by the same tokenizer of another text or in another way: give"),
        ("", "b" * 64, r"this one has e{12}\): give"),  # of an earlier release
    ],
)
def test_of_another_store_it_says_whether_the_tokenizer_differs(before: str, after: str, part: str) -> None:
    saved, now = state(), state(fingerprint="e" * 64)
    one, other = (
        each.model_copy(update={"tokenizer_sha256": sha256})
        for each, sha256 in ((saved, before), (now, after))
    )
    with pytest.raises(DataError, match=part):
        check_same_course(FOLDER, one, other, 10)
