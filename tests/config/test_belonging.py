"""Keys that have a meaning only beside others: refused where they would have no effect, missed where needed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.config import RunConfig, resolve
from pretrain.config.belonging import BELONGING
from pretrain.errors import UsageError

Read = Callable[..., RunConfig]
DEFAULT = """
[train]
steps = 70
[optimizer]
name = "lamb"
variant = "nvidia"
beta2 = 0.98
[schedule]
name = "polynomial"
power = 0.5
end_lr = 1e-5
warmup = 0.2
"""


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Resolves overrides over a recipe, or where that is None over the default one."""

    def from_text(text: str | None, *overrides: str) -> RunConfig:
        mine, default = tmp_path / "mine.toml", tmp_path / "default.toml"
        mine.write_text(text or "")
        default.write_text(DEFAULT)
        return resolve(
            recipe_path=None if text is None else mine,
            default_recipe=default,
            ds_config_path=None,
            overrides=overrides,
            world_size=1,
        )

    return from_text


# What a value that fits would be, and what else the choice then needs.
VALUES = {
    "optimizer.variant": "nvidia",
    "optimizer.bias_correction": "false",
    "optimizer.nesterov": "true",
    "optimizer.trust_1d": "false",
    "optimizer.base_batch": "512",
    "log.parameters_every": "5",
}
NEEDED = {
    "step": ("schedule.decay_rate=0.5", "schedule.decay_every=3"),
    "exponential": ("schedule.decay_rate=0.5", "schedule.decay_every=3"),
    "linear": ("optimizer.base_batch=256",),
    "sqrt": ("optimizer.base_batch=256",),
}
CASES = [(choice, key, values) for choice, keys in BELONGING.items() for key, values in keys.items()]


@pytest.mark.parametrize(("choice", "key", "values"), CASES)
def test_a_key_where_it_belongs_and_where_not(
    read: Read, choice: str, key: str, values: tuple[str, ...]
) -> None:
    override = f"{key}={VALUES.get(key, '0.5')}"
    section, _, name = choice.partition(".")
    kinds = type(getattr(read("").recipe, section)).model_fields[name].annotation.__args__
    assert set(values) < set(kinds)
    for kind in kinds:
        needed = tuple(
            each
            for each in NEEDED.get(kind, ())
            if not each.startswith(key) and (kind != "linear" or choice == "optimizer.lr_scaling")
        )
        chosen = (f"{choice}={kind}", *needed, override)
        if kind in values:
            assert key in read("", *chosen).origins
        else:
            with pytest.raises(UsageError) as error:
                read("", *chosen)
            assert f"{key} belongs to " in str(error.value)
            assert str(error.value).startswith(f"command line {override!r}: ")
            assert str(error.value).endswith(f", not to {kind}.")


def test_what_only_the_default_recipe_says_gives_way(read: Read) -> None:
    recipe = read(None, "optimizer.name=sgd", "schedule.name=constant").recipe
    assert (recipe.optimizer.name, recipe.schedule.name) == ("sgd", "constant")
    with pytest.raises(UsageError, match=r"mine.toml: optimizer.variant belongs to lamb, not to sgd"):
        read(DEFAULT, "optimizer.name=sgd", "schedule.name=constant")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (
            'schedule.name = "step"\nschedule.decay_every = 3',
            "schedule.decay_rate is missing: the schedule step",
        ),
        ('schedule.name = "exponential"\nschedule.decay_rate = 0.5', "schedule.decay_every is missing"),
        ('optimizer.lr_scaling = "sqrt"', "optimizer.base_batch is missing"),
        ('optimizer = {name = "sgd", momentum = 0, nesterov = true}', "nesterov needs a momentum"),
        ("schedule = {warmup = 3, warmup_samples = 10}", "warmup and .* they exclude each other, say one"),
        ("schedule = {end_lr = 0.1, end_share = 0.1}", "end_lr and .* they exclude each other, say one"),
        ("schedule.warmup = 30\ntrain = {tokens = 3000, global_batch = 1}", "by train.tokens the run has 24"),
        ("train.tokens = 0", "greater than 0"),
        ("train.hours = 0", "greater than 0"),
        ("train.label_smoothing = 1", "less than 1"),
    ],
)
def test_too_much_or_too_little(read: Read, text: str, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as error:
        read(text)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "gone"),
    [
        ("schedule.warmup_samples=5000", "schedule.warmup"),
        ("schedule.end_share=0.1", "schedule.end_lr"),
    ],
)
def test_the_one_replaces_the_other(read: Read, override: str, gone: str) -> None:
    for text in (None, DEFAULT):
        origins = read(text, override).origins
        assert gone not in origins
        assert origins[override.partition("=")[0]] == f"command line {override!r}"


