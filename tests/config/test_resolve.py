"""Layers and their origins, what is said twice, DeepSpeed's own blocks, and the cut of the batch."""

import json
from pathlib import Path
from typing import Any

import pytest

from pretrain.config import RunConfig, batch_cut, resolve
from pretrain.errors import UsageError
from tests.worlds import ROOT

DEMO = ROOT / "launch" / "recipes" / "demo.toml"

LAMB = {
    "lr": 0.5,
    "betas": [0.8, 0.99],
    "eps": 1e-8,
    "weight_decay": 0.1,
    "max_coeff": 0.3,
    "min_coeff": 0.01,
}
WARMUP = {"warmup_min_lr": 0, "warmup_max_lr": 0.25, "warmup_num_steps": 5, "total_num_steps": 50}


class Layers:
    """A folder with a recipe, a default recipe and a ds_config."""

    def __init__(self, folder: Path) -> None:
        self.recipe = folder / "mine.toml"
        self.default = folder / "default.toml"
        self.engine = folder / "ds.json"

    def resolve(
        self,
        *overrides: str,
        recipe: str | None = None,
        default: str | None = None,
        engine: dict[str, Any] | None = None,
        world_size: int = 1,
    ) -> RunConfig:
        self.recipe.write_text(recipe or "")
        self.default.write_text(default or "")
        self.engine.write_text(json.dumps(engine))
        return resolve(
            recipe_path=None if recipe is None else self.recipe,
            default_recipe=self.default,
            ds_config_path=None if engine is None else self.engine,
            overrides=overrides,
            world_size=world_size,
        )


@pytest.fixture
def layers(tmp_path: Path) -> Layers:
    return Layers(tmp_path)


def test_each_value_knows_where_it_came_from(layers: Layers) -> None:
    config = layers.resolve(
        "train.steps=20",
        recipe="seed = 7\n[train]\nsteps = 10\n",
        engine={"train_batch_size": 64, "gradient_clipping": 0.5},
    )
    assert (config.recipe.seed, config.recipe.train.steps, config.recipe.train.global_batch) == (7, 20, 64)
    assert config.origins == {
        "seed": str(layers.recipe),
        "train.steps": "command line 'train.steps=20'",
        "train.global_batch": f"ds_config {layers.engine} (train_batch_size)",
        "optimizer.gradient_clipping": f"ds_config {layers.engine} (gradient_clipping)",
    }


def test_the_resolved_whole_spells_out_every_default_and_is_json(layers: Layers) -> None:
    content = json.loads(json.dumps(layers.resolve("seed=3").as_dict()))
    assert content["recipe"]["seed"] == 3
    assert content["recipe"]["optimizer"]["eps"] == 1e-6
    assert content["ds_config"]["zero_optimization"]["stage"] == 0
    assert content["origins"] == {"seed": "command line 'seed=3'"}


def test_the_default_recipe_is_replaced_by_whatever_is_said_elsewhere(layers: Layers) -> None:
    default = "seed = 1\n[train]\nglobal_batch = 64\nsteps = 300\n[optimizer]\nlr = 1e-2\n"
    config = layers.resolve("train.steps=5", default=default, engine={"train_batch_size": 8})
    assert (config.recipe.train.global_batch, config.recipe.train.steps, config.recipe.seed) == (8, 5, 1)
    assert config.origins["seed"] == "default recipe default.toml"
    assert config.origins["train.global_batch"].startswith("ds_config")
    with pytest.raises(UsageError, match=r"train.global_batch is 64 .* but 8"):
        layers.resolve(recipe=default, engine={"train_batch_size": 8})


def test_a_named_recipe_takes_nothing_from_the_default_one(layers: Layers) -> None:
    config = layers.resolve(recipe="[train]\nsteps = 4\n", default="seed = 1\n")
    assert (config.recipe.seed, config.recipe.train.steps) == (42, 4)


