"""What a user types to describe a run, the same for all commands that take a run's description.

`launch/pretrain.py` trains it, `python -m pretrain plan` says beforehand what it will be, `doctor` whether it can be
trained where it is started.
"""

import argparse
from pathlib import Path

from pretrain.config import EarlierCut, Recipe, RunConfig, resolve
from pretrain.errors import UsageError

DEFAULT_RECIPE = Path(__file__).resolve().parents[1] / "launch" / "recipes" / "demo.toml"
DEMO_STORE = Path("runs") / "demo-store"


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Store, recipe, ds_config, backend and overrides, as the public contract names them."""
    parser.add_argument(
        "--data", metavar="STORE", help="token store made by data_prep (default: the demo store)"
    )
    parser.add_argument(
        "--recipe",
        metavar="TOML",
        type=said_path,
        help="what is computed (default: launch/recipes/demo.toml)",
    )
    parser.add_argument(
        "--ds_config", "--deepspeed_config", metavar="JSON", type=said_path, help="how, for both backends"
    )
    parser.add_argument("--backend", choices=("deepspeed", "fsdp"), default="deepspeed")
    parser.add_argument("overrides", metavar="section.key=value", nargs="*", help="recipe keys to replace")


def said_path(text: str) -> Path:
    """A path that was typed; an empty one, as of a variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty; expected a path")
    return Path(text)


def add_output_argument(parser: argparse.ArgumentParser) -> None:
    """The run folder."""
    parser.add_argument(
        "--output", metavar="RUN", type=said_path, help="run folder (default: runs/<name of the recipe>)"
    )


def add_resume_argument(parser: argparse.ArgumentParser) -> None:
    """Which checkpoint the run goes on from."""
    parser.add_argument(
        "--resume",
        metavar="auto|never|PATH",
        default="auto",
        help="continue from a checkpoint (default: auto)",
    )


def chosen_output(arguments: argparse.Namespace) -> Path:
    """The run folder that was named, or the recipe's."""
    output: Path | None = arguments.output
    return output or Path("runs") / (arguments.recipe or DEFAULT_RECIPE).stem


def resolved(
    arguments: argparse.Namespace, world_size: int | None, earlier: EarlierCut | None = None
) -> RunConfig:
    """The configuration of so many ranks, or what of it is that of any number. Raises UsageError as `resolve` does."""
    return resolve(
        recipe_path=arguments.recipe,
        default_recipe=DEFAULT_RECIPE,
        ds_config_path=arguments.ds_config,
        overrides=arguments.overrides,
        world_size=world_size,
        earlier=earlier,
    )


def chosen_store(arguments: argparse.Namespace, recipe: Recipe) -> str | None:
    """The store of the command line or of the recipe; None: those of data.blend, or the demo store.

    Raises UsageError where both a store and a blend are named.
    """
    if arguments.data and recipe.data.blend:
        raise UsageError("--data names one store and data.blend several: leave one of them out.")
    store: str | None = arguments.data or recipe.data.store
    return store


def store_origin(arguments: argparse.Namespace, recipe: Recipe) -> str | None:
    """Who names the store; None: the recipe, whose keys have their origins."""
    if arguments.data:
        return "command line --data"
    return None if recipe.data.store or recipe.data.blend else "the demo store, as none is named"
