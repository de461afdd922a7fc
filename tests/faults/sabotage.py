"""Faults injected into a process before it starts; in a module of its own, so that the process can import it."""

import importlib
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.experiment import SAVE_EVERY

STEP = 5
"""The step, from 0, at which faults happen."""


@dataclass(frozen=True, slots=True)
class SignalAt:
    """Sends this process a signal in the middle of a step."""

    number: int

    def __call__(self) -> None:
        _at_step(lambda _: os.kill(os.getpid(), self.number))


@dataclass(frozen=True, slots=True)
class SignalGroupAt:
    """Sends the whole process group a signal in the middle of a step, as Ctrl-C in a terminal does."""

    number: int

    def __call__(self) -> None:
        _at_step(lambda _: os.killpg(0, self.number))


@dataclass(frozen=True, slots=True)
class InOrder:
    """Several faults."""

    faults: tuple[Callable[[], None], ...]

    def __call__(self) -> None:
        for fault in self.faults:
            fault()


@dataclass(frozen=True, slots=True)
class OnForkedRank:
    """A fault of one rank alone, among ranks that are forks of this process."""

    rank: int
    fault: Callable[[], None]

    def __call__(self) -> None:
        from kelip_lightning.distributed import local_ranks

        join = local_ranks._join

        def join_and_fail(store: Any, rank: int, *arguments: Any) -> None:
            join(store, rank, *arguments)
            if rank == self.rank:
                self.fault()

        local_ranks._join = join_and_fail


@dataclass(frozen=True, slots=True)
class FailAt:
    """Raises an error where a function is called."""

    module: str
    name: str
    error: Exception

    def __call__(self) -> None:
        def fail(*_: Any, **__: Any) -> None:
            raise self.error

        setattr(importlib.import_module(self.module), self.name, fail)


@dataclass(frozen=True, slots=True)
class JoinGroup:
    """Puts this process into the run's process group, as a shell or a scheduler does."""

    leader: Path
    """File with the PID of the group's first process, once it has started."""
    is_leader: bool

    def __call__(self) -> None:
        if self.is_leader:
            os.setpgid(0, 0)
            partial = self.leader.with_suffix(".partial")
            partial.write_text(str(os.getpid()))
            partial.rename(self.leader)
        while not self.leader.is_file():
            time.sleep(0.01)
        os.setpgid(0, int(self.leader.read_text()))


@dataclass(frozen=True, slots=True)
class Hang:
    """Suspends this process in the middle of a step, as a dead disk or a stuck driver does."""

    def __call__(self) -> None:
        _at_step(lambda _: os.kill(os.getpid(), signal.SIGSTOP))


@dataclass(frozen=True, slots=True)
class HiddenCheckpoint:
    """Hides the newest checkpoint, as an out-of-date file system does."""

    def __call__(self) -> None:
        from kelip_lightning.runs import checkpoints

        original = checkpoints.checkpoint_folders
        checkpoints.checkpoint_folders = lambda folder: original(folder)[1:]


@dataclass(frozen=True, slots=True)
class PoisonLoss:
    """Makes the loss of one step NaN; the gradient of every parameter follows."""

    def __call__(self) -> None:
        from kelip_lightning.modules.contrastive import ContrastiveModule

        original = ContrastiveModule.training_step

        def poisoned(self: Any, batch: Any, batch_idx: int) -> Any:
            loss = original(self, batch, batch_idx)
            return loss * float("nan") if self.trainer.global_step == STEP else loss

        ContrastiveModule.training_step = poisoned  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class FullDisk:
    """From the second checkpoint on, every write fails with the kernel's ENOSPC."""

    def __call__(self) -> None:
        from kelip_lightning.callbacks.checkpointing import CheckpointCallback

        original = CheckpointCallback._prepare

        def prepare(self: Any, partial: Path) -> None:
            original(self, partial)
            if str(2 * SAVE_EVERY) in partial.name:
                (partial / "state.ckpt").symlink_to("/dev/full")

        CheckpointCallback._prepare = prepare  # type: ignore[method-assign]


def _at_step(act: Callable[[Any], None]) -> None:
    from kelip_lightning.callbacks.non_finite import NonFiniteGuard

    original = NonFiniteGuard.on_before_backward

    def wrapped(self: Any, trainer: Any, module: Any, loss: Any) -> None:
        if trainer.global_step == STEP:
            act(trainer)
        original(self, trainer, module, loss)

    NonFiniteGuard.on_before_backward = wrapped  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class SignalWhileStopping:
    """Sends this process a signal in the middle of a step, and again while it writes its status."""

    number: int

    def __call__(self) -> None:
        from kelip_lightning.runs.folder import RunFolder

        SignalAt(self.number)()
        original = RunFolder.write_status

        def write(self_: Any, state: str, **details: Any) -> None:
            if state == "interrupted":
                os.kill(os.getpid(), self.number)
            original(self_, state, **details)

        RunFolder.write_status = write  # type: ignore[method-assign]


@dataclass(frozen=True, slots=True)
class SignalWhileOpening:
    """Sends this process a signal while it reads the settings, before there is a run."""

    number: int

    def __call__(self) -> None:
        from kelip_lightning.config import load

        original = load.load_experiment

        def loaded(*arguments: Any, **options: Any) -> Any:
            os.kill(os.getpid(), self.number)
            return original(*arguments, **options)

        load.load_experiment = loaded


@dataclass(frozen=True, slots=True)
class TrainTokenizer:
    """Makes training the tokenizer take longer, or fail."""

    seconds: float | None
    """`None`: it fails."""

    def __call__(self) -> None:
        from data_modules.text import tokenizer

        train = tokenizer.train_tokenizer

        def instead(*arguments: Any) -> Any:
            assert self.seconds is not None, "this process trains a tokenizer of its own"
            time.sleep(self.seconds)
            return train(*arguments)

        tokenizer.train_tokenizer = instead
