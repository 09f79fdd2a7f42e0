"""The recipe: types, ranges, the nearest key, and how a TOML file is read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pretrain.config import Recipe, RunConfig, resolve
from pretrain.errors import UsageError
from tests.worlds import ROOT

DEMO = ROOT / "launch" / "recipes" / "demo.toml"
Read = Callable[..., RunConfig]


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Resolves the text of a recipe and overrides."""

    def from_text(text: str, *overrides: str) -> RunConfig:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return resolve(
            recipe_path=path, default_recipe=DEMO, ds_config_path=None, overrides=overrides, world_size=1
        )

    return from_text


def test_an_empty_recipe_is_the_defaults_and_not_the_demo(read: Read) -> None:
    config = read("")
    assert config.recipe == Recipe()
    assert config.origins == {}


def test_every_key_of_the_contract_is_read(read: Read) -> None:
    recipe = read(
        """
        seed = 7
        [data]
        store = "s"
        seq_len = 64
        objective = "mlm"
        packing = false
        [model]
        preset = "bert-mini"
        dropout = 0
        [train]
        steps = 11
        global_batch = 32
        micro_batch = 8
        activation_checkpointing = 2
        [optimizer]
        name = "adamw"
        lr = 1
        [schedule]
        name = "polynomial"
        warmup = 3
        [eval]
        every = 5
        [checkpoint]
        every = 6
        keep = 2
        [log]
        every = 4
        """
    ).recipe
    assert (recipe.seed, recipe.data.store, recipe.data.seq_len) == (7, "s", 64)
    assert (recipe.data.objective, recipe.data.packing) == ("mlm", False)
    assert (recipe.model.preset, recipe.model.dropout) == ("bert-mini", 0.0)
    assert (recipe.train.steps, recipe.train.global_batch, recipe.train.micro_batch) == (11, 32, 8)
    assert recipe.train.activation_checkpointing == 2
    assert (recipe.optimizer.name, recipe.optimizer.lr) == ("adamw", 1.0)
    assert (recipe.schedule.name, recipe.warmup_steps) == ("polynomial", 3)
    assert (recipe.eval.every, recipe.checkpoint.every, recipe.checkpoint.keep, recipe.log.every) == (
        5,
        6,
        2,
        4,
    )


@pytest.mark.parametrize(("warmup", "steps"), [("0", 0), ("0.25", 10), ("1", 1), ("7", 7), ("40", 40)])
def test_warmup_is_a_share_below_one_and_a_count_from_one_on(read: Read, warmup: str, steps: int) -> None:
    recipe = read(f"[train]\nsteps = 40\n[schedule]\nwarmup = {warmup}").recipe
    assert recipe.warmup_steps == steps


