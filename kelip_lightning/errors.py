"""User errors, and reasons for which a run stops; the command line prints them without a traceback."""

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
    """A checkpoint is incomplete or belongs to another run."""


class ExportError(ValueError):
    """A model cannot be written in the format or to the folder given."""


class BenchmarkError(Exception):
    """A benchmark cannot run on this machine, or one of its processes died."""


class StageInterrupted(Exception):  # noqa: N818 - the regular end of an interrupted stage, not an error
    """A stage was stopped by a signal, at the same step on every rank, after writing a checkpoint."""

    def __init__(self, checkpoint: Path | None, step: int, *, by_user: bool) -> None:
        """Initialises the error.

        Args:
            checkpoint: The newest checkpoint; `None` before the first step.
            step: Optimizer steps done.
            by_user: Whether Ctrl-C (SIGINT) stopped it, not the scheduler (SIGTERM, SIGUSR1).
        """
        self.checkpoint, self.step, self.by_user = checkpoint, step, by_user
        where = f"checkpoint: {checkpoint}" if checkpoint else "no checkpoint yet"
        super().__init__(f"stopped after step {step}; {where}")


class Terminated(KeyboardInterrupt):
    """The scheduler asked the process to stop while no stage was training."""


class CheckpointWriteError(Exception):
    """A checkpoint could not be written, on whichever rank; raised on every rank."""


class NonFiniteError(Exception):
    """A loss or gradient is not finite, and the weights are unchanged; raised on every rank."""


class NonFiniteEmbeddingsError(ValueError):
    """Embeddings hold NaN or infinity; in training raised on every rank."""


class PeerLostError(Exception):
    """Another process of a distributed run has died or does not respond."""