@pytest.mark.parametrize("layer", ["recipe", "default"])
def test_a_model_named_on_the_command_line_replaces_the_recipes_model(layers: Layers, layer: str) -> None:
    text = {layer: '[model]\npreset = "bert-tiny"\ndropout = 0.0\n'}
    model = layers.resolve("model.config=mine.json", **text).recipe.model  # type: ignore[arg-type]
    assert (model.preset, model.config, model.pretrained, model.dropout) == (None, "mine.json", None, 0.0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optimizer.lr=1e-3", 1e-3),
        ("optimizer.lr=1", 1.0),
        ("optimizer.lr = 0.5", 0.5),
        ('data.store="a b"', "a b"),
        ("data.store=a/b-c.d", "a/b-c.d"),
        ("data.store=x=y", "x=y"),
        ("data.packing=false", False),
        ("train={steps=3}", 3),
    ],
)
def test_an_override_is_toml_or_a_bare_word(layers: Layers, text: str, value: Any) -> None:
    config = layers.resolve(text)
    key = "train.steps" if text.startswith("train=") else text.partition("=")[0].strip()
    section, _, name = key.partition(".")
    assert getattr(getattr(config.recipe, section), name) == value
    assert config.origins == {key: f"command line {text!r}"}


@pytest.mark.parametrize("text", ["train.steps", "=3", "steps", "3"])
def test_an_override_without_key_or_value(layers: Layers, text: str) -> None:
    with pytest.raises(UsageError, match=r"is not of the form section\.key=value"):
        layers.resolve(text)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("train.step=3", 'unknown key "train.step"; did you mean "train.steps"?'),
        ("trian.steps=3", 'unknown key "trian"; did you mean "train"?'),
        ("steps=3", 'unknown key "steps"; did you mean "train.steps"?'),
        (".steps=3", 'unknown key ""'),
        ("train.steps=three", "\"train.steps\" is 'three': input should be a valid integer."),
        ("train.steps=", "\"train.steps\" is '': input should be a valid integer."),
        ("train.steps=[1, 2]", '"train.steps" is [1, 2]: input should be a valid integer.'),
        ("train=3", '"train" is 3: it must be a section'),
    ],
)
def test_a_wrong_override_is_quoted(layers: Layers, text: str, complaint: str) -> None:
    with pytest.raises(UsageError) as error:
        layers.resolve(text, recipe="[train]\nsteps = 10\n")
    assert str(error.value).startswith(f"command line {text!r}: {complaint}")


def test_a_key_inside_a_value(layers: Layers) -> None:
    with pytest.raises(
        UsageError, match=r'"train.steps.x" is inside "steps", which is a value and no section'
    ):
        layers.resolve("train.steps.x=3", recipe="[train]\nsteps = 10\n")


def test_a_contradiction_within_a_section_names_both_places(layers: Layers) -> None:
    with pytest.raises(UsageError) as error:
        layers.resolve("data.random_token_share=0.5", recipe="[data]\nmask_token_share = 0.8\n")
    assert str(layers.recipe) in str(error.value)
    assert "command line 'data.random_token_share=0.5'" in str(error.value)


@pytest.mark.parametrize(
    ("recipe", "engine", "key"),
    [
        ("[train]\nglobal_batch = 64", {"train_batch_size": 64}, "train_batch_size"),
        (
            "[train]\nmicro_batch = 4",
            {"train_micro_batch_size_per_gpu": 4},
            "train_micro_batch_size_per_gpu",
        ),
        ("[optimizer]\ngradient_clipping = 1.0", {"gradient_clipping": 1}, "gradient_clipping"),
        (
            "[optimizer]\nlr = 0.5",
            {"optimizer": {"type": "Lamb", "params": {"lr": 0.5}}},
            "optimizer.params.lr",
        ),
        ('[optimizer]\nname = "adamw"', {"optimizer": {"type": "Adam"}}, "optimizer.type"),
        (
            "[train]\nsteps = 50",
            {"scheduler": {"type": "WarmupDecayLR", "params": {"total_num_steps": 50}}},
            "scheduler.params.total_num_steps",
        ),
        (
            "[optimizer]\nlr = 0.25",
            {"scheduler": {"type": "WarmupDecayLR", "params": {"warmup_max_lr": 0.25}}},
            "scheduler.params.warmup_max_lr",
        ),
    ],
)
def test_what_is_said_twice_must_agree_and_auto_agrees(
    layers: Layers, recipe: str, engine: dict[str, Any], key: str
) -> None:
    agreeing = layers.resolve(recipe=recipe, engine=engine)
    assert str(layers.recipe) in agreeing.origins.values()
    silent = json.loads(json.dumps(engine), parse_int=lambda _: "auto", parse_float=lambda _: "auto")
    layers.resolve(recipe=recipe, engine=silent)
    other = recipe.replace("= 64", "= 32").replace("= 4", "= 2").replace("adamw", "lamb")
    other = other.replace("= 1.0", "= 2.0").replace("= 50", "= 60").replace("= 0.", "= 0.1")
    with pytest.raises(UsageError) as error:
        layers.resolve(recipe=other, engine=engine)
    assert f" in {layers.recipe} but " in str(error.value)
    assert f" in ds_config {layers.engine} ({key}): make them equal" in str(error.value)


