"""The log of a run: what it says on stdout and stderr, with the time, in RUN/log.txt too."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from kelip_lightning.runs.folder import RunFolder, is_first_process

PROGRESS = "kelip_lightning.progress"
"""The logger of progress lines: to stdout unless it is a terminal, where a bar shows the same."""
SUITE = ("kelip_lightning", "data_modules")
"""The loggers whose messages concern the user."""
_TIME = "%Y-%m-%d %H:%M:%S"


class ProgressHandler(logging.Handler):
    """Prints progress lines on stdout, whatever stdout is at that moment, unless it is a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(asctime)s  %(message)s", _TIME))

    def emit(self, record: logging.LogRecord) -> None:
        """Print and flush a line."""
        if sys.stdout.isatty():
            return
        try:
            sys.stdout.write(f"{self.format(record)}\n")
            sys.stdout.flush()
        except (OSError, ValueError):  # a closed pipe or file must not end a run
            self.handleError(record)


class _LogFileHandler(logging.FileHandler):
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        """Nothing: a full disk must not end a run, and whatever cannot be written there either says so itself."""


@contextmanager
def log_file(run: RunFolder) -> Iterator[None]:
    """Append the suite's messages and the progress lines of the block to the run's log; the first process alone.

    An error that ends the block is its last line.
    """
    if not is_first_process():
        yield
        return
    handler = _LogFileHandler(run.log, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(levelname)-7s  %(message)s", _TIME))
    # Progress lines do not reach the logger above theirs.
    loggers = [logging.getLogger(name) for name in (*SUITE, PROGRESS)]
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield
    except BaseException as error:
        ended = logging.makeLogRecord(
            {"levelno": logging.ERROR, "levelname": "ERROR", "msg": str(error) or repr(error)}
        )
        handler.handle(ended)
        raise
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        with suppress(OSError):
            handler.close()
