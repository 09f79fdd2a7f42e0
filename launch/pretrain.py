"""Pretrain an encoder: `deepspeed launch/pretrain.py --ds_config ds_configs/zero2.json`.

Also `torchrun --nproc-per-node 2 launch/pretrain.py --backend fsdp ...` and plain `python launch/pretrain.py`.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[1]
# Python puts this script's folder first, where `pretrain` would be this very file.
sys.path[0] = str(ROOT)

from pretrain import garbage  # noqa: E402
from pretrain.said import Said  # noqa: E402
from pretrain.signals import StopRequest  # noqa: E402

STOP, SAID = StopRequest(), Said()
if __name__ == "__main__":
    STOP.listen()  # the libraries below take seconds to import
    SAID.replace()  # and their loggers take hold of the streams that are there
    garbage.pause()

import torch  # noqa: E402

from data_prep.demo import build_demo_store  # noqa: E402
from pretrain import comm  # noqa: E402
from pretrain.build import Request  # noqa: E402
from pretrain.comm import Placement  # noqa: E402
from pretrain.config import WatchSection  # noqa: E402
from pretrain.errors import PretrainError, UsageError  # noqa: E402
from pretrain.resume import earlier_cut  # noqa: E402
from pretrain.run import train  # noqa: E402
from pretrain.run_arguments import (  # noqa: E402
    DEMO_STORE,
    add_output_argument,
    add_resume_argument,
    add_run_arguments,
    chosen_output,
    chosen_store,
    resolved,
)
from pretrain.watch import Watch, WatchOptions  # noqa: E402
from pretrain.watch.activity import ENDING  # noqa: E402

# An exchange fails by itself only long after the watchdog would have ended the process.
GROUP_MARGIN_SECONDS = 60.0
UNWATCHED_SECONDS = 86_400.0


class Parser(argparse.ArgumentParser):
    """Leaves it to `main` to say what is wrong, once for all ranks."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message}; --help lists what there is.")


def parser() -> argparse.ArgumentParser:
    """The command line of the public contract."""
    parse = Parser(prog="pretrain.py", description=__doc__, allow_abbrev=False)
    add_run_arguments(parse)
    add_output_argument(parse)
    add_resume_argument(parse)
    parse.add_argument("--local_rank", type=int, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    return parse


def main() -> int:
    """Runs the training; returns the exit code of the public contract."""
    place, watch = Placement(0, 0, 1, 1), None
    try:
        place = comm.placement()
        SAID.know(place.rank, comm.environment_secrets())
        arguments = parser().parse_intermixed_args()
        comm.prepare_environment(place)
        section = resolved(arguments, None).recipe.watch
        watch = Watch(place, STOP, WatchOptions(**section.model_dump()))
        watch.start()
        join(section, place, comm.device(place), watch)
        run(arguments, place, watch)
        return 0
    except PretrainError as error:
        return (watch or Watch(place, STOP)).say(error)
    except Exception as error:
        if watch is None:
            raise
        watch.explain(error)
    finally:
        if watch is not None:
            watch.close()


def run(arguments: argparse.Namespace, place: Placement, watch: Watch) -> None:
    """Trains, when all have joined: they hear of it then if one is stopped while it builds the demo store."""
    output = chosen_output(arguments)
    earlier = comm.on_first_rank(lambda: earlier_cut(output, arguments.resume, comm.batch_job()))
    config = resolved(arguments, place.world_size, earlier)
    store = chosen_store(arguments, config.recipe)
    if store is None and not config.recipe.data.blend:
        store = str(DEMO_STORE)
        watch.activity.now("building the demo store")
        comm.on_first_rank(lambda: build_demo_store(DEMO_STORE))
    request = Request(
        config,
        arguments.backend,
        None if store is None else Path(store),
        output,
        arguments.resume,
        place,
        comm.device(place),
    )
    train(request, STOP, watch, SAID)
    watch.activity.now(ENDING)
    comm.meet()
    watch.close()
    comm.stop()


def join(section: WatchSection, place: Placement, device: torch.device, watch: Watch) -> None:
    """The process group, with the watchdog's own way to the others."""
    limits = section.seconds, section.start_seconds
    seconds = max(limits) + GROUP_MARGIN_SECONDS if all(limits) else UNWATCHED_SECONDS
    watch.activity.now("joining the other ranks")
    store = comm.open_store(place, seconds)
    watch.join(None if place.world_size == 1 else lambda: comm.watch_store(place))
    comm.start(place, device, store, seconds)
    watch.know(comm.all_gather_objects(watch.introduction()))


def leave(code: int) -> NoReturn:
    """Ends the process with this exit code, whatever other threads are doing.

    After an error the process group is left without a barrier, and an ordinary exit then sometimes aborts
    ("terminate called without an active exception"): the launcher would see that and not the code.
    """
    SAID.end()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    garbage.spare()
    leave(main())
