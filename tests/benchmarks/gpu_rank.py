"""One rank of a run of `gpu`: `python -m tests.benchmarks.gpu_rank TASK.json`, by torchrun or as a plain program.

What its clock has seen goes into `rank-N.json` in the task's folder; what it died of into `error-N.txt`.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pretrain import comm
from pretrain.comm import Placement
from tests.benchmarks.gpu_trainer import TrainerRun, train_trainer
from tests.benchmarks.step_clock import Steps, Timing
from tests.benchmarks.training_ours import OurRun, train_ours


def main(task_file: str) -> None:
    """Joins the others, and trains."""
    task, place = json.loads(Path(task_file).read_text()), comm.placement()
    output = Path(task["output"])
    try:
        steps = trained(task, place)
    except Exception as error:
        (output / f"error-{place.rank:05d}.txt").write_text(f"{type(error).__name__}: {error}")
        raise
    (output / f"rank-{place.rank:05d}.json").write_text(json.dumps(asdict(steps)))
    comm.stop()


def trained(task: dict[str, Any], place: Placement) -> Steps:
    """Ours as it is launched; Trainer on one rank as a plain program, because it wraps its model in DDP wherever the
    environment speaks of a launcher."""
    timing, store, asked = Timing(**task["timing"]), Path(task["store"]), task["run"]
    if task["kind"] == "trainer":
        comm.start(place, comm.device(place) if place.world_size > 1 else torch.device("cpu"))
        return train_trainer(store, Path(task["samples"]), TrainerRun(**asked), timing)
    comm.prepare_environment(place)
    comm.start(place, comm.device(place))
    run = OurRun(**asked | {"settings": tuple(asked["settings"])})
    return train_ours(store, run, timing, torch.get_num_threads())


if __name__ == "__main__":
    main(sys.argv[1])
