"""Ranks as forks: what runs where, and that none is left, whoever fails.

The forks are children of the test process. What they do goes to files.
"""

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from threadpoolctl import threadpool_info, threadpool_limits

from kelip_lightning.distributed import local_ranks
from kelip_lightning.distributed.local_ranks import OtherRanks, can_fork_ranks, forked_ranks
from kelip_lightning.runs.folder import is_child_of_first_process, is_first_process
from tests.faults.processes import all_processes, children, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="ranks are forked on Linux alone")

TEST_PROCESS = os.getpid()
SET = ("LOCAL_RANK", "NODE_RANK", "OMP_NUM_THREADS")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ranks, "END_SECONDS", 1.0)
    monkeypatch.setattr(local_ranks, "AFTER_ERROR_SECONDS", 0.5)
    monkeypatch.setattr(local_ranks, "HOLD_SECONDS", 1.5)
    monkeypatch.setattr(local_ranks, "PARENT_CHECK_SECONDS", 0.05)


@pytest.fixture(autouse=True)
def _no_rank_is_left() -> Iterator[None]:
    before = set(children(os.getpid()))
    yield
    assert os.getpid() == TEST_PROCESS, "a child has returned into the test"
    assert set(children(os.getpid())) <= before
    assert not dist.is_initialized()


