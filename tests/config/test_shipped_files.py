"""Every shipped recipe works with every shipped ds_config, and the documents name every key."""

import re
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from pretrain.config import Recipe, batch_cut, resolve
from pretrain.config.complaints import known_keys
from pretrain.model.presets import PRESETS
from pretrain.optim import Schedule
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


# NVIDIA DeepLearningExamples, PyTorch/LanguageModeling/BERT, run_pretraining.sh: batch, rate, steps, warm-up.
PUBLISHED = {
    "bert-large-phase1": (65_536, 6e-3, 7_038, 0.2843),
    "bert-large-phase2": (32_768, 4e-3, 1_563, 0.128),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_bert_large_has_the_published_numbers(name: str) -> None:
    batch, rate, steps, warmup = PUBLISHED[name]
    path = ROOT / "launch" / "recipes" / f"{name}.toml"
    recipe = resolve(
        recipe_path=path, default_recipe=DEMO, ds_config_path=None, overrides=[], world_size=1
    ).recipe
    assert (recipe.train.global_batch, recipe.optimizer.lr, recipe.train.steps) == (batch, rate, steps)
    section = recipe.schedule
    schedule = Schedule(section.name, rate, steps, recipe.warmup_steps, section.power, section.end_lr)
    first_after_warmup = round(warmup * steps)
    assert schedule(first_after_warmup - 1) == pytest.approx(rate)
    assert schedule(first_after_warmup) == pytest.approx(rate * (1 - warmup) ** 0.5, rel=1e-3)


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