def test_the_length_by_steps_and_by_tokens(read: Read) -> None:
    """128 tokens in a row, 4 rows a step: 6 steps take 3,000 tokens if every row is full."""
    tokens = ("train.tokens=3000", "train.global_batch=4")
    assert (read("").recipe.train.steps, read("").recipe.planned_steps) == (1000, 1000)
    for text in ("", None):  # the default recipe's steps give way too
        config = read(text, *tokens)
        assert (config.recipe.train.steps, config.recipe.planned_steps) == (None, 6)
        assert config.origins["train.steps"] == "command line 'train.tokens=3000'"
    both = read("", "train.steps=5", *tokens).recipe
    assert (both.train.steps, both.planned_steps) == (5, 5)
    assert read("", "train.steps=9", *tokens).recipe.planned_steps == 6
    shares = read("", *tokens, "schedule.warmup=0.5", "schedule.name=step", *NEEDED["step"]).recipe
    assert (shares.warmup_steps, shares.decay_steps) == (3, 3)


@pytest.mark.parametrize(("every", "steps"), [("0.25", 10), ("1", 1), ("7", 7), ("0.001", 1)])
def test_decay_every_is_a_share_below_one_and_a_count_from_one_on(read: Read, every: str, steps: int) -> None:
    schedule = f'schedule = {{name = "step", decay_rate = 0.5, decay_every = {every}}}'
    assert read(f"train.steps = 40\n{schedule}").recipe.decay_steps == steps


def test_a_window_needs_its_factor(read: Read) -> None:
    with pytest.raises(
        UsageError, match=r"command line .*: train.spike_window has no meaning alone: say train.sp"
    ):
        read("", "train.spike_window=8")
    assert read("", "train.spike_window=8", "train.spike_factor=3").recipe.train.spike_window == 8


@pytest.mark.parametrize(
    ("optimizer", "is_known"), [("lamb", True), ("adamw", True), ("sgd", False), ("adafactor", False)]
)
def test_bias_correction_begins_anew_where_there_is_one(read: Read, optimizer: str, is_known: bool) -> None:
    phase = (f"optimizer.name={optimizer}", "phase.checkpoint=runs/one", "phase.moments=nvidia-kept")
    if is_known:
        assert read("", *phase).recipe.phase.moments == "nvidia-kept"
        return
    with pytest.raises(
        UsageError, match=rf"moments nvidia-kept belongs to lamb and adamw, .* not to {optimizer}"
    ):
        read("", *phase)


def test_graph_breaks_are_those_of_compiled_layers(read: Read) -> None:
    assert read("", "log.graph_breaks=true", "train.compile=true").recipe.log.graph_breaks
    with pytest.raises(UsageError, match=r"log\.graph_breaks .* say train\.compile=true too"):
        read("", "log.graph_breaks=true")


def test_an_improvement_needs_the_patience_for_it(read: Read) -> None:
    every = "eval.every=5"
    assert read("", every, "eval.patience=2", "eval.min_improvement=0.1").recipe.eval.min_improvement == 0.1
    with pytest.raises(UsageError, match=r"eval\.min_improvement has no meaning alone: say eval\.patience"):
        read("", every, "eval.min_improvement=0.1")


@pytest.mark.parametrize("key", ["eval.patience=2", "checkpoint.best=true"])
def test_the_best_needs_validations(read: Read, key: str) -> None:
    assert read("", "eval.every=5", key).recipe.looks_for_best
    assert not read("", "eval.every=5").recipe.looks_for_best
    with pytest.raises(
        UsageError, match=rf"eval\.every is missing: {key.partition('=')[0]} goes by validations"
    ):
        read("", key)


def test_moments_of_a_phase_need_its_checkpoint(read: Read) -> None:
    assert read("", "phase.checkpoint=runs/one", "phase.moments=kept").recipe.phase.moments == "kept"
    with pytest.raises(UsageError, match=r"phase\.moments has no meaning alone: say phase\.checkpoint"):
        read("", "phase.moments=kept")
