"""Ranks that meet: one folder, two folders, one that is refused, one that does not come."""

import os
import socket
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from kelip_lightning.distributed import meeting
from kelip_lightning.distributed.meeting import Meeting, Place, place_of_this_process
from kelip_lightning.errors import RunFolderError

SECONDS = timedelta(seconds=20)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def in_ranks(world: int, work: Callable[[int, Place], object], folder: Path) -> list[str]:
    """What each rank says at its end: `met`, or the sentence of its error."""
    port, children, kept = free_port(), [], list[object]()
    for rank in range(world):
        child = os.fork()
        if not child:
            said = "crashed"
            try:
                kept.append(work(rank, Place(rank=rank, world=world, address="127.0.0.1", port=port, is_host=not rank)))
                said = "met"
            except RunFolderError as error:
                said = str(error)
            except Exception as error:
                said = f"crashed: {error!r}"
            finally:
                (folder / f"{rank}.said").write_text(said)
                time.sleep(0.5 if rank == 0 else 0)  # the store of rank zero, until the others have read it
                os._exit(0)
        children.append(child)
    for child in children:
        os.waitpid(child, 0)
    return [(folder / f"{rank}.said").read_text() for rank in range(world)]


def met(place: Place, folder: Path, timeout: timedelta = SECONDS) -> Meeting:
    """A meeting that has ended well; the store lives as long as it."""
    found = Meeting(place, timeout)
    found.agree_on(folder)
    return found


def test_agree_on__one_folder(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert in_ranks(3, lambda _, place: met(place, run), tmp_path) == ["met"] * 3
    assert not list(run.iterdir()), "nothing is left"


def test_agree_on__folders_that_are_not_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "LAG_SECONDS", 0.2)
    for rank in range(3):
        (tmp_path / f"run{rank // 2}").mkdir(exist_ok=True)
    said = in_ranks(3, lambda rank, place: met(place, tmp_path / f"run{rank // 2}"), tmp_path)
    host = socket.gethostname()
    for one in said:
        assert "is not one folder on all hosts" in one
        assert f"what rank 0 on {host} wrote there is not seen by rank 2 on {host};" in one


@pytest.mark.parametrize(("over_gloo", "hosts"), [(True, 2), (True, 1), (False, 2)])
def test_agree_on__a_host_whose_name_is_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, over_gloo: bool, hosts: int
) -> None:
    monkeypatch.setattr(meeting, "loopback_problem", lambda: f"{socket.gethostname()} is not reached")

    def work(rank: int, place: Place) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: f"node{rank % hosts}")
        Meeting(place, SECONDS).agree_on(tmp_path, over_gloo=over_gloo)

    expected = "node0 is not reached" if over_gloo and hosts > 1 else "met"
    assert in_ranks(2, work, tmp_path) == [expected] * 2


@pytest.mark.parametrize("refused", [0, 1])
def test_refuse__all_ranks_stop_with_the_reason(tmp_path: Path, refused: int) -> None:
    def work(rank: int, place: Place) -> None:
        if rank == refused:
            Meeting(place, SECONDS).refuse("seed = x must be a whole number")
            raise RunFolderError("its own message")
        Meeting(place, SECONDS).agree_on(tmp_path)

    begun = time.monotonic()
    said = in_ranks(2, work, tmp_path)
    assert said[refused] == "its own message"
    assert said[1 - refused].endswith("was refused: seed = x must be a whole number")
    assert said[1 - refused].startswith(f"rank {refused} on {socket.gethostname()} ")
    assert time.monotonic() - begun < 10


def test_agree_on__a_rank_that_does_not_come(tmp_path: Path) -> None:
    def work(rank: int, place: Place) -> None:
        if rank < 2:
            met(place, tmp_path, timedelta(seconds=2))

    said = in_ranks(3, work, tmp_path)
    assert said[0].startswith("2 of 3 ranks have come within 2 s, from ")


def test_place__of_torchrun_and_of_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    assert place_of_this_process() is None
    variables = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "host1", "MASTER_PORT": "29500"}
    for name, value in (variables | {"TORCHELASTIC_RUN_ID": "a", "TORCHELASTIC_USE_AGENT_STORE": "True"}).items():
        monkeypatch.setenv(name, value)
    assert place_of_this_process() == Place(rank=1, world=4, address="host1", port=29500, is_host=False)
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert place_of_this_process() is None