@pytest.mark.parametrize(
    ("text", "key", "nearest"),
    [
        ("[train]\nstep = 3", "train.step", "train.steps"),
        ("[trian]\nsteps = 3", "trian", "train"),
        ("[data]\nseqlen = 8", "data.seqlen", "data.seq_len"),
        ("[optimizer]\nlearning_rate = 1.0\nlr = 1.0", "optimizer.learning_rate", None),
        ("steps = 3", "steps", "train.steps"),
        ("[train]\nlr = 3.0", "train.lr", "optimizer.lr"),
        ("[checkpoint]\nevry = 3", "checkpoint.evry", "checkpoint.every"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(
    read: Read, tmp_path: Path, text: str, key: str, nearest: str | None
) -> None:
    with pytest.raises(UsageError) as error:
        read(text)
    message = str(error.value)
    assert message.startswith(f'{tmp_path / "mine.toml"}: unknown key "{key}"')
    if nearest is None:
        assert "known there: optimizer.name" in message
    else:
        assert message.endswith(f'did you mean "{nearest}"?')


@pytest.mark.parametrize(
    ("text", "key", "complaint"),
    [
        ('[train]\nsteps = "10"', "train.steps", "is '10': input should be a valid integer"),
        ("[train]\nsteps = 10.0", "train.steps", "is 10.0: input should be a valid integer"),
        ("[train]\nsteps = 0", "train.steps", "is 0: input should be greater than 0"),
        ("[train]\nsteps = true", "train.steps", "is True: input should be a valid integer"),
        ('[train]\nmicro_batch = "some"', "train.micro_batch", "is 'some'"),
        ('[train]\nactivation_checkpointing = "half"', "train.activation_checkpointing", "'none' or 'full'"),
        ("[data]\npacking = 1", "data.packing", "is 1: input should be a valid boolean"),
        ('[data]\nobjective = "nps"', "data.objective", "'nsp', 'sop' or 'mlm'"),
        ("[data]\nseq_len = 4", "data.seq_len", "greater than or equal to 8"),
        ("[data]\nmask_probability = 1.5", "data.mask_probability", "less than or equal to 1"),
        ("[model]\ndropout = 1.0", "model.dropout", "less than 1"),
        ("[model]\npreset = 3", "model.preset", "input should be a valid string"),
        ("[optimizer]\nlr = nan", "optimizer.lr", "input should be a finite number"),
        ("[optimizer]\nlr = inf", "optimizer.lr", "input should be a finite number"),
        ("[optimizer]\neps = 1e-38", "optimizer.eps", "is 1e-38: input should be 1.18e-38 or more"),
        ("seed = -1", "seed", "greater than or equal to 0"),
        ("train = 3", "train", "is 3: it must be a section"),
        ("[train.steps]\nx = 1", "train.steps", "input should be a valid integer"),
    ],
)
def test_a_wrong_type_or_range_names_file_key_and_value(
    read: Read, tmp_path: Path, text: str, key: str, complaint: str
) -> None:
    with pytest.raises(UsageError) as error:
        read(text)
    message = str(error.value)
    assert message.startswith(f'{tmp_path / "mine.toml"}: "{key}"')
    assert complaint in message
    assert "\n" not in message


BLEND = """
[[data.blend]]
store = "wiki"
weight = 3
[[data.blend]]
store = "books"
weight = 0.5
"""


def test_a_blend_is_a_list_of_tables(read: Read) -> None:
    stores = read(BLEND).recipe.data.blend
    assert [(each.store, each.weight, each.epochs) for each in stores] == [
        ("wiki", 3.0, None),
        ("books", 0.5, None),
    ]


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.blend.0.weight=2", [("wiki", 2.0), ("books", 0.5)]),
        ("data.blend.1.store=other", [("wiki", 3.0), ("other", 0.5)]),
        ('data.blend=[{store="a", weight=1}]', [("a", 1.0)]),
        ("data.blend=[]", []),
        ("data.store=mine", []),
    ],
)
def test_an_override_reaches_into_a_blend_or_replaces_it(
    read: Read, override: str, expected: list[tuple[str, float]]
) -> None:
    config = read(BLEND, override)
    assert [(each.store, each.weight) for each in config.recipe.data.blend] == expected
    assert config.recipe.data.store == ("mine" if override.startswith("data.store") else None)
    assert f"command line {override!r}" in config.origins.values()


def test_a_blend_replaces_the_recipes_store(read: Read) -> None:
    data = read(
        '[data]\nstore = "s"', 'data.blend=[{store="a", epochs=1}, {store="b", epochs=2}]'
    ).recipe.data
    assert data.store is None
    assert [(each.store, each.epochs) for each in data.blend] == [("a", 1.0), ("b", 2.0)]


@pytest.mark.parametrize(
    ("text", "overrides", "complaint"),
    [
        ('data.store = "s"\n' + BLEND, (), "name one store or several"),
        (BLEND + "epochs = 2", (), '"data.blend.1": give it either a weight or epochs'),
        (BLEND + '[[data.blend]]\nstore = "c"\nepochs = 2', (), "blend has weights and epochs"),
        (BLEND + '[[data.blend]]\nstore = "c"', (), '"data.blend.2": give it either a weight or epochs'),
        (BLEND + "[[data.blend]]\nweight = 1", (), 'mine.toml: "data.blend.2.store": field required'),
        (BLEND, ("data.blend.0.weight=0",), '"data.blend.0.weight" is 0: input should be greater than 0'),
        (BLEND, ("data.blend.0.wieght=1",), '"data.blend.0.wieght"; did you mean "data.blend.weight"?'),
        (BLEND, ("data.blend.7.weight=1",), "data.blend has entries 0, 1, 7: they are numbered from 0"),
        (BLEND, ("data.blend.x.weight=1",), '"data.blend"'),
        ("data.blend = 3", (), '"data.blend" is 3: input should be a valid list'),
        ("[data.blend]\nstore = 's'", (), '"data.blend"'),
    ],
)
def test_a_blend_that_says_too_much_or_too_little(
    read: Read, tmp_path: Path, text: str, overrides: tuple[str, ...], complaint: str
) -> None:
    with pytest.raises(UsageError) as error:
        read(text, *overrides)
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_shares_that_exceed_one_are_refused(read: Read) -> None:
    with pytest.raises(UsageError, match="mask_token_share and random_token_share together exceed 1"):
        read("[data]\nmask_token_share = 0.95")


def test_warmup_that_does_not_end_is_refused(read: Read) -> None:
    with pytest.raises(UsageError, match=r"warmup is 50 steps but train.steps is 10"):
        read("[train]\nsteps = 10\n[schedule]\nwarmup = 50")


def test_a_variant_of_lamb_is_not_one_of_adamw(read: Read, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"mine.toml: optimizer.variant belongs to lamb, not to adamw"):
        read('[optimizer]\nname = "adamw"\nvariant = "nvidia"')
    assert read('[optimizer]\nname = "lamb"\nvariant = "nvidia"').recipe.optimizer.variant == "nvidia"
    with pytest.raises(UsageError, match=r"mine.toml: log.parameters_every belongs to lamb, not to adamw"):
        read('[optimizer]\nname = "adamw"\n[log]\nparameters_every = 5')


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[train\nsteps = 1", "is no TOML"),
        (b"[train]\nsteps = 1\n[train]", "is no TOML"),
        (b"a = " + b"[" * 5000, "is no TOML"),
        (b'x = "\xff"', "is no TOML"),
        (b"#" * (1 << 20) + b"\n", "bytes; is it the right file?"),
    ],
    ids=["broken", "a table twice", "deep", "not UTF-8", "too big"],
)
def test_what_is_no_recipe(tmp_path: Path, content: bytes, complaint: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as error:
        resolve(recipe_path=path, default_recipe=DEMO, ds_config_path=None, overrides=[], world_size=1)
    assert f"recipe {path}" in str(error.value)
    assert complaint in str(error.value)


@pytest.mark.parametrize("name", ["missing.toml", ".", "mine.toml/below"])
def test_a_recipe_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    (tmp_path / "mine.toml").write_text("")
    path = tmp_path / name
    with pytest.raises(UsageError, match="cannot be read"):
        resolve(recipe_path=path, default_recipe=DEMO, ds_config_path=None, overrides=[], world_size=1)
