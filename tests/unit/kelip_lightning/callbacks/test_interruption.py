"""Signals while a stage trains: noted, acted upon at a step's end, and the handlers as they were."""

import os
import signal
from typing import Any

import pytest

from kelip_lightning.callbacks.interruption import SignalWatch

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


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