def test_a_contradiction_with_the_command_line_quotes_it(layers: Layers) -> None:
    with pytest.raises(UsageError) as error:
        layers.resolve("train.global_batch=8", engine={"train_batch_size": 16})
    assert "train.global_batch is 8 in command line 'train.global_batch=8' but 16 in" in str(error.value)


def test_auto_in_the_recipe_gives_way_to_the_ds_config(layers: Layers) -> None:
    config = layers.resolve(
        recipe='[train]\nmicro_batch = "auto"\n', engine={"train_micro_batch_size_per_gpu": 2}
    )
    assert config.recipe.train.micro_batch == 2


def test_deepspeeds_optimizer_block(layers: Layers) -> None:
    optimizer = layers.resolve(engine={"optimizer": {"type": "FusedLamb", "params": LAMB}}).recipe.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.beta1, optimizer.beta2) == ("lamb", 0.5, 0.8, 0.99)
    assert (optimizer.eps, optimizer.weight_decay) == (1e-8, 0.1)
    assert (optimizer.max_trust, optimizer.min_trust) == (0.3, 0.01)
    adam = layers.resolve(engine={"optimizer": {"type": "Adam", "params": {"bias_correction": False}}})
    assert (adam.recipe.optimizer.name, adam.recipe.optimizer.bias_correction) == ("adamw", False)
    auto = layers.resolve(engine={"optimizer": {"type": "AdamW", "params": dict.fromkeys(LAMB, "auto")}})
    assert set(auto.origins) == {"optimizer.name"}


def test_deepspeeds_scheduler_block(layers: Layers) -> None:
    config = layers.resolve(engine={"scheduler": {"type": "WarmupDecayLR", "params": WARMUP}})
    recipe = config.recipe
    assert (recipe.schedule.name, recipe.warmup_steps) == ("linear", 5)
    assert (recipe.train.steps, recipe.optimizer.lr) == (50, 0.25)


@pytest.mark.parametrize("name", ["WarmupLR", "WarmupDecayLR"])
@pytest.mark.parametrize(
    ("rate", "peak", "resolved"),
    [(0.5, 0.5, 0.5), (1, 1.0, 1.0), (0.5, "auto", 0.5), ("auto", 0.25, 0.25), (0.5, 0.25, None)],
)
def test_rates_of_both_of_deepspeeds_blocks_agree(
    layers: Layers, name: str, rate: Any, peak: Any, resolved: float | None
) -> None:
    engine = {
        "optimizer": {"type": "Lamb", "params": {"lr": rate}},
        "scheduler": {"type": name, "params": {"warmup_max_lr": peak}},
    }
    if resolved is not None:
        assert layers.resolve(engine=engine).recipe.optimizer.lr == resolved
        return
    with pytest.raises(UsageError) as error:
        layers.resolve("optimizer.lr=0.5", engine=engine)
    assert str(error.value) == (
        f"ds_config {layers.engine}: optimizer.params.lr is 0.5 but scheduler.params.warmup_max_lr is 0.25: make them "
        'equal, or write "auto" for one.'
    )


@pytest.mark.parametrize(
    ("block", "name", "said"),
    [
        (
            {
                "type": "WarmupLR",
                "params": {"warmup_max_lr": 0.25, "warmup_num_steps": 5, "warmup_type": "log"},
            },
            "constant",
            {"warmup": 5.0, "warmup_shape": "log"},
        ),
        (
            {"type": "WarmupCosineLR", "params": {"total_num_steps": 50, "cos_min_ratio": 0.1}},
            "cosine",
            {"end_share": 0.1, "warmup_shape": "linear"},
        ),
        (
            {"type": "WarmupDecayLR", "params": {"warmup_type": "linear"}},
            "linear",
            {"warmup_shape": "linear"},
        ),
    ],
)
def test_deepspeeds_other_schedulers(
    layers: Layers, block: dict[str, Any], name: str, said: dict[str, Any]
) -> None:
    config = layers.resolve(engine={"scheduler": block})
    assert config.recipe.schedule.name == name
    for key, value in said.items():
        assert getattr(config.recipe.schedule, key) == value
    assert config.origins["schedule.name"] == f"ds_config {layers.engine} (scheduler.type)"
    # Told apart from what the recipe says otherwise.
    with pytest.raises(UsageError, match=r"schedule.name is 'step' in"):
        layers.resolve('schedule.name="step"', engine={"scheduler": block})


