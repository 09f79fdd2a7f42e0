"""Every shipped recipe works with every shipped ds_config, and the documents name every key."""

import re
from inspect import signature
from pathlib import Path
from typing import Any, get_args

import pytest
from deepspeed.ops.lamb import FusedLamb
from pydantic import BaseModel

from pretrain.build import optimizer_rule
from pretrain.config import Recipe, batch_cut, resolve
from pretrain.config.complaints import known_keys
from pretrain.model.presets import PRESETS
from pretrain.optim import LambOptions, Schedule
from pretrain.pace import build_schedule
from tests.worlds import ROOT

RECIPES = sorted((ROOT / "launch" / "recipes").glob("*.toml"))
DS_CONFIGS = sorted((ROOT / "ds_configs").glob("*.json"))
README = ROOT / "README.md"
DEMO = ROOT / "launch" / "recipes" / "demo.toml"


def leaf_keys(model: type[BaseModel]) -> list[str]:
    """Dotted keys that hold values, not sections."""
    keys = list(known_keys(model))
    return [key for key in keys if not any(other.startswith(key + ".") for other in keys)]


def test_what_is_shipped() -> None:
    names = {f"zero{stage}{precision}" for stage in range(4) for precision in ("", "_fp32", "_bf16", "_fp16")}
    assert {path.stem for path in DS_CONFIGS} == names | {"zero2_offload", "zero3_offload"}
    assert {path.stem for path in RECIPES} >= {
        "demo",
        "bert-base",
        "bert-large-phase1",
        "bert-large-phase2",
        "bert-large-deepspeed-phase1",
        "bert-large-deepspeed-phase2",
    }


