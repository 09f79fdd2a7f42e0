"""The batch script with stand-ins for SLURM's commands: what it composes, forwards and hands back."""

import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.worlds import ROOT, environment

BATCH = ROOT / "launch" / "slurm" / "pretrain.sbatch"
FIRST_PORT = 20_000
JOB = 4_711

# Runs the task once for each node, as srun does, and ends with the highest exit code.
SRUN = """#!/usr/bin/env bash
printf '%s\\n' "$@" > "$LOG/srun-arguments"
while [[ $1 == --* ]]; do shift; done
highest=0
tasks=()
for ((node = 0; node < SLURM_NNODES; node++)); do
  SLURM_NODEID=$node "$@" & tasks+=("$!")
done
printf '%s\\n' "${tasks[@]}" > "$LOG/tasks"
for task in "${tasks[@]}"; do
  code=0; wait "$task" || code=$?
  ((code > highest)) && highest=$code
done
exit "$highest"
"""
SCONTROL = """#!/usr/bin/env bash
echo "$*" >> "$LOG/scontrol"
"""
# A rank: notes what it was given, ends when told to or at once, with the code that the test asks for.
PYTHON = """#!/usr/bin/env bash
trap 'echo "$RANK" >> "$LOG/signalled"; exit 75' USR1
trap 'echo "$RANK" >> "$LOG/terminated"; exit 75' TERM
{
  printf '%s\\n' "$@"
  echo "$MASTER_ADDR:$MASTER_PORT $RANK/$WORLD_SIZE $LOCAL_RANK/$LOCAL_WORLD_SIZE"
} > "$LOG/rank-$RANK"
if [[ $CODES == wait ]]; then for _ in {1..300}; do sleep 0.1; done; exit 99; fi
codes=($CODES)
exit "${codes[RANK]}"
"""


@dataclass(frozen=True)
class Cluster:
    """A folder of stand-ins and of what they noted."""

    log: Path
    env: dict[str, str]

    def batch(self, *arguments: str, codes: str, **variables: str) -> subprocess.CompletedProcess[str]:
        command = ["bash", str(BATCH), *arguments]
        env = self.env | {"CODES": codes} | variables
        return subprocess.run(
            command, env=env, cwd=self.log, capture_output=True, text=True, timeout=60, check=False
        )

    def noted(self, name: str) -> list[str]:
        path = self.log / name
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    commands = tmp_path / "commands"
    commands.mkdir()
    (tmp_path / "launch").symlink_to(ROOT / "launch")
    for name, text in {"srun": SRUN, "scontrol": SCONTROL, "a python": PYTHON}.items():
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    variables = {
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "LOG": str(tmp_path),
        "PYTHON": str(commands / "a python"),
        "RANKS_PER_NODE": "2",
        "SLURM_JOB_ID": str(JOB),
        "SLURM_JOB_NAME": "a name; with $(odd) 'characters'",
        "SLURMD_NODENAME": "node-a",
        "MAX_STARTS": "3",
        "SLURM_NNODES": "2",
        "SLURM_SUBMIT_DIR": str(tmp_path),
    }
    return Cluster(tmp_path, environment(variables))


def test_every_rank_gets_its_place_and_the_arguments(cluster: Cluster) -> None:
    arguments = ["--backend", "fsdp", "--output", "runs/with a space", "data.store=x y"]
    result = cluster.batch(*arguments, codes="0 0 0 0")
    assert result.returncode == 0, result.stderr
    address = f"node-a:{FIRST_PORT + JOB % 12_000}"
    for rank in range(4):
        assert cluster.noted(f"rank-{rank}") == [
            "launch/pretrain.py",
            *arguments,
            f"{address} {rank}/4 {rank % 2}/2",
        ]
    assert cluster.noted("scontrol") == []


def test_one_task_per_node_is_started(cluster: Cluster) -> None:
    cluster.batch(codes="0 0 0 0")
    arguments = cluster.noted("srun-arguments")
    assert {"--nodes=2", "--ntasks=2", "--ntasks-per-node=1"} <= set(arguments)
    assert arguments[-2:] == ["bash", "launch/slurm/node.sh"]


def test_a_run_that_saved_is_queued_again(cluster: Cluster) -> None:
    result = cluster.batch(codes="75 75 75 75")
    assert result.returncode == 75
    assert cluster.noted("scontrol")[-1] == f"requeue {JOB}"


