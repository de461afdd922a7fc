"""Signals while a stage trains, with the handlers restored afterwards, and the death of another process."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from kelip_lightning.callbacks.interruption import SignalWatch, explain_lost_peer
from kelip_lightning.errors import PeerLostError

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
HANGS = RuntimeError("Timed out waiting 1800000ms for recv operation to complete\nand more")


@pytest.fixture(autouse=True)
def _handlers_come_back() -> Any:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    after = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)
    assert after == before


@pytest.mark.parametrize(
    ("number", "by_user"), [(signal.SIGINT, True), (signal.SIGTERM, False), (signal.SIGUSR1, False)]
)
def test_signal_watch__notes_instead_of_dying(number: int, by_user: bool) -> None:
    with SignalWatch() as signals:
        os.kill(os.getpid(), number)
        assert (signals.by_user, signals.by_scheduler) == (by_user, not by_user)
        signals.handled = True


def test_signal_watch__second_ctrl_c_interrupts_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    with SignalWatch() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.by_user
        now += 0.9
        os.kill(os.getpid(), signal.SIGINT)  # the same one, once from the terminal and once from a launcher
        now += 0.2
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_signal_watch__a_schedulers_signal_that_nobody_acted_on_is_sent_again() -> None:
    received: list[int] = []
    previous = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    try:
        with SignalWatch():
            os.kill(os.getpid(), signal.SIGUSR1)
            assert received == []
        assert received == [signal.SIGUSR1]
    finally:
        signal.signal(signal.SIGUSR1, previous)


def test_signal_watch__an_error_goes_before_a_signal() -> None:
    def fail() -> None:
        with SignalWatch():
            os.kill(os.getpid(), signal.SIGTERM)
            raise OSError(28, "full")

    with pytest.raises(OSError, match="full"):
        fail()


@pytest.fixture
def trainer() -> Iterator[Any]:
    """Rank zero of three, whose launcher has started one process that failed and one that hangs."""
    launcher = _SubprocessScriptLauncher(LightningEnvironment(), num_processes=3, num_nodes=1)
    commands = [[sys.executable, "-c", code] for code in ("raise SystemExit(3)", "import time; time.sleep(600)")]
    launcher.procs = [subprocess.Popen(one) for one in commands]
    launcher.procs[0].wait()
    yield SimpleNamespace(world_size=3, global_rank=0, strategy=SimpleNamespace(launcher=launcher))
    for process in launcher.procs:
        process.kill()
        process.wait()


def test_lost_peer__is_named_and_no_process_is_left_running(trainer: Any) -> None:
    message = r"does not respond: rank 1 exited with code 3 \(Timed out waiting"
    with pytest.raises(PeerLostError, match=message), explain_lost_peer(trainer):
        raise HANGS
    assert trainer.strategy.launcher.procs[1].wait(timeout=10) == -signal.SIGKILL


@pytest.mark.parametrize(("world", "error"), [(1, HANGS), (3, RuntimeError("shapes do not match"))])
def test_other_errors__stay_as_they_are(trainer: Any, world: int, error: RuntimeError) -> None:
    trainer.world_size = world
    with pytest.raises(RuntimeError) as caught, explain_lost_peer(trainer):
        raise error
    assert caught.value is error
    assert trainer.strategy.launcher.procs[1].poll() is None