@pytest.mark.parametrize("world_size", [1, 8])
@pytest.mark.parametrize("ds_config", DS_CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_goes_with_every_ds_config(recipe: Path, ds_config: Path, world_size: int) -> None:
    config = resolve(
        recipe_path=recipe,
        default_recipe=DEMO,
        ds_config_path=ds_config,
        overrides=[],
        world_size=world_size,
    )
    stage, _, precision = ds_config.stem.removeprefix("zero").partition("_")
    assert config.engine.stage == int(stage)
    assert config.engine.bf16.enabled == {"": "auto", "offload": "auto", "bf16": True}.get(precision, False)
    assert config.engine.fp16.enabled == (precision == "fp16")
    micro_batch, accumulation = batch_cut(config, world_size)
    assert micro_batch * accumulation * world_size == config.recipe.train.global_batch
    assert config.recipe.model.pretrained or config.recipe.model.preset in PRESETS


# NVIDIA DeepLearningExamples, PyTorch/LanguageModeling/BERT, scripts/configs/pretrain_config.sh, dgxa100_8gpu_fp16: the
# batch of a GPU (8,192; 4,096), GPUs (8), rate, steps, warm-up.
# DeepSpeed, docs/_tutorials/bert-pretraining.md: the batch, rate and offset, planned steps, warm-up, steps of a decay.
NVIDIA = {
    "bert-large-phase1": (8_192 * 8, 6e-3, 7_038, 0.2843),
    "bert-large-phase2": (4_096 * 8, 4e-3, 1_563, 0.128),
}
DEEPSPEED = {
    "bert-large-deepspeed-phase1": (64 * 1024, 11e-3, 10e-4, 7_500, 0.02, 250),
    "bert-large-deepspeed-phase2": (32 * 1024, 2e-3, 0.0, 7_500, 0.02, 150),
}


def shipped(name: str) -> Recipe:
    path = ROOT / "launch" / "recipes" / f"{name}.toml"
    return resolve(
        recipe_path=path, default_recipe=DEMO, ds_config_path=None, overrides=[], world_size=1
    ).recipe


def schedule_of(recipe: Recipe) -> Schedule:
    def no_samples() -> float:
        raise AssertionError("no rule goes by samples")

    return build_schedule(recipe, no_samples)[0]


@pytest.mark.parametrize("name", NVIDIA)
def test_nvidias_recipe_has_the_published_numbers(name: str) -> None:
    batch, rate, steps, warmup = NVIDIA[name]
    recipe = shipped(name)
    schedule, first = schedule_of(recipe), round(warmup * steps)
    assert (recipe.train.global_batch, recipe.optimizer.lr, recipe.train.steps) == (batch, rate, steps)
    assert recipe.optimizer.weight_decay == 0.01
    assert optimizer_rule(recipe) == LambOptions(0.9, 0.999, 1e-6, trust_without_decay=False)
    # Polynomial of power 0.5 from step 0, which warm-up hides at first.
    assert schedule(first - 1) == pytest.approx(rate)
    assert schedule(first) == pytest.approx(rate * (1 - warmup) ** 0.5, rel=1e-3)
    assert schedule(steps - 1) == pytest.approx(rate * steps**-0.5)


@pytest.mark.parametrize("name", DEEPSPEED)
def test_deepspeeds_recipe_has_the_published_numbers(name: str) -> None:
    batch, rate, offset, planned, warmup, decay_every = DEEPSPEED[name]
    recipe = shipped(name)
    schedule, first = schedule_of(recipe), round(warmup * planned)
    assert recipe.train.global_batch == batch
    assert (recipe.optimizer.weight_decay, recipe.optimizer.gradient_clipping) == (0.01, 1.0)
    rule = optimizer_rule(recipe)
    assert isinstance(rule, LambOptions)
    assert (rule.bias_correction, rule.min_trust, rule.max_trust) == (False, 0.01, 0.3)
    theirs = signature(FusedLamb).parameters  # what the published JSON leaves open
    assert (rule.eps, (rule.beta1, rule.beta2)) == (theirs["eps"].default, theirs["betas"].default)
    # "EE": the offset plus the rate times (x / warm-up)^2, then times 0.9 in every so many steps.
    assert schedule(first // 2 - 1) == pytest.approx((rate + offset) / 4)
    for step in (first, first + decay_every, first + 2 * decay_every + 7):
        expected = offset + rate * 0.9 ** ((step - first) / decay_every)
        assert schedule(step) == pytest.approx(expected), step


def test_second_phases_begin_where_their_source_says() -> None:
    """NVIDIA keeps the moments and counts from 1; DeepSpeed, which corrects no bias, loads its whole checkpoint."""
    assert shipped("bert-large-phase2").phase.moments == "nvidia-kept"
    assert shipped("bert-large-deepspeed-phase2").phase.moments == "kept"
    for name in ("bert-large-phase2", "bert-large-deepspeed-phase2"):
        first, second = shipped(name.replace("2", "1")), shipped(name)
        assert first.model == second.model and first.seed != second.seed
        assert (first.data.seq_len, second.data.seq_len) == (128, 512)


@pytest.mark.parametrize("key", leaf_keys(Recipe))
def test_readme_has_the_recipe_key_with_its_default(key: str) -> None:
    """Rows read `| `section.key` | default | meaning |`."""
    rows = re.findall(r"^\| `([\w.]+)` \| ([^|]+) \|", README.read_text(encoding="utf-8"), re.MULTILINE)
    assert dict(rows).get(key, "missing").strip().strip("`") == default_of(key)


def test_readme_has_no_other_key_and_none_twice() -> None:
    text = README.read_text(encoding="utf-8")
    sections = "|".join(name for name, field in Recipe.model_fields.items() if field.annotation is not int)
    rows = re.findall(rf"^\| `(seed|(?:{sections})\.[\w.]+)` \|", text, re.MULTILINE)
    assert sorted(rows) == sorted(leaf_keys(Recipe))


def default_of(key: str) -> str:
    """As a row shows it; a key of a list of tables is shown as that of one of them."""
    section: Any = Recipe
    *sections, name = key.split(".")
    for each in sections:
        annotation = section.model_fields[each].annotation
        section = next(kind for kind in (annotation, *get_args(annotation)) if hasattr(kind, "model_fields"))
    field = section.model_fields[name]
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    shown = "none" if value is None else str(value)
    return shown.lower() if isinstance(value, bool) else shown
