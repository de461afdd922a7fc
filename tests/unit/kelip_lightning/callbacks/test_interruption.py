"""Signals in a real Trainer: a checkpoint at the step's end, and the handlers as they were."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from kelip_lightning.callbacks.encoder_export import ExportCallback
from kelip_lightning.callbacks.interruption import InterruptionCallback, StageInterrupted
from kelip_lightning.run_folder import was_interrupted

Fit = Callable[..., tuple[pl.Trainer, Any]]
SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _signal_at(call: int, *numbers: int) -> Callable[[], None]:
    """Sends the signals to this process when called for the `call`-th time."""
    calls = []

    def send() -> None:
        calls.append(None)
        if len(calls) == call:
            for number in numbers:
                os.kill(os.getpid(), number)

    return send


@pytest.fixture(autouse=True)
def _handlers_come_back() -> Any:
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    after = [signal.getsignal(number) for number in SIGNALS]
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)
    assert after == before


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize(("accumulate", "call", "step"), [(1, 3, 3), (2, 3, 2), (2, 4, 2)])
def test_interruption__checkpoint_at_the_end_of_the_step(
    fit: Fit, tmp_path: Path, number: int, accumulate: int, call: int, step: int
) -> None:
    exported: list[None] = []
    interruption = InterruptionCallback(tmp_path / "checkpoints" / "interrupted.ckpt")
    trainer, module = fit(
        [ExportCallback(lambda: exported.append(None)), interruption],
        accumulate=accumulate,
        in_step=_signal_at(call, number),
    )
    assert interruption.interrupted_at == trainer.global_step == step
    assert len(module.random_states) == step * accumulate, "no further micro-batch was trained on"
    state = torch.load(interruption.checkpoint, weights_only=False)
    assert state["global_step"] == step
    for name, tensor in module.state_dict().items():
        assert torch.equal(state["state_dict"][name], tensor)
    assert exported == []


def test_interruption__two_signals_write_one_checkpoint(fit: Fit, tmp_path: Path) -> None:
    interruption = InterruptionCallback(tmp_path / "interrupted.ckpt")
    trainer, _ = fit([interruption], in_step=_signal_at(2, signal.SIGTERM, signal.SIGTERM))
    assert interruption.interrupted_at == trainer.global_step == 2


def test_interruption__second_ctrl_c_stops_at_once(fit: Fit, tmp_path: Path) -> None:
    interruption = InterruptionCallback(tmp_path / "interrupted.ckpt")
    with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
        fit([interruption], in_step=_signal_at(2, signal.SIGINT, signal.SIGINT))
    assert was_interrupted(stopped.value)
    assert not interruption.checkpoint.exists()


def test_interruption__none(fit: Fit, tmp_path: Path) -> None:
    interruption = InterruptionCallback(tmp_path / "interrupted.ckpt")
    fit([interruption], steps=2)
    assert interruption.interrupted_at is None
    assert not interruption.checkpoint.exists()


def test_interruption__handlers_come_back_after_an_error(fit: Fit, tmp_path: Path) -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        fit([InterruptionCallback(tmp_path / "interrupted.ckpt")], in_step=fail)


def test_stage_interrupted__says_where_the_checkpoint_is() -> None:
    error = StageInterrupted(Path("runs/a/interrupted.ckpt"), 12)
    assert str(error) == "stopped after step 12; checkpoint: runs/a/interrupted.ckpt"
    assert isinstance(error, KeyboardInterrupt)
    assert (error.checkpoint, error.step) == (Path("runs/a/interrupted.ckpt"), 12)
