"""Errors that a user can mend, and ends of a run that are no bug; the command line prints them without a traceback."""

from collections.abc import Sequence
from pathlib import Path


class ConfigError(ValueError):
    """An experiment cannot run as configured; lists every problem, one sentence a line."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = list(problems)
        super().__init__("\n".join(self.problems))


class RunFolderError(ValueError):
    """A run folder cannot be created, continued or read."""


class EncoderFileError(ValueError):
    """A folder of weights is incomplete, damaged, or does not fit the model."""


class CheckpointError(ValueError):
    """A checkpoint is torn or belongs to another run."""


class ExportError(ValueError):
    """A model cannot be written in the format or at the place asked for."""


class StageInterrupted(Exception):  # noqa: N818 - it is the proper end of an interrupted stage, no error
    """A stage was stopped by a signal, the same on every rank; what it has done is in its checkpoint."""

    def __init__(self, checkpoint: Path | None, step: int, *, by_user: bool) -> None:
        """Says where the stage stopped.

        Args:
            checkpoint: The newest checkpoint; none if no step was taken.
            step: Optimizer steps done.
            by_user: Whether Ctrl-C (SIGINT) stopped it, and not the scheduler (SIGTERM, SIGUSR1).
        """
        self.checkpoint, self.step, self.by_user = checkpoint, step, by_user
        where = f"checkpoint: {checkpoint}" if checkpoint else "there is no checkpoint yet"
        super().__init__(f"stopped after step {step}; {where}")


class Terminated(KeyboardInterrupt):
    """The scheduler asked the process to stop while no stage was training."""


class CheckpointWriteError(Exception):
    """A checkpoint could not be written, on whichever rank; raised on every rank."""


class NonFiniteError(Exception):
    """A loss or gradient is not finite; the weights are those of before; raised on every rank."""


class NonFiniteEmbeddingsError(ValueError):
    """Embeddings that are to be ranked or compared hold NaN or infinity; in training raised on every rank."""


class PeerLostError(Exception):
    """Another process of a distributed run has died or no longer answers."""
