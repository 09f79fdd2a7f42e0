"""Pretrain an encoder: `deepspeed launch/pretrain.py --ds_config ds_configs/zero2.json`.

Also `torchrun --nproc-per-node 2 launch/pretrain.py --backend fsdp ...` and plain `python launch/pretrain.py`.
"""

import argparse
import os
import signal
import sys
import time
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
# Python puts this script's folder first, where `pretrain` would be this very file.
sys.path[0] = str(ROOT)

from data_prep.demo import build_demo_store  # noqa: E402
from pretrain import comm  # noqa: E402
from pretrain.build import Request  # noqa: E402
from pretrain.config import resolve  # noqa: E402
from pretrain.errors import PretrainError, StoppedBySignal, UsageError  # noqa: E402
from pretrain.run import train  # noqa: E402
from pretrain.signals import STOP_SIGNALS, StopRequest  # noqa: E402

DEFAULT_RECIPE = ROOT / "launch" / "recipes" / "demo.toml"
DEMO_STORE = Path("runs") / "demo-store"
FIRST_RANK_SPEAKS_SECONDS = 10.0


class Parser(argparse.ArgumentParser):
    """Leaves it to `main` to say what is wrong, once for all ranks."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists what there is.")


def parser() -> argparse.ArgumentParser:
    """The command line of the public contract."""
    parse = Parser(prog="pretrain.py", description=__doc__, allow_abbrev=False)
    parse.add_argument(
        "--data", metavar="STORE", help="token store made by data_prep (default: the demo store, built first)"
    )
    parse.add_argument(
        "--output", metavar="RUN", type=Path, help="run folder (default: runs/<name of the recipe>)"
    )
    parse.add_argument(
        "--recipe", metavar="TOML", type=Path, help="what is computed (default: launch/recipes/demo.toml)"
    )
    parse.add_argument(
        "--ds_config", "--deepspeed_config", metavar="JSON", type=Path, help="how, for both backends"
    )
    parse.add_argument("--backend", choices=("deepspeed", "fsdp"), default="deepspeed")
    parse.add_argument(
        "--resume", metavar="auto|never|PATH", default="auto", help="continue from a checkpoint"
    )
    parse.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    parse.add_argument("overrides", metavar="section.key=value", nargs="*", help="recipe keys to replace")
    return parse


def main() -> int:
    """Runs the training; returns the exit code of the public contract."""
    stop = StopRequest()
    stop.listen()
    rank = 0
    try:
        place = comm.placement()
        rank = place.rank
        arguments = parser().parse_intermixed_args()
        comm.prepare_environment(place)
        config = resolve(
            recipe_path=arguments.recipe,
            default_recipe=DEFAULT_RECIPE,
            ds_config_path=arguments.ds_config,
            overrides=arguments.overrides,
            world_size=place.world_size,
        )
        device = comm.device(place)
        output = arguments.output or Path("runs") / (arguments.recipe or DEFAULT_RECIPE).stem
        store, blend = arguments.data or config.recipe.data.store, config.recipe.data.blend
        if arguments.data and blend:
            raise UsageError("--data names one store and data.blend several: leave one of them out.")
        if store is None and not blend:
            store = DEMO_STORE
            if place.is_first:
                build_demo_store(DEMO_STORE)
        comm.start(place, device)
        train(
            Request(
                config,
                arguments.backend,
                None if store is None else Path(store),
                output,
                arguments.resume,
                place,
                device,
            ),
            stop,
        )
        comm.stop()
    except PretrainError as error:
        say(error, rank)
        return error.exit_code
    return 0


def say(error: PretrainError, rank: int) -> None:
    """Rank 0 speaks for all. Another rank first lets it: a launcher ends every rank when one has ended.

    Whoever is still there after a while met the error alone and says so.
    """
    if rank == 0:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    time.sleep(FIRST_RANK_SPEAKS_SECONDS)
    if not isinstance(error, StoppedBySignal):
        print(f"error: rank {rank}: {error}", file=sys.stderr, flush=True)


def leave(code: int) -> NoReturn:
    """Ends the process with this exit code, whatever other threads are doing.

    After an error the process group is left without a barrier, and an ordinary exit then sometimes aborts
    ("terminate called without an active exception"): the launcher would see that and not the code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