@pytest.mark.parametrize(("codes", "expected"), [("2 2 2 2", 2), ("0 1 0 0", 1), ("75 3 75 75", None)])
def test_a_run_that_failed_is_not(cluster: Cluster, codes: str, expected: int | None) -> None:
    """A mixture of 75 and a failure may end as either, but a failure alone is never hidden."""
    result = cluster.batch(codes=codes)
    if expected is not None:
        assert result.returncode == expected
        assert not any(line.startswith("requeue") for line in cluster.noted("scontrol"))
    assert result.returncode != 0


def test_a_rank_that_was_killed_says_nothing_and_the_others_do(cluster: Cluster) -> None:
    """A rank killed for its memory, and its peers who have ended with 75 as a checkpoint was saved before."""
    assert cluster.batch(codes="137 75 75 75").returncode == 75
    assert cluster.batch(codes="137 1 137 1").returncode == 1


@pytest.mark.parametrize(("number", "note"), [(signal.SIGUSR1, "signalled"), (signal.SIGTERM, "terminated")])
def test_a_signal_to_the_tasks_alone_reaches_every_rank(
    cluster: Cluster, number: signal.Signals, note: str
) -> None:
    """Under some process trackers SLURM signals only the task itself, not its children."""
    with subprocess.Popen(
        ["bash", str(BATCH)], env=cluster.env | {"CODES": "wait"}, stdout=subprocess.PIPE, text=True
    ) as batch:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and not all(cluster.noted(f"rank-{rank}") for rank in range(4)):
            time.sleep(0.1)
        for task in cluster.noted("tasks"):
            os.kill(int(task), number)
        output, _ = batch.communicate(timeout=60)
    assert sorted(cluster.noted(note)) == ["0", "1", "2", "3"], output
    assert batch.returncode == 75
    assert cluster.noted("scontrol")[-1] == f"requeue {JOB}"


def test_a_port_in_use_is_passed_over(cluster: Cluster) -> None:
    with socket.create_server(("127.0.0.1", FIRST_PORT + JOB % 12_000)):
        cluster.batch(codes="0 0 0 0")
    assert cluster.noted("rank-0")[-1].startswith(f"node-a:{FIRST_PORT + JOB % 12_000 + 1} ")


