"""Where a process stands among its peers, and where they meet, as launchers say it in the environment.

1. torchrun, deepspeed and `launch/slurm/` set RANK, WORLD_SIZE and the like; those hold.
2. Without them a process that `srun` started takes the place of its task: SLURM_PROCID, SLURM_STEP_NUM_TASKS, ...
3. Without either it is a world of one.

Where a launcher runs in a step of SLURM, both speak: what they say of the same ranks must agree.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pretrain.errors import UsageError

# Ports that neither services nor the kernel's own choices (from 32768 on) have.
FIRST_PORT, NUM_PORTS = 20_000, 12_000
_STEPS_APART = 7  # so that a second step of a job has not the port of the next job's first
_ONE_MACHINE = re.compile(r"localhost|127(\.\d+){3}|::1")
_OF_TORCHRUN = "TORCHELASTIC_RUN_ID"  # its agents have met already, and named the first one's machine
_ONE_PROCESS = "set WORLD_SIZE=1 to train in this process alone"


@dataclass(frozen=True)
class Placement:
    """This process among its peers."""

    rank: int
    local_rank: int
    world_size: int
    local_world_size: int  # ranks on this machine

    @property
    def is_first(self) -> bool:
        return self.rank == 0


@dataclass(frozen=True)
class MeetingPoint:
    """`origin`: the variable that the address is from, and what it says."""

    address: str
    port: int
    origin: str


@dataclass(frozen=True)
class _Step:
    """A step of a SLURM job, seen from one of its tasks."""

    place: Placement
    nodes: int
    nodelist: str

    @property
    def tasks(self) -> int:
        return self.place.world_size


def placed(environment: Mapping[str, str]) -> Placement:
    """Rank, local rank and world size.

    Raises:
        UsageError: a variable is no number, contradicts another one, or tasks that SLURM gave were not started.
    """
    step = _step(environment)
    if "RANK" in environment or "WORLD_SIZE" in environment:
        place = _launched(environment)
        if step is not None:
            _check_agree(environment, place, step)
        return place
    if step is not None:
        return step.place
    tasks = environment.get("SLURM_NTASKS", "1")
    if tasks.isdigit() and int(tasks) > 1:
        raise UsageError(
            f"SLURM gave this job {tasks} tasks (SLURM_NTASKS), and this process was started without srun, which "
            f"would be 1 rank and not {tasks}: put srun in front of the command, or {_ONE_PROCESS}."
        )
    return _launched(environment)


def meeting_point(environment: Mapping[str, str], world_size: int) -> MeetingPoint:
    """MASTER_ADDR and MASTER_PORT; in a step of SLURM, where they are not set, its first node and a port of the job.

    Raises UsageError where nothing says them, or the address is every machine's own and there are several.
    """
    step = _step(environment)
    address, port = environment.get("MASTER_ADDR"), environment.get("MASTER_PORT", "")
    origin = f"MASTER_ADDR is {address!r}"
    if step is not None:
        first = first_host(step.nodelist)
        by_hand = _OF_TORCHRUN not in environment
        if address and by_hand and step.nodes > 1 and _ONE_MACHINE.fullmatch(address) and address != first:
            raise UsageError(
                f"MASTER_ADDR is {address!r}, which is each machine itself, and SLURM_STEP_NUM_NODES={step.nodes}: "
                f"expected the first node, {first}; unset it, or set it to a name that all nodes know."
            )
        origin = origin if address else f"SLURM_STEP_NODELIST is {step.nodelist!r}, its first node {first!r}"
        address, port = address or first, port or str(_port_of_step(environment))
    if not address or not port.isdigit():
        raise UsageError(
            f"Environment says WORLD_SIZE={world_size}, but MASTER_ADDR is {address!r} and MASTER_PORT {port!r}: "
            "start with torchrun or deepspeed, or set both."
        )
    return MeetingPoint(address, int(port), origin)


def first_host(nodelist: str) -> str:
    """The first name of a SLURM host list: "gpu-a" of "gpu-a,gpu-b", "n03" of "n[03-07,12]"."""
    first = re.match(r"(?:[^,\[]|\[[^]]*\])*", nodelist)
    assert first is not None
    return re.sub(r"\[([^],-]*)[^]]*\]", r"\1", first[0])


def _launched(environment: Mapping[str, str]) -> Placement:
    """By the variables of torchrun and deepspeed; a world of one where there are none."""
    # DeepSpeed's launcher says LOCAL_SIZE where torchrun says LOCAL_WORLD_SIZE.
    local_size = environment.get("LOCAL_SIZE", environment.get("WORLD_SIZE", "1"))
    defaults = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": local_size}
    said = {name: environment.get(name, default) for name, default in defaults.items()}
    values = {name: _number(said, name, "start with torchrun or deepspeed") for name in defaults}
    if values["RANK"] >= values["WORLD_SIZE"]:
        raise UsageError(
            f"Environment says RANK={values['RANK']} and WORLD_SIZE={values['WORLD_SIZE']}: a rank must be below the "
            "world size; unset both to run in one process."
        )
    return Placement(
        values["RANK"], values["LOCAL_RANK"], values["WORLD_SIZE"], max(1, values["LOCAL_WORLD_SIZE"])
    )


def _step(environment: Mapping[str, str]) -> _Step | None:
    """None where srun has not started this process. Raises UsageError where SLURM contradicts itself."""
    if "SLURM_STEP_ID" not in environment or "SLURM_PROCID" not in environment:
        return None
    names = ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES")
    rank, local_rank, node, tasks, nodes = (_number(environment, name, _START_BY_SRUN) for name in names)
    layout = environment.get("SLURM_STEP_TASKS_PER_NODE", "")
    per_node = _tasks_per_node(layout)
    said = (
        f"SLURM_PROCID={rank}, SLURM_LOCALID={local_rank}, SLURM_NODEID={node}, SLURM_STEP_NUM_TASKS={tasks}"
    )
    said += f", SLURM_STEP_NUM_NODES={nodes} and SLURM_STEP_TASKS_PER_NODE={layout}"
    if sum(per_node) != tasks or len(per_node) != nodes:
        expected = f"{tasks} tasks on {nodes} nodes, where the last says {sum(per_node)} on {len(per_node)}"
    elif rank >= tasks:
        expected = f"a task below {tasks}, where the first says {rank}"
    elif node >= nodes or local_rank >= per_node[node]:
        expected = "a node of the step and a task on it"
    elif environment.get("SLURM_NTASKS", str(tasks)) != str(tasks):
        said = f"SLURM_NTASKS={environment['SLURM_NTASKS']} and SLURM_STEP_NUM_TASKS={tasks}"
        expected = "the same number"
    else:
        place = Placement(rank, local_rank, tasks, per_node[node])
        return _Step(place, nodes, environment.get("SLURM_STEP_NODELIST", ""))
    raise UsageError(
        f"SLURM's variables contradict each other: {said}; expected {expected}: {_START_BY_SRUN}."
    )


_START_BY_SRUN = "start by srun, and set none of them by hand"


def _check_agree(environment: Mapping[str, str], place: Placement, step: _Step) -> None:
    """That the launcher which each task of the step ran, if it ran one, has made one world of them all.

    A launcher may number its machines as it likes; only ranks set by hand must be SLURM's.
    """
    # How many there are, in torchrun's word and in deepspeed's.
    said = environment.get("GROUP_WORLD_SIZE") or environment.get("CROSS_SIZE") or ""
    launchers = int(said) if said.isdigit() else place.world_size // place.local_world_size
    if launchers != step.tasks and (said or place.world_size != step.tasks):
        raise UsageError(
            f"SLURM and the launcher contradict each other: SLURM_STEP_NUM_TASKS={step.tasks} on {step.nodes} node(s) "
            f"is {step.tasks} launcher(s), and WORLD_SIZE={place.world_size} with LOCAL_WORLD_SIZE="
            f"{place.local_world_size} is of {launchers}: start one on each node (srun --ntasks-per-node=1) that is "
            f"told of all (torchrun --nnodes={step.nodes}), or none."
        )
    if not said and place.world_size == step.tasks and place.rank != step.place.rank:
        raise UsageError(
            f"RANK={place.rank} and SLURM_PROCID={step.place.rank} contradict each other in a world of "
            f"{step.tasks}: expected the same number; unset RANK and WORLD_SIZE, and SLURM's variables hold."
        )


def _number(environment: Mapping[str, str], name: str, remedy: str) -> int:
    text = environment.get(name, "")
    if not (text.isascii() and text.isdigit()):
        raise UsageError(f"Environment variable {name} is {text!r}, not a number: {remedy}.")
    return int(text)


def _tasks_per_node(text: str) -> list[int]:
    """[2, 2, 1] of "2(x2),1"; nothing where it is something else."""
    found: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"(\d{1,6})(?:\(x(\d{1,6})\))?", part, re.ASCII)
        if match is None:
            return []
        found += [int(match[1])] * int(match[2] or 1)
    return found


def _port_of_step(environment: Mapping[str, str]) -> int:
    """The same for all tasks, and most likely another one for each job and step."""
    job, step = environment.get("SLURM_JOB_ID", ""), environment.get("SLURM_STEP_ID", "")
    numbers = [int(each) if each.isdigit() else 0 for each in (job, step)]
    return FIRST_PORT + (numbers[0] + _STEPS_APART * numbers[1]) % NUM_PORTS
