"""From exceptions to messages and exit codes."""

import errno
import re
import sys
from collections.abc import Callable, Iterator

from data_modules.errors import DataError
from kelip_lightning.errors import (
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
"""What a user can mend: shown without a traceback, exit code 2."""
REQUEUE = 75
"""Exit code of a run that the scheduler stopped: the same command goes on where it was (EX_TEMPFAIL of sysexits.h)."""
TOGETHER = (StageInterrupted, CheckpointWriteError, NonFiniteError, NonFiniteEmbeddingsError)
"""Errors that all ranks raise at one step: one of them speaks."""


class StoppedError(Exception):
    """A run ended early for a reason that is no bug; carries what to tell and the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def guarded(verb: Callable[[], int]) -> int:
    """The exit code of a verb; expected failures become a message on stderr, others keep their traceback."""
    try:
        return verb()
    except USER_ERRORS as error:
        return _tell(describe(error), 2)
    except StoppedError as stopped:
        if isinstance(stopped.__cause__, TOGETHER) and not is_first_process():
            # Lightning's launcher kills every process as soon as one that it started fails.
            return 0 if is_child_of_first_process() else stopped.exit_code
        return _tell(str(stopped), stopped.exit_code)
    except Terminated as terminated:
        return _tell(str(terminated), REQUEUE)
    except KeyboardInterrupt:
        return _tell("interrupted before training began; nothing was lost", 130)
    except BrokenPipeError:
        sys.stderr.close()  # the reader of a pipe went away, as in `kelip show-config FILE | head`
        return 0
    except OSError as error:
        if not is_disk_full(error):
            raise
        return _tell(f"the disk is full ({error}); make room and try again", 1)


def describe(error: Exception) -> str:
    """The message of a user's error; several problems are counted and listed."""
    if isinstance(error, ConfigError) and len(error.problems) > 1:
        return f"{len(error.problems)} problems:\n" + "\n".join(f"  - {one}" for one in error.problems)
    text = str(error)
    if "Original Traceback" in text:  # from a loader's worker process: torch puts the traceback into the message
        text = re.sub(r"^[\w.]*Error: ", "", text.strip().splitlines()[-1])
    return text


def stopped(error: BaseException, run: RunFolder) -> StoppedError | None:
    """What to tell about a run that ended early for a reason that is no bug; None for any other error."""
    left = what_is_left(run)
    go_on = f"Go on with the same command and --resume auto, or --resume {run.path}"
    if was_interrupted(error):
        by_scheduler = isinstance(error, Terminated) or (isinstance(error, StageInterrupted) and not error.by_user)
        code = REQUEUE if by_scheduler else 130
        return StoppedError(f"{_interruption(error)}\n{left}\n{go_on}", code)
    if is_disk_full(error):
        return StoppedError(f"the disk is full, so the run stopped ({error})\n{left}\n{go_on} when there is room", 1)
    if isinstance(error, CheckpointWriteError | PeerLostError):
        return StoppedError(f"{error}\n{left}\n{go_on}", 1)
    if isinstance(error, NonFiniteError):
        again = "the same step would come to the same end; non_finite.policy=skip leaves it out"
        return StoppedError(f"{error}\n{left}\n{go_on}: {again}", 1)
    if isinstance(error, NonFiniteEmbeddingsError):
        back = "which may hold the same weights; --resume with the path of an older checkpoint goes back to it"
        return StoppedError(f"{error}\n{left}\n{go_on}: from the newest checkpoint, {back}", 1)
    return None


def what_is_left(run: RunFolder) -> str:
    """What of a run is intact, in words."""
    lines = [f"Intact in {run.path}:"]
    lines += [f"  weights      {folder}" for folder in run.exported()]
    lines += [f"  checkpoint   {file}" for file in run.checkpoints()[:1]]
    if run.metrics.is_file():
        lines.append(f"  numbers      {run.metrics}")
    if len(lines) == 1:
        return f"{run.path} holds no checkpoint yet; remove it to use the name again: rm -r {run.path}"
    return "\n".join(lines)


def is_disk_full(error: BaseException) -> bool:
    """Whether a full disk or quota is behind an error, whichever library reports it."""
    return any(_says_disk_full(one) for one in _chain(error))


def _says_disk_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    # safetensors reports the system's words in its own error, torch.save only that writing failed.
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


def _tell(message: str, exit_code: int) -> int:
    print(f"kelip: {message}", file=sys.stderr)
    return exit_code
