"""Two hosts on this machine: network namespaces with a cable between them, own host names and an own /etc/hosts."""

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.slow_link import SlowLink, slow_link
from tests.paths import ROOT

_NUMBERS = itertools.count()
ADDRESSES = {"host1": "10.231.7.1", "host2": "10.231.7.2"}


def missing() -> str | None:
    """Why there can be no hosts; `None`: there can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "ip or unshare is not installed (apt install iproute2 util-linux)"
    return None


@dataclass(frozen=True, slots=True)
class Hosts:
    """Both hosts; files are shared, as on a cluster."""

    prefix: str
    folder: Path

    def namespace(self, host: str) -> str:
        """The network namespace of a host."""
        return f"{self.prefix}{host[-1]}"

    def start(self, host: str, *command: str, cwd: Path, **environment: str) -> "subprocess.Popen[str]":
        """A command on a host, its output in CWD/HOST.log."""
        prepare = f'hostname {host}; mount --bind "{self.folder}/{host}.hosts" /etc/hosts; exec "$@"'
        words = ["ip", "netns", "exec", self.namespace(host), "unshare", "--uts", "--mount", "sh", "-c", prepare, "sh"]
        variables = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
        log = (cwd / f"{host}.log").open("a", encoding="utf-8")
        return subprocess.Popen(
            [*words, *command], cwd=cwd, env=variables, stdout=log, stderr=log, text=True, start_new_session=True
        )

    def torchrun(
        self,
        host: str,
        *command: str,
        endpoint: str = "host1:29500",
        options: Sequence[str] = (),
        cwd: Path,
        **environment: str,
    ) -> "subprocess.Popen[str]":
        """docs/cluster.md's command for machines without Slurm, with one process and further options of torchrun."""
        words = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"]
        words += ["--rdzv-backend=c10d", f"--rdzv-endpoint={endpoint}", "--rdzv-id=test", *options]
        return self.start(host, *words, "-m", "kelip_lightning", *command, cwd=cwd, **environment)

    def cut(self, host: str) -> None:
        """Pull the cable of a host."""
        _run("ip", "-n", self.namespace(host), "link", "set", "cable", "down")

    def connect(self, host: str) -> None:
        """Put it back."""
        _run("ip", "-n", self.namespace(host), "link", "set", "cable", "up")


@contextmanager
def two_hosts(
    folder: Path, *, own_names_are_loopback: bool = False, link: SlowLink | None = None, rate: str | None = None
) -> Iterator[Hosts]:
    """Hosts that are gone after the block.

    Args:
        folder: For their files.
        own_names_are_loopback: Each knows its own name as 127.0.1.1, as Debian installs it.
        link: Between them instead of a cable.
        rate: Of the cable in both directions, as tc has it; `None`: unlimited.
    """
    hosts = Hosts(f"kelip{os.getpid()}-{next(_NUMBERS)}-", folder)
    spaces = [hosts.namespace(name) for name in ADDRESSES]
    for host in ADDRESSES:
        own = {host: "127.0.1.1"} if own_names_are_loopback else {}
        lines = [f"{address} {name}\n" for name, address in (ADDRESSES | own).items()]
        (folder / f"{host}.hosts").write_text("127.0.0.1 localhost\n" + "".join(lines), encoding="utf-8")
    stack = ExitStack()
    try:
        for space in spaces:
            _run("ip", "netns", "add", space)
        if link is None:
            peer = ["peer", "name", "cable", "netns", spaces[1]]
            _run("ip", "link", "add", "cable", "netns", spaces[0], "type", "veth", *peer)
        else:
            stack.enter_context(slow_link((spaces[0], spaces[1]), "cable", link))
        for space, address in zip(spaces, ADDRESSES.values(), strict=True):
            _run("ip", "-n", space, "address", "add", f"{address}/24", "dev", "cable")
            for name in ("lo", "cable"):
                _run("ip", "-n", space, "link", "set", name, "up")
            if rate is not None:
                limit = ["rate", rate, "burst", "256k", "latency", "50ms"]
                _run("tc", "-n", space, "qdisc", "add", "dev", "cable", "root", "tbf", *limit)
        yield hosts
    finally:
        stack.close()
        for space in spaces:
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, (command, done.stderr)
