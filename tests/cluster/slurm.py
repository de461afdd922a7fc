"""A Slurm of two nodes on this machine: munged, slurmctld and two slurmd on loopback, all files in one folder.

The nodes are called node1 and node2 in a mount namespace of their own, whose /etc/hosts knows these names; nothing of
the machine's configuration is read or changed.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.faults.processes import descendants

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")
NODES = ("node1", "node2")
_SECONDS = 60.0
_OVER = ("FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "COMPLETED", "OUT_OF_MEMORY")
"""States of a job that has ended."""
_CONFIG = """
ClusterName=kelip
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPort={controller}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1
MinJobAge=600
FirstJobId={first_job}
JobRequeue=1
KillWait=30
SlurmdTimeout=10
SlurmdParameters=config_overrides
ReturnToService=2
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node[1-2] NodeHostname={host} NodeAddr=127.0.0.1 Port=[{first}-{last}] CPUs=16 State=UNKNOWN
PartitionName=low Nodes=node[1-2] Default=YES PriorityTier=1 GraceTime=30 MaxTime=INFINITE State=UP
PartitionName=abrupt Nodes=node[1-2] PriorityTier=1 GraceTime=0 MaxTime=INFINITE State=UP
PartitionName=high Nodes=node[1-2] PriorityTier=10 PreemptMode=OFF MaxTime=INFINITE State=UP
"""


def missing_programs() -> list[str]:
    """What is not installed, as Debian's slurm-wlm and munge install it."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    return [name for name in PROGRAMS if shutil.which(name, path=path) is None]


