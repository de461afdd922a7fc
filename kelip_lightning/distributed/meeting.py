"""A meeting of the ranks of an external launcher before long work: one folder on all hosts, and nobody refused.

The ranks talk through torch's TCPStore, which needs no process group: under torchrun that of its agent, under Slurm one
on the host of rank zero, which the process group then shares.
"""

import contextlib
import os
import secrets
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from kelip_lightning.distributed.interfaces import choose_gloo_interface
from kelip_lightning.errors import RunFolderError

_REFUSED = "refused"
_HELD: list["Meeting"] = []
"""The meeting of this process, to its end: others may still read from the store that rank zero keeps."""
_PAUSE_SECONDS = 0.1
_TELLING = timedelta(seconds=60)
"""How long a refused rank tries to reach the store, which rank zero may open some seconds later."""
LAG_SECONDS = 15.0
"""How long a file of another host may take to be seen: network file systems keep listings for seconds."""
_GOODBYE_SECONDS = 15.0
"""How long a refused rank zero keeps its store alive for those who have not read why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """This process among those that a launcher has started."""

    rank: int
    world: int
    address: str
    port: int
    is_host: bool
    """Whether this process keeps the store."""
    num_hosts: int
    """Hosts, or agents of torchrun."""


def place_of_this_process() -> Place | None:
    """Where torchrun or Slurm has placed this process; `None`: neither did, or it is alone."""
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    if "TORCHELASTIC_RUN_ID" in os.environ and all(name in os.environ for name in names):
        rank, world, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
        by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
        place = Place(
            rank=rank,
            world=world,
            address=os.environ["MASTER_ADDR"],
            port=port,
            is_host=rank == 0 and not by_agent,
            num_hosts=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
        )
        return place if world > 1 else None
    if "SLURM_NTASKS" not in os.environ:
        return None
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

    if not SLURMEnvironment.detect():
        return None
    slurm = SLURMEnvironment()
    if slurm.world_size() < 2:
        return None
    rank = slurm.global_rank()
    return Place(
        rank=rank,
        world=slurm.world_size(),
        address=slurm.main_address,
        port=slurm.main_port,
        is_host=rank == 0,
        num_hosts=int(os.environ.get("SLURM_NNODES", "1")),
    )


class Meeting:
    """The store of the ranks, and what they tell one another.

    Args:
        place: Of this process.
        timeout: Longest wait for the others.

    Raises:
        RunFolderError: The store cannot be reached.
    """

    def __init__(self, place: Place, timeout: timedelta) -> None:
        from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

        self._place, self._seconds = place, timeout.total_seconds()
        try:
            self._store: Any = PrefixStore(
                "kelip-meeting",
                TCPStore(
                    place.address, place.port, place.world, place.is_host, timeout, wait_for_workers=False,
                    multi_tenant=True,
                ),
            )  # fmt: skip
        except RuntimeError as error:  # DistNetworkError and DistStoreError
            raise RunFolderError(
                f"rank {place.rank} on {socket.gethostname()} does not reach rank 0 at {place.address}:{place.port} "
                f"within {self._seconds:g} s ({str(error).splitlines()[0]}); check the "
                "names, ports and firewalls of the hosts"
            ) from error

    def agree_on(self, folder: Path) -> None:
        """Check that a folder, which exists on rank zero, is the same one on all hosts.

        Raises:
            RunFolderError: It is not; a rank was refused; or a rank has not come.
        """
        place, host = self._place, socket.gethostname()
        own = folder / f".meeting-{secrets.token_hex(8)}"
        self._store.set(f"host/{place.rank}", host)
        try:
            if place.rank == 0:
                own.write_text(host, encoding="utf-8")
                self._store.set("token", own.name)
            self._wait(["token"])
            token = folder / self._store.get("token").decode()
            self._store.set(f"seen/{place.rank}", "yes" if _until(token.exists, LAG_SECONDS) else "no")
            self._wait([f"seen/{rank}" for rank in range(place.world)])
        except RuntimeError as error:  # of the store
            raise RunFolderError(
                f"rank {place.rank} on {host} has lost rank 0 at {place.address}:{place.port} while it waited for the "
                f"others ({str(error).splitlines()[0]}); look at the log of rank 0"
            ) from error
        finally:
            with contextlib.suppress(OSError):
                own.unlink(missing_ok=True)
        blind = [rank for rank in range(place.world) if self._store.get(f"seen/{rank}") == b"no"]
        first = self._store.get("host/0").decode()
        seers = ", ".join(f"rank {rank} on {self._store.get(f'host/{rank}').decode()}" for rank in blind[:4])
        self._store.set(f"read/{place.rank}", "yes")
        if blind:
            self._wait_for_readers()
            raise RunFolderError(
                f"{folder} is not one folder on all hosts: what rank 0 on {first} wrote there is not seen by {seers}; "
                "set output_dir to a folder that all hosts share"
            )

    def refuse(self, reason: str) -> None:
        """Tell the other ranks why this one goes; rank zero waits until they have read it."""
        place = self._place
        self._store.set(_REFUSED, f"rank {place.rank} on {socket.gethostname()} was refused: {reason}")
        self._wait_for_readers()

    def _wait_for_readers(self) -> None:
        """Of the rank that keeps the store: until the others have read what they came for."""
        others = [f"read/{rank}" for rank in range(1, self._place.world)]
        if self._place.is_host:
            _until(lambda: bool(self._store.check(others)), _GOODBYE_SECONDS)

    def _wait(self, keys: list[str]) -> None:
        """Until all keys are there.

        Raises:
            RunFolderError: A rank was refused, or they are not there in time.
        """

        def is_done() -> bool:
            return bool(self._store.check([_REFUSED])) or bool(self._store.check(keys))

        if _until(is_done, self._seconds) and not self._store.check([_REFUSED]):
            return
        if self._store.check([_REFUSED]):
            reason = self._store.get(_REFUSED).decode()
            self._store.set(f"read/{self._place.rank}", "yes")
            raise RunFolderError(reason)
        came = [rank for rank in range(self._place.world) if self._store.check([f"host/{rank}"])]
        hosts = sorted({self._store.get(f"host/{rank}").decode() for rank in came})
        raise RunFolderError(
            f"{len(came)} of {self._place.world} ranks have come within {self._seconds:g} s, from {', '.join(hosts)}; "
            "look at the logs of the other hosts"
        )


def _until(holds: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition holds within this time."""
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


def meet(folder: Path, timeout: timedelta, *, over_gloo: bool) -> None:
    """Meet the other ranks, if a launcher has started any: all see this folder, or all stop with the same sentence.

    Args:
        folder: Made by rank zero before.
        timeout: Longest wait for the others.
        over_gloo: Whether the ranks will talk over gloo.

    Raises:
        RunFolderError: The folder is not shared, a rank was refused, or one has not come; or the hosts cannot talk.
    """
    if (place := place_of_this_process()) is not None:
        if over_gloo and place.num_hosts > 1:
            choose_gloo_interface(place.address)
        meeting = Meeting(place, timeout)
        _HELD.append(meeting)  # from here on the others know as much as this rank does
        meeting.agree_on(folder)


def tell_refusal(reason: str) -> None:
    """Tell ranks that wait in `meet` why this one does not come; nothing, where there are none."""
    if not _HELD and (place := place_of_this_process()) is not None:
        with contextlib.suppress(RunFolderError, RuntimeError):
            Meeting(place, _TELLING).refuse(reason)
