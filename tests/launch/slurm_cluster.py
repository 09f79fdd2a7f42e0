"""A real SLURM cluster of two nodes on this one machine: munged, slurmctld and two slurmd, in a folder of their own.

Each daemon runs in the foreground as a child of this process, which ends it by its process id, and ends with it. Ports
are free ones. The nodes are named by addresses, so that no hosts file has to know them. `/etc/slurm` is not read.
"""

import ctypes
import getpass
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from pretrain.faults.world import free_port
from tests.worlds import environment

NODES = ("127.0.0.1", "127.0.0.2")
CPUS_PER_NODE = 8  # made up: more than the machine may have
START_SECONDS = 30.0
# At least so long a job waits that was queued again: the lifetime of a credential, and five is the least.
CREDENTIAL_SECONDS = 5
# After so many seconds without an answer a node is down, and its jobs are queued again.
DOWN_SECONDS = 4
_COMMANDS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
_ADMINISTRATION = ("/usr/sbin", "/sbin")
_OFFLINE = {
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "PYTHON": sys.executable,
}
_PR_SET_PDEATHSIG = 1  # prctl.h
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")

_CONFIG = """
ClusterName=tested
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire={credential}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=1,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout={down}
KillWait=15
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={nodes[0]} Port={ports[1]} CPUs={cpus} State=UNKNOWN
NodeName={nodes[1]} Port={ports[2]} CPUs={cpus} State=UNKNOWN
PartitionName=tested Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing() -> str | None:
    """Why there can be no cluster here; None where there can."""
    lacking = [name for name in _COMMANDS if shutil.which(name, path=_path()) is None]
    return f"{', '.join(lacking)} not found: install slurm-wlm and munge" if lacking else None


def _path() -> str:
    return os.pathsep.join([os.environ.get("PATH", os.defpath), *_ADMINISTRATION])


class SlurmCluster:
    """`folder` holds everything the daemons write; its path must be short (a socket's has 100 characters at most)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._conf = folder / "slurm.conf"
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    # The daemons.

    def start(self) -> None:
        """Returns when both nodes wait for jobs."""
        for name in ("state", "munged", "slurmctld", *NODES):
            (self.folder / name).mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(64))
        key.chmod(0o600)
        content = _CONFIG.format(
            folder=self.folder,
            host=socket.gethostname(),
            user=getpass.getuser(),
            ports=[free_port() for _ in range(3)],
            nodes=NODES,
            cpus=CPUS_PER_NODE,
            credential=CREDENTIAL_SECONDS,
            down=DOWN_SECONDS,
        )
        self._conf.write_text(content)
        files = {name: self.folder / f"munge{name}" for name in (".socket", "d.pid", "d.log", "d.seed")}
        options = zip(("socket", "pid-file", "log-file", "seed-file"), files.values(), strict=True)
        typed = [f"--{name}={path}" for name, path in options]
        self._start("munged", "munged", "--foreground", "--force", f"--key-file={key}", *typed)
        wait_for(files[".socket"].exists, "munged", START_SECONDS, self._said)
        self._start("slurmctld", "slurmctld", "-D", "-c")
        for node in NODES:
            self.start_node(node)

    def start_node(self, node: str) -> None:
        """A slurmd; returns when the node takes jobs."""
        self._start(node, "slurmd", "-D", "-N", node)
        # One that was down or drained stays so until somebody says otherwise; the others know of no such state.
        self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        others = [each for each in NODES if each in self._daemons]
        wait_for(
            lambda: {"idle", "mixed", "allocated"} >= {self.node_state(each) for each in others},
            f"{node} to take jobs",
            START_SECONDS,
            self._said,
        )

    def kill_node(self, node: str) -> None:
        """As if the machine had lost its power: slurmd and all that it has started are killed."""
        self._daemons[node].kill()
        self._kill_what_is_of(node)
        self._daemons.pop(node).wait()

    def node_state(self, node: str) -> str:
        return self.run("sinfo", "--noheader", "--nodes", node, "--format=%T").stdout.strip()

    def stop(self) -> None:
        """Ends all that was started."""
        self.run("scancel", "--full", "--user", getpass.getuser(), check=False)
        for name in reversed(list(self._daemons)):
            process = self._daemons.pop(name)
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for node in NODES:
            self._kill_what_is_of(node)

    def _kill_what_is_of(self, node: str) -> None:
        """Nobody's children: the processes that slurmd has put beside the jobs. By their working folder, which is
        slurmd's; they have written over their environment."""
        steps = []
        for each in psutil.process_iter():
            with suppress(psutil.Error):
                if each.cwd() == str(self.folder / node):
                    steps.append(each)
        for each in [*(child for step in steps for child in _children(step)), *steps]:
            with suppress(psutil.NoSuchProcess):
                each.kill()

    def _start(self, name: str, *command: str) -> None:
        prctl = ctypes.CDLL(None).prctl
        with open(self.folder / f"{name}.said", "ab") as said:
            self._daemons[name] = subprocess.Popen(
                command,
                env={"PATH": _path(), "SLURM_CONF": str(self._conf)},
                cwd=self.folder / name,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                preexec_fn=lambda: prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
            )

    def _said(self) -> str:
        return "\n".join(f"{path.name}: {path.read_text()[-800:]}" for path in self.folder.glob("*.log"))

    # What a user types.

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        check: bool = True,
        timeout: float = 120.0,
    ) -> subprocess.CompletedProcess[str]:
        """A command in the environment of a user of the cluster; an AssertionError shows what it said."""
        own = environment({**_OFFLINE, "SLURM_CONF": str(self._conf), **(env or {})})
        result = subprocess.run(
            [str(each) for each in command],
            cwd=cwd or self.folder,
            env=own,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert result.returncode == 0 or not check, (
            f"{result.args}: {result.stdout}{result.stderr}{self._said()}"
        )
        return result

    def sbatch(self, *arguments: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
        """The number of the job."""
        return self.run("sbatch", "--parsable", *arguments, cwd=cwd, env=env).stdout.strip()

    def field(self, job: str, name: str) -> str:
        """What `scontrol show job` says of it."""
        said = self.run("scontrol", "show", "job", "-o", job, check=False).stdout
        found = re.search(rf"(?:^| ){name}=(\S*)", said)
        return found[1] if found else ""

    def state(self, job: str) -> str:
        return self.field(job, "JobState")

    def wait_for_end(self, job: str, seconds: float = 120.0, log: Path | None = None) -> str:
        """The state that the job has ended in."""
        self.wait_until(lambda: self.state(job) in _ENDED, f"job {job} to end", seconds, log)
        return self.state(job)

    def wait_until(
        self, condition: Callable[[], object], what: str, seconds: float = 120.0, log: Path | None = None
    ) -> None:
        """AssertionError shows what the job has said."""

        def said() -> str:
            return log.read_text()[-4000:] if log is not None and log.exists() else self._said()

        wait_for(condition, what, seconds, said)


def wait_for(condition: Callable[[], object], what: str, seconds: float, said: Callable[[], str]) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}:\n{said()}"
        time.sleep(0.1)


def _children(process: psutil.Process) -> Sequence[psutil.Process]:
    with suppress(psutil.NoSuchProcess):
        return process.children(recursive=True)
    return []