class Slurm:
    """A running cluster."""

    def __init__(self, folder: Path, environment: dict[str, str], rendezvous_port: int) -> None:
        self.folder, self.environment, self.rendezvous_port = folder, environment, rendezvous_port
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str) -> None:
        """Start a daemon: munged, slurmctld or a node."""
        log = (self.folder / f"{name}.out").open("ab")
        # It ends with this process, even where that one is killed.
        command = ["setpriv", "--pdeathsig", "KILL", *_commands(self.folder)[name]]
        self._daemons[name] = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )

    def kill(self, name: str) -> None:
        """Kill a daemon with all that runs below it, as if its machine were gone."""
        process = self._daemons.pop(name)
        gone = [*descendants(process.pid), process.pid, *_steps(self.folder, name)]
        # All stop before the first one dies, so that none can tell the controller of another's death.
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for one in gone:
                with suppress(ProcessLookupError):
                    os.kill(one, number)
        process.wait()

    def stop(self) -> None:
        """End everything, jobs included."""
        for name in reversed(list(self._daemons)):
            self.kill(name)

    def run(self, *command: str, cwd: Path | None = None) -> str:
        """The output of one of Slurm's commands.

        Raises:
            AssertionError: It failed.
        """
        done = subprocess.run(
            command, env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=_SECONDS, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)
        return done.stdout

    def submit(self, *words: str, cwd: Path, environment: Mapping[str, str] | None = None) -> "Job":
        """A job by `sbatch`."""
        done = subprocess.run(
            ["sbatch", "--parsable", *words], env=self.environment | dict(environment or {}), cwd=cwd,
            capture_output=True, text=True, timeout=_SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return Job(self, done.stdout.strip().partition(";")[0], cwd)


@dataclass(frozen=True, slots=True)
class Job:
    """A submitted job."""

    slurm: Slurm
    number: str
    cwd: Path

    def field(self, name: str) -> str:
        """A field of `scontrol show job`."""
        for word in self.slurm.run("scontrol", "show", "job", self.number).split():
            key, _, value = word.partition("=")
            if key == name:
                return value
        raise AssertionError(f"scontrol tells no {name}")

    @property
    def restarts(self) -> int:
        """How often it was queued again."""
        return int(self.field("Restarts"))

    def output(self) -> str:
        """What it printed."""
        return "\n".join(file.read_text(errors="replace") for file in self.cwd.glob(f"*{self.number}.log"))

    def wait(self, state: str, seconds: float) -> None:
        """Until it is in a state.

        Raises:
            AssertionError: It ends in another one, or is not after these seconds.
        """
        deadline = time.monotonic() + seconds
        while (found := self.field("JobState")) != state:
            assert found not in _OVER, (found, self.output())
            assert time.monotonic() < deadline, (found, self.output())
            time.sleep(0.2)


def _free_ports(number: int) -> int:
    """The first of so many free ports in a row."""
    # Another process may look for ports at the same time.
    for first in range(17000 + 100 * (os.getpid() % 100), 30000, number):
        with suppress(OSError):
            for port in range(first, first + number):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")


def _commands(folder: Path) -> dict[str, Sequence[str]]:
    config = str(folder / "slurm.conf")
    # In a mount namespace, where /etc/hosts has the names of the nodes.
    in_namespace = ["unshare", "--mount", "sh", "-c", f'mount --bind "{folder}/hosts" /etc/hosts; exec "$@"', "sh"]
    return {
        "munged": [
            "munged", "--foreground", "--force", f"--socket={folder}/munge.socket", f"--key-file={folder}/munge.key",
            f"--pid-file={folder}/munged.pid", f"--log-file={folder}/munged.log", f"--seed-file={folder}/munged.seed",
        ],
        "slurmctld": ["slurmctld", "-D", "-f", config],
    } | {node: [*in_namespace, "slurmd", "-D", "-f", config, "-N", node] for node in NODES}  # fmt: skip


def _steps(folder: Path, node: str) -> list[int]:
    """The PIDs of a node's steps, which are no children of its slurmd, and of what runs in them."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            environment = file.read_bytes()
            if f"SLURMD_NODENAME={node}".encode() not in environment or str(folder).encode() not in environment:
                continue
            found.add(int(file.parent.name))
            # slurmstepd writes its title over its environment: it is known by what it has started.
            parent = (file.parent / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1]
            if b"slurmstepd" in Path(f"/proc/{parent}/cmdline").read_bytes():
                found.add(int(parent))
    return sorted(found)


@contextmanager
def running_slurm(folder: Path) -> Iterator[Slurm]:
    """A cluster that ends with the block."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    (folder / "state").mkdir()
    key = folder / "munge.key"
    key.write_bytes(os.urandom(1024))
    key.chmod(0o400)
    first = _free_ports(4)
    # Lightning's port is the job's number modulo 1,000, and another cluster may run at the same time.
    first_job = 1 + 50 * (os.getpid() % 19)
    text = _CONFIG.format(
        folder=folder, controller=first, first=first + 1, last=first + 2, host=socket.gethostname(), first_job=first_job
    )
    (folder / "slurm.conf").write_text(text, encoding="utf-8")
    names = "".join(f"127.0.0.1 {name}\n" for name in NODES)
    (folder / "hosts").write_text(f"{Path('/etc/hosts').read_text(encoding='utf-8')}\n{names}", encoding="utf-8")
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    environment = dict(os.environ) | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    slurm = Slurm(folder, environment, first + 3)
    try:
        slurm.start("munged")
        _until(lambda: (folder / "munge.socket").exists(), "munged", slurm)
        for name in ("slurmctld", *NODES):
            slurm.start(name)
        _until(lambda: _idle(slurm) == len(NODES), "the nodes", slurm)
        yield slurm
    finally:
        slurm.stop()


def _idle(slurm: Slurm) -> int:
    """Nodes that wait for a job."""
    done = subprocess.run(
        ["sinfo", "-h", "-p", "low", "-o", "%D %t"], env=slurm.environment, capture_output=True, text=True, check=False
    )
    return sum(int(line.split()[0]) for line in done.stdout.splitlines() if line.split()[1:] == ["idle"])


def _until(holds: Callable[[], bool], what: str, slurm: Slurm) -> None:
    deadline = time.monotonic() + _SECONDS
    while not holds():
        logs = "\n".join(f"{file.name}:\n{file.read_text()[-2000:]}" for file in slurm.folder.glob("*.out"))
        logs += "\n".join(f"{file.name}:\n{file.read_text()[-2000:]}" for file in slurm.folder.glob("*.log"))
        assert time.monotonic() < deadline, f"{what} did not start:\n{logs}"
        time.sleep(0.1)