def others(run: Callable[[], None], report: Callable[[BaseException], int | None] = lambda _: None) -> OtherRanks:
    return OtherRanks(run=run, report=report, timeout=timedelta(seconds=30))


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def describe(folder: Path) -> None:
    """Write what this rank sees to a file of its own."""
    total = torch.tensor(float(dist.get_rank() + 1))
    dist.all_reduce(total)
    seen = {
        "process": os.getpid(),
        "rank": dist.get_rank(),
        "world": dist.get_world_size(),
        "total": total.item(),
        "environment": {name: os.environ.get(name) for name in SET},
        "first": is_first_process(),
        "child": is_child_of_first_process(),
        "threads": torch.get_num_threads(),
        "blas": blas_threads(),
        "mask": sorted(int(one) for one in signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    }
    (folder / f"{dist.get_rank()}.json").write_text(json.dumps(seen), encoding="utf-8")


def blas_threads() -> list[int]:
    """The different numbers of threads of the BLAS libraries that are loaded."""
    return sorted({one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"})


@pytest.mark.parametrize("number", [2, 3])
def test_forked_ranks__one_process_group_of_processes_with_one_thread(tmp_path: Path, number: int) -> None:
    torch.set_num_threads(2)
    with threadpool_limits(2, user_api="blas"):
        with forked_ranks(number, others(lambda: describe(tmp_path))):
            describe(tmp_path)
        assert blas_threads() == [2]
    found = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(number)]
    assert len({one["process"] for one in found}) == number
    assert found[0]["process"] == os.getpid()
    for rank, one in enumerate(found):
        assert (one["rank"], one["world"], one["total"]) == (rank, number, number * (number + 1) / 2)
        assert one["environment"] == {"LOCAL_RANK": str(rank), "NODE_RANK": "0", "OMP_NUM_THREADS": "1"}
        assert (one["first"], one["child"]) == (rank == 0, rank > 0)
        assert (one["threads"], one["blas"]) == (1, [1])
        assert one["mask"] == found[0]["mask"], "signals that are blocked during the fork reach a child again"
    assert torch.get_num_threads() == 2


def test_forked_ranks__one_rank_is_this_process_as_it_is() -> None:
    torch.set_num_threads(2)
    environment = dict(os.environ)
    with forked_ranks(1, others(lambda: pytest.fail("there is no other rank"))):
        assert dict(os.environ) == environment
        assert torch.get_num_threads() == 2
        assert not dist.is_initialized()


@pytest.mark.parametrize("before", [{}, {"OMP_NUM_THREADS": "2", "NODE_RANK": "3"}])
def test_forked_ranks__the_environment_is_restored(monkeypatch: pytest.MonkeyPatch, before: dict[str, str]) -> None:
    for name in SET:
        monkeypatch.delenv(name, raising=False)
    for name, value in before.items():
        monkeypatch.setenv(name, value)
    with forked_ranks(2, others(lambda: None)):
        os.environ["KEPT"] = "a variable of the body"
    assert {name: os.environ[name] for name in (*SET, "KEPT") if name in os.environ} == before | {
        "KEPT": "a variable of the body"
    }


def test_forked_ranks__what_is_printed_before_is_printed_once(capfd: pytest.CaptureFixture[str]) -> None:
    sys.stdout.write("before, without a line feed")
    with forked_ranks(3, others(lambda: say("other"))):
        say("first")
    out = capfd.readouterr().out
    assert out.count("before") == 1
    assert out.count("other") == 2, "a child's output is flushed when it ends"


def test_forked_ranks__a_child_that_fails_is_named_with_its_exit_code(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_ranks, "HOLD_SECONDS", 0.1)

    def fail() -> None:
        raise ValueError(f"of rank {dist.get_rank()}")

    def report(error: BaseException) -> int | None:
        sys.stderr.write(f"reported: {error}\n")
        return 7 if dist.get_rank() == 1 else None

    with caplog.at_level(logging.WARNING, logger=local_ranks.__name__), forked_ranks(3, others(fail, report)):
        pass
    assert sorted(one.getMessage() for one in caplog.records) == [
        "rank 1 ended with exit code 7",
        "rank 2 ended with exit code 1",
    ]
    error = capfd.readouterr().err
    assert "reported: of rank 1" in error
    assert "reported: of rank 2" in error
    assert error.count("Traceback") >= 1, "of the error that is not expected"
    assert error.count("ValueError: of rank 2") == 1


def test_forked_ranks__a_child_that_hangs_is_killed(caplog: pytest.LogCaptureFixture) -> None:
    start = time.monotonic()
    with (
        caplog.at_level(logging.WARNING, logger=local_ranks.__name__),
        forked_ranks(2, others(lambda: time.sleep(600))),
    ):
        pass
    assert 1.0 < time.monotonic() - start < 20
    assert [one.getMessage() for one in caplog.records] == ["rank 1 did not end within 1 s and is killed"]


def test_forked_ranks__a_child_that_is_killed_is_named(caplog: pytest.LogCaptureFixture) -> None:
    kill = others(lambda: os.kill(os.getpid(), signal.SIGKILL))
    with caplog.at_level(logging.WARNING, logger=local_ranks.__name__), forked_ranks(2, kill):
        pass
    assert [one.getMessage() for one in caplog.records] == ["rank 1 was ended by SIGKILL"]


class _BodyError(Exception):
    pass


@pytest.mark.parametrize("error", [_BodyError, KeyboardInterrupt, SystemExit])
def test_forked_ranks__an_error_of_the_body_passes_and_no_child_is_left(
    caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    """The child waits for this rank in a collective."""
    with (
        caplog.at_level(logging.WARNING, logger=local_ranks.__name__),
        pytest.raises(error),
        forked_ranks(2, others(dist.barrier)),
    ):
        raise error
    assert not caplog.records


def test_forked_ranks__an_error_that_all_ranks_have_is_told_by_the_body_alone(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail() -> None:
        raise _BodyError

    def report(_: BaseException) -> int | None:
        sys.stderr.write("told by a child\n")
        return 1

    with pytest.raises(_BodyError), forked_ranks(2, others(fail, report)):
        fail()
    assert capfd.readouterr().err == ""


def test_forked_ranks__a_rank_that_dies_breaks_the_collectives_of_the_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with (
        caplog.at_level(logging.WARNING, logger=local_ranks.__name__),
        pytest.raises(RuntimeError, match=r"(?i)connection"),
        forked_ranks(2, others(lambda: os.kill(os.getpid(), signal.SIGKILL))),
    ):
        dist.barrier()
    assert [one.getMessage() for one in caplog.records] == ["rank 1 was ended by SIGKILL"]


@pytest.mark.parametrize("moment", ["while the body runs", "while the others end"])
def test_forked_ranks__a_signal_leaves_no_child(monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    monkeypatch.setattr(local_ranks, "END_SECONDS", 60.0)

    def interrupt(*_: Any) -> None:
        raise _BodyError

    def body() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0.3)
        if moment == "while the body runs":
            time.sleep(60)

    previous = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(_BodyError), forked_ranks(2, others(lambda: time.sleep(600))):
            body()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)


def test_forked_ranks__a_fork_that_fails_ends_those_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fork, started = os.fork, []

    def forks() -> int:
        if started:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        child = fork()
        started.append(child)
        return child

    monkeypatch.setattr(os, "fork", forks)
    with pytest.raises(BlockingIOError), forked_ranks(3, others(dist.barrier)):
        pytest.fail("the body runs with all ranks or not at all")
    assert len(started) == 1


def _leave_an_orphan(folder: Path) -> None:
    """In a fork: become the first rank of two, and die while the other rank sleeps."""

    def sleep() -> None:
        (folder / "orphan").write_text(str(os.getpid()), encoding="utf-8")
        time.sleep(600)

    with forked_ranks(2, others(sleep)):
        wait_until(lambda: bool((folder / "orphan").is_file() and (folder / "orphan").read_text()), "the other rank")
        os.kill(os.getpid(), signal.SIGKILL)


def test_forked_ranks__an_orphan_ends_by_itself(tmp_path: Path) -> None:
    first = os.fork()
    if not first:
        try:
            _leave_an_orphan(tmp_path)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(first, 0)[1]) == -signal.SIGKILL
    orphan = int((tmp_path / "orphan").read_text(encoding="utf-8"))
    wait_until(lambda: orphan not in all_processes(), "the orphan to end", seconds=20)


def test_can_fork_ranks__not_if_a_launcher_has_started_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_ranks, "START_METHOD", "fork")
    assert can_fork_ranks()
    for name in ("RANK", "LOCAL_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_NTASKS"):
        with monkeypatch.context() as launched:
            launched.setenv(name, "0")
            assert not can_fork_ranks(), name
    monkeypatch.setattr(local_ranks, "START_METHOD", None)  # as on macOS
    assert not can_fork_ranks()
