"""What launchers and SLURM say of a process, and what of it is refused."""

import pytest

from pretrain.errors import UsageError
from pretrain.placement import FIRST_PORT, NUM_PORTS, Placement, first_host, meeting_point, placed

# As srun sets them: `srun --nodes 3 --ntasks 5`, second task of the second node.
STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NODEID": "1",
    "SLURM_NTASKS": "5",
    "SLURM_STEP_NUM_TASKS": "5",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_STEP_TASKS_PER_NODE": "2(x2),1",
    "SLURM_STEP_NODELIST": "n[1-3]",
}
# `srun --nodes 2 --ntasks-per-node 1`, in the task of the second node.
ONE_PER_NODE = STEP | {
    **{"SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_NTASKS": "2", "SLURM_STEP_NUM_TASKS": "2"},
    **{"SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_TASKS_PER_NODE": "1(x2)", "SLURM_STEP_NODELIST": "n[1-2]"},
}
LAUNCHED = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}


def test_without_a_launcher_it_is_a_world_of_one() -> None:
    assert placed({}) == Placement(0, 0, 1, 1)


def test_a_task_of_slurm_is_a_rank() -> None:
    assert placed(STEP) == Placement(rank=3, local_rank=1, world_size=5, local_world_size=2)
    last = {"SLURM_PROCID": "4", "SLURM_LOCALID": "0", "SLURM_NODEID": "2"}
    assert placed(STEP | last) == Placement(rank=4, local_rank=0, world_size=5, local_world_size=1)


@pytest.mark.parametrize(
    "launched",
    [
        LAUNCHED | {"GROUP_WORLD_SIZE": "2"},  # torchrun
        {name: LAUNCHED[name] for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
        | {"LOCAL_SIZE": "4", "CROSS_SIZE": "2"},  # deepspeed
        LAUNCHED,  # node.sh
    ],
)
def test_launchers_in_a_step_that_are_one_world_hold(launched: dict[str, str]) -> None:
    assert placed(ONE_PER_NODE | launched) == Placement(5, 1, 8, 4)


def test_ranks_set_by_hand_from_the_tasks_hold() -> None:
    by_hand = {"RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "5"}
    assert placed(STEP | by_hand).rank == 3


def test_a_job_without_tasks_of_its_own_and_one_process_on_purpose_are_worlds_of_one() -> None:
    assert placed({"SLURM_JOB_ID": "1", "SLURM_PROCID": "0"}).world_size == 1
    assert placed({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8", "WORLD_SIZE": "1"}).world_size == 1


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        (STEP | {"SLURM_PROCID": "5"}, ["SLURM_PROCID=5", "a task below 5"]),
        (STEP | {"SLURM_STEP_TASKS_PER_NODE": "2,1"}, ["SLURM_STEP_NUM_TASKS=5", "says 3 on 2"]),
        (STEP | {"SLURM_STEP_NUM_NODES": "2"}, ["5 tasks on 2 nodes", "says 5 on 3"]),
        (STEP | {"SLURM_LOCALID": "2"}, ["SLURM_LOCALID=2", "a task on it"]),
        (STEP | {"SLURM_NTASKS": "8"}, ["SLURM_NTASKS=8", "SLURM_STEP_NUM_TASKS=5", "the same number"]),
        (STEP | {"SLURM_NODEID": "one"}, ["SLURM_NODEID", "'one'", "not a number"]),
        # A launcher on each node that knows of itself alone: two trainings in one folder.
        (
            ONE_PER_NODE | LAUNCHED | {"WORLD_SIZE": "4", "RANK": "1"},
            ["TASKS=2", "of 1:", "--nnodes=2"],
        ),
        # One for each task: eight launchers of four ranks, where two know of each other.
        (STEP | LAUNCHED | {"GROUP_WORLD_SIZE": "2"}, ["TASKS=5", "of 2:", "--ntasks-per-node=1"]),
        (STEP | {"RANK": "0", "WORLD_SIZE": "5"}, ["RANK=0", "SLURM_PROCID=3", "same number"]),
        ({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "8"}, ["8 tasks", "1 rank and not 8", "srun"]),
        ({"RANK": "4", "WORLD_SIZE": "4"}, ["RANK=4", "WORLD_SIZE=4", "below"]),
        ({"RANK": "x"}, ["RANK", "'x'", "not a number"]),
    ],
)
def test_contradictions_are_one_sentence_with_what_was_expected(
    environment: dict[str, str], said: list[str]
) -> None:
    with pytest.raises(UsageError) as error:
        placed(environment)
    assert [part for part in said if part not in str(error.value)] == [], error.value
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("nodelist", "first"),
    [
        ("n1", "n1"),
        ("gpu-a,gpu-b", "gpu-a"),
        ("n[03-07,12],m1", "n03"),
        ("n[3,7-9]", "n3"),
        ("rack[2-3]node[0-15]-ib", "rack2node0-ib"),
        ("127.0.0.[1-2]", "127.0.0.1"),
    ],
)
def test_the_first_of_a_host_list(nodelist: str, first: str) -> None:
    """By hand, from the names that `scontrol show hostnames` prints first."""
    assert first_host(nodelist) == first


def test_ranks_of_slurm_meet_on_its_first_node_at_a_port_of_the_job() -> None:
    where = meeting_point(STEP, 5)
    assert (where.address, where.port) == ("n1", 20_000 + 4711)
    ports = [
        meeting_point(STEP | {"SLURM_JOB_ID": job, "SLURM_STEP_ID": step}, 5).port
        for job, step in [("4711", "1"), ("4712", "0"), ("11999", "5"), ("99999999", "0")]
    ]
    assert len({*ports, where.port}) == 5
    assert all(FIRST_PORT <= port < FIRST_PORT + NUM_PORTS for port in ports)


def test_an_address_that_was_set_holds() -> None:
    said = {"MASTER_ADDR": "n1-ib", "MASTER_PORT": "29500"}
    for environment in (said, STEP | said):
        where = meeting_point(environment, 5)
        assert (where.address, where.port) == ("n1-ib", 29500)


@pytest.mark.parametrize("address", ["localhost", "127.0.0.1", "::1"])
def test_the_own_machine_is_no_meeting_point_of_several(address: str) -> None:
    with pytest.raises(
        UsageError, match=rf"'{address}'.*SLURM_STEP_NUM_NODES=3: expected the first node, n1"
    ):
        meeting_point(STEP | {"MASTER_ADDR": address}, 5)
    of_torchrun = {"MASTER_ADDR": address, "TORCHELASTIC_RUN_ID": "7", "MASTER_PORT": "1"}
    assert meeting_point(STEP | of_torchrun, 5).address == address
    on_one = {"SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_TASKS_PER_NODE": "5", "SLURM_NODEID": "0"}
    assert meeting_point(STEP | on_one | {"MASTER_ADDR": address}, 5).address == address


def test_no_address_and_no_slurm_is_refused() -> None:
    with pytest.raises(UsageError, match="WORLD_SIZE=2, but MASTER_ADDR is None and MASTER_PORT ''"):
        meeting_point({}, 2)
