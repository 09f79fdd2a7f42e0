"""One rank of a run of `gpu`, as torchrun starts it: `python -m tests.benchmarks.gpu_rank TASK.json`.

What its clock has seen goes into `rank-N.json` beside the task.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from pretrain import comm
from tests.benchmarks.step_clock import Timing
from tests.benchmarks.training_ours import OurRun, train_ours
from tests.benchmarks.training_peers import PeerRun, train_peer


def main(task_file: str) -> None:
    """Joins the others, and trains."""
    task = json.loads(Path(task_file).read_text())
    place = comm.placement()
    comm.prepare_environment(place)
    device = comm.device(place)
    comm.start(place, device)
    timing, store = Timing(**task["timing"]), Path(task["store"])
    threads = torch.get_num_threads()
    if task["kind"] == "ours":
        asked = task["run"]
        steps = train_ours(store, OurRun(**asked | {"settings": tuple(asked["settings"])}), timing, threads)
    else:
        steps = train_peer(store, Path(task["samples"]), PeerRun(**task["run"]), timing, threads)
    output = Path(task["output"]) / f"rank-{place.rank:05d}.json"
    output.write_text(json.dumps(asdict(steps)))
    comm.stop()


if __name__ == "__main__":
    main(sys.argv[1])