def test_a_port_that_was_asked_for_and_is_taken_is_said(cluster: Cluster) -> None:
    """The other nodes would talk to whoever listens there."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = str(listening.getsockname()[1])
        result = cluster.batch(codes="0 0 0 0", MASTER_PORT=port)
    assert (result.returncode, cluster.noted("srun-arguments")) == (2, [])
    assert f"error: MASTER_PORT is {port}, where another process of " in result.stderr


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("RANKS_PER_NODE", "0", "RANKS_PER_NODE is '0'; expected a number from 1 on"),
        ("RANKS_PER_NODE", "two", "RANKS_PER_NODE is 'two'; expected a number from 1 on"),
        ("MAX_STARTS", "0", "MAX_STARTS is '0'; expected a number from 1 on"),
        ("PYTHON", "/nope/python", "there is no interpreter /nope/python on"),
        ("PYTHON", "", "there is no interpreter .venv/bin/python on"),
    ],
)
def test_a_variable_that_no_job_can_run_with_is_said(
    cluster: Cluster, variable: str, value: str, said: str
) -> None:
    result = cluster.batch(codes="0 0 0 0", **{variable: value})
    assert (result.returncode, cluster.noted("srun-arguments")) == (2, [])
    assert result.stderr.count("error: ") == 1 and said in result.stderr


def test_where_a_job_begins_is_behind_it_when_it_has_saved(cluster: Cluster) -> None:
    """`--resume` with a path, or never, holds for the starts before that; what is typed last holds."""
    typed = ["--resume", "other/checkpoints/step-00000250", "--output", "runs/mine/"]
    for state, expected in (
        (None, typed),
        ("10", [*typed, "--resume", "auto"]),
        ("20", [*typed, "--resume", "auto"]),
    ):
        if state is not None:
            (cluster.log / "runs/mine/checkpoints").mkdir(parents=True, exist_ok=True)
            (cluster.log / "runs/mine/checkpoints/latest").write_text(f"step-{state}\n")
        assert cluster.batch(*typed, codes="75 75 75 75").returncode == 75
        assert cluster.noted("rank-3")[1:-1] == expected
    # Another job begins where it was told to.
    cluster.batch(*typed, codes="75 75 75 75", SLURM_JOB_ID="4712")
    assert cluster.noted("rank-3")[1:-1] == typed


def test_a_start_that_was_refused_leaves_nothing(cluster: Cluster) -> None:
    assert cluster.batch("--output=runs/new", codes="2 2 2 2").returncode == 2
    assert not (cluster.log / "runs" / "new").exists()
    (cluster.log / "runs" / "old").mkdir()
    (cluster.log / "runs" / "old" / "config.json").write_text("{}")
    assert cluster.batch("--output=runs/old", codes="2 2 2 2").returncode == 2
    assert os.listdir(cluster.log / "runs" / "old") == ["config.json"]


def test_gpus_of_the_node_are_the_default_number_of_ranks(cluster: Cluster) -> None:
    cluster.batch(codes="0 0 0 0 0 0", RANKS_PER_NODE="", SLURM_GPUS_ON_NODE="3")
    assert cluster.noted("rank-5")[-1].endswith(" 5/6 2/3")


def test_a_wrong_folder_is_said(cluster: Cluster) -> None:
    result = cluster.batch(codes="0", SLURM_SUBMIT_DIR=str(cluster.log / "commands"))
    assert result.returncode == 2
    assert "submit from the root of the repository" in result.stderr


def test_a_run_folder_that_cannot_be_written_is_said(cluster: Cluster) -> None:
    result = cluster.batch("--output=/proc/run", codes="0 0 0 0")
    assert (result.returncode, result.stderr.count("error: ")) == (2, 1)
    assert "/proc/run/slurm-starts cannot be written on" in result.stderr
    assert cluster.noted("srun-arguments") == []


def test_a_missing_scontrol_is_said_before_anything_is_started(cluster: Cluster) -> None:
    """`bash` and `hostname` are all that is on the path."""
    few = cluster.log / "few"
    few.mkdir()
    for name in ("bash", "hostname"):
        (few / name).symlink_to(shutil.which(name) or "")
    result = cluster.batch(codes="0 0 0 0", PATH=str(few))
    assert result.returncode == 2
    assert "there is no scontrol on" in result.stderr and f"PATH is {few}" in result.stderr


@pytest.mark.parametrize("has_pyxis", [True, False])
def test_ranks_run_in_a_container(cluster: Cluster, has_pyxis: bool) -> None:
    """By SLURM where it has the plugin, else by Apptainer: both stand-ins."""
    commands = Path(cluster.env["PYTHON"]).parent
    if has_pyxis:
        text = (commands / "srun").read_text()
        help_ = "#!/usr/bin/env bash\nif [[ $1 == --help ]]; then echo '   --container-image=...'; exit; fi\n"
        (commands / "srun").write_text(text.replace("#!/usr/bin/env bash\n", help_))
    (commands / "apptainer").write_text(
        '#!/usr/bin/env bash\nprintf "%s\\n" "$@" > "$LOG/apptainer"\nwhile [[ $1 != an* ]]; do shift; done\n'
        'shift; exec "$@"\n'
    )
    (commands / "apptainer").chmod(0o755)
    mounts = "/data:/data,/scratch:/scratch"
    result = cluster.batch("--x", codes="0 0 0 0", CONTAINER="an image", CONTAINER_MOUNTS=mounts)
    assert result.returncode == 0, result.stderr
    assert cluster.noted("rank-3")[:2] == ["launch/pretrain.py", "--x"]
    asked = cluster.noted("srun-arguments")
    here = str(cluster.log)
    if has_pyxis:
        expected = {"--container-image=an image", f"--container-workdir={here}"}
        assert expected | {f"--container-mounts={here}:{here},{mounts}"} <= set(asked)
        assert cluster.noted("apptainer") == []
    else:
        assert not any("container" in each for each in asked)
        words = ["exec", "--nv", "--bind", f"{here},{mounts}", "--pwd", here, "an image"]
        assert cluster.noted("apptainer")[: len(words)] == words


def test_directives_ask_for_what_the_script_relies_on() -> None:
    directives = [line for line in BATCH.read_text().splitlines() if line.startswith("#SBATCH ")]
    assert {
        "#SBATCH --signal=USR1@120",
        "#SBATCH --requeue",
        "#SBATCH --open-mode=append",
    } <= set(directives)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="shellcheck is not installed")
def test_shellcheck_has_no_complaint() -> None:
    scripts = [*sorted(BATCH.parent.glob("*.s*")), ROOT / ".ci" / "run"]
    result = subprocess.run(
        ["shellcheck", "-x", *map(str, scripts)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stdout
