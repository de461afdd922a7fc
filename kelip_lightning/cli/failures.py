"""From exceptions to messages and exit codes."""

import errno
import re
import sys
from collections.abc import Callable, Iterator

from data_modules.errors import DataError
from kelip_lightning.errors import (
    BenchmarkError,
    CheckpointError,
    CheckpointWriteError,
    ConfigError,
    EncoderFileError,
    ExportError,
    NonFiniteEmbeddingsError,
    NonFiniteError,
    PeerLostError,
    RunFolderError,
    StageInterrupted,
    Terminated,
)
from kelip_lightning.runs.folder import RunFolder, is_child_of_first_process, is_first_process, was_interrupted

USER_ERRORS = (
    ConfigError,
    DataError,
    RunFolderError,
    EncoderFileError,
    CheckpointError,
    ExportError,
    NonFiniteEmbeddingsError,
)
"""User errors: printed without a traceback, exit code 2."""
REQUEUE = 75
"""Exit code of a run that the scheduler stopped, to be requeued with the same command (EX_TEMPFAIL of sysexits.h)."""
RAISED_ON_ALL_RANKS = (StageInterrupted, CheckpointWriteError, NonFiniteError, NonFiniteEmbeddingsError)
"""Errors that all ranks raise at the same step; the first process prints the message."""


class StoppedError(Exception):
    """A run stopped for an expected reason; message and exit code for the command line."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def guarded(verb: Callable[[], int]) -> int:
    """The exit code of a verb; expected failures are printed to stderr, others keep their traceback."""
    try:
        return verb()
    except BaseException as error:
        if (code := report(error)) is None:
            raise
        return code


def report(error: BaseException) -> int | None:
    """Print an expected failure to stderr, and return the exit code; `None`: the error is not expected."""
    if isinstance(error, USER_ERRORS):
        return _print_failure(describe(error), 2)
    if isinstance(error, StoppedError):
        if isinstance(error.__cause__, RAISED_ON_ALL_RANKS) and not is_first_process():
            # Lightning's launcher kills every process as soon as one that it started fails.
            return 0 if is_child_of_first_process() else error.exit_code
        return _print_failure(str(error), error.exit_code)
    if isinstance(error, BenchmarkError):
        return _print_failure(str(error), 1)
    if isinstance(error, Terminated):
        return _print_failure(str(error), REQUEUE)
    if isinstance(error, KeyboardInterrupt):
        return _print_failure("interrupted before training", 130)
    if isinstance(error, BrokenPipeError):
        sys.stderr.close()  # the reader of the pipe has exited, as in `kelip show-config FILE | head`
        return 0
    if isinstance(error, OSError) and is_disk_full(error):
        return _print_failure(f"the disk is full ({error}); free space and try again", 1)
    return None


def describe(error: Exception) -> str:
    """The message of a user error; several problems are counted and listed."""
    if isinstance(error, ConfigError) and len(error.problems) > 1:
        return f"{len(error.problems)} problems:\n" + "\n".join(f"  - {one}" for one in error.problems)
    text = str(error)
    if "Original Traceback" in text:  # from a worker of the DataLoader: torch puts the traceback into the message
        text = re.sub(r"^[\w.]*Error: ", "", text.strip().splitlines()[-1])
    return text


def stopped(error: BaseException, run: RunFolder) -> StoppedError | None:
    """The message for a run that stopped for an expected reason; `None` for any other error."""
    kept = describe_kept_files(run)
    go_on = f"Continue with the same command and --resume auto, or --resume {run.path}"
    if was_interrupted(error):
        by_scheduler = isinstance(error, Terminated) or (isinstance(error, StageInterrupted) and not error.by_user)
        code = REQUEUE if by_scheduler else 130
        return StoppedError(f"{_interruption(error)}\n{kept}\n{go_on}", code)
    if is_disk_full(error):
        return StoppedError(f"the disk is full, so the run stopped ({error})\n{kept}\n{go_on}, after freeing space", 1)
    if isinstance(error, CheckpointWriteError | PeerLostError):
        return StoppedError(f"{error}\n{kept}\n{go_on}", 1)
    if isinstance(error, NonFiniteError):
        again = "the same step would fail again; non_finite.policy=skip skips it"
        return StoppedError(f"{error}\n{kept}\n{go_on}: {again}", 1)
    if isinstance(error, NonFiniteEmbeddingsError):
        back = "which may have the same weights; --resume with the path of an older checkpoint starts from that one"
        return StoppedError(f"{error}\n{kept}\n{go_on}: from the newest checkpoint, {back}", 1)
    return None


def describe_kept_files(run: RunFolder) -> str:
    """The weights, newest checkpoint and metrics of a stopped run, one per line."""
    lines = [f"Kept in {run.path}:"]
    lines += [f"  weights      {folder}" for folder in run.exported()]
    lines += [f"  checkpoint   {file}" for file in run.checkpoints()[:1]]
    if run.metrics.is_file():
        lines.append(f"  metrics      {run.metrics}")
    if len(lines) == 1:
        return f"{run.path} has no checkpoint; to use the name again: rm -r {run.path}"
    return "\n".join(lines)


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk or quota caused an error, whichever library reports it."""
    return any(_reports_disk_full(one) for one in _chain(error))


def _reports_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors raises its own error with the system's message; torch.save reports only that writing failed.
    return any(words in str(error) for words in ("No space left on device", "PytorchStreamWriter failed writing"))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _interruption(error: BaseException) -> str:
    interrupts = [one for one in _chain(error) if isinstance(one, KeyboardInterrupt | StageInterrupted) and str(one)]
    return f"interrupted: {interrupts[0]}" if interrupts else "interrupted"


def _print_failure(message: str, exit_code: int) -> int:
    print(f"kelip: {message}", file=sys.stderr)
    return exit_code
