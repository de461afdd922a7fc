"""Errors that a user can mend; the command line prints them without a traceback."""

from collections.abc import Sequence


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