def test_deepspeeds_sgd(layers: Layers) -> None:
    params = {"lr": 0.5, "momentum": 0.8, "nesterov": True, "weight_decay": 0.0}
    optimizer = layers.resolve(engine={"optimizer": {"type": "SGD", "params": params}}).recipe.optimizer
    assert (optimizer.name, optimizer.lr, optimizer.momentum, optimizer.nesterov) == ("sgd", 0.5, 0.8, True)
    with pytest.raises(UsageError, match=r"optimizer.momentum belongs to sgd, not to lamb"):
        layers.resolve(engine={"optimizer": {"type": "Lamb", "params": {"momentum": 0.8}}})


def test_deepspeeds_batch_blocks(layers: Layers) -> None:
    engine = {"train_micro_batch_size_per_gpu": 4, "gradient_accumulation_steps": 2}
    config = layers.resolve(engine=engine, world_size=3)
    assert config.recipe.train.global_batch == 24
    assert (
        "train_micro_batch_size_per_gpu x gradient_accumulation_steps x 3 ranks"
        in config.origins["train.global_batch"]
    )
    assert batch_cut(config, 3) == (4, 2)


@pytest.mark.parametrize(
    ("overrides", "engine", "world_size", "cut"),
    [
        (["train.global_batch=64"], {}, 1, (64, 1)),
        (["train.global_batch=256"], {}, 1, (64, 4)),  # 64 rows of 128 tokens are the 8192 that auto allows
        (["train.global_batch=256", "data.seq_len=512"], {}, 2, (16, 8)),
        (["train.global_batch=14"], {"gradient_accumulation_steps": 7}, 2, (1, 7)),
        (["train.global_batch=24", "train.micro_batch=3"], {}, 2, (3, 4)),
        (["train.global_batch=4", "data.seq_len=16384"], {}, 1, (1, 4)),
        (["train.global_batch=134"], {}, 1, (2, 67)),  # 67 is prime
        (
            [],
            {"train_batch_size": 12, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 3},
            2,
            (2, 3),
        ),
    ],
)
def test_the_cut_of_the_batch(
    layers: Layers, overrides: list[str], engine: dict[str, Any], world_size: int, cut: tuple[int, int]
) -> None:
    config = layers.resolve(*overrides, engine=engine, world_size=world_size)
    assert batch_cut(config, world_size) == cut
    assert cut[0] * cut[1] * world_size == config.recipe.train.global_batch


@pytest.mark.parametrize(
    ("overrides", "engine", "world_size", "complaint"),
    [
        (["train.global_batch=6"], {}, 4, "6 rows does not divide over 4 ranks"),
        (["train.global_batch=2"], {}, 4, "is 2 rows but there are 4 ranks"),
        (
            ["train.global_batch=8", "train.micro_batch=3"],
            {},
            1,
            "is 8 rows, no multiple of micro-batch 3 x 1 rank(s) = 3: change train.global_batch or",
        ),
        (
            ["train.global_batch=8", "train.micro_batch=16"],
            {},
            1,
            "is 8 rows, no multiple of micro-batch 16 x 1 rank(s) = 16",
        ),
        (
            ["train.global_batch=18", "train.micro_batch=4"],
            {},
            2,
            "is 18 rows, no multiple of micro-batch 4 x 2 rank(s) = 8",
        ),
        (["train.global_batch=8"], {"gradient_accumulation_steps": 3}, 1, "micro-batch 2 x 1 ranks x 3"),
        (["train.global_batch=8"], {"gradient_accumulation_steps": 9}, 1, "micro-batch 1 x 1 ranks x 9"),
        (
            [],
            {"train_batch_size": 8, "train_micro_batch_size_per_gpu": 2, "gradient_accumulation_steps": 2},
            1,
            "is 8 rows, but micro-batch 2 x 1 ranks x 2 accumulation steps is 4: change train.global_batch, "
            "train.micro_batch or gradient_accumulation_steps so that the product is equal, or start 2 rank(s).",
        ),
    ],
)
def test_a_product_that_does_not_divide(
    layers: Layers, overrides: list[str], engine: dict[str, Any], world_size: int, complaint: str
) -> None:
    config = layers.resolve(*overrides, engine=engine, world_size=world_size)
    with pytest.raises(UsageError) as error:
        batch_cut(config, world_size)
    assert complaint in str(error.value)
