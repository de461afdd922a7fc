"""What is logged to stderr, by which process."""

import logging
import sys
import warnings

from kelip_lightning.runs.folder import is_first_process
from kelip_lightning.runs.log_file import PROGRESS, SUITE, ProgressHandler

_LIGHTNING = {
    "pytorch.utilities.rank_zero": logging.WARNING,
    "fabric.utilities.rank_zero": logging.WARNING,
    "pytorch.accelerators.cuda": logging.WARNING,  # which GPUs each rank sees
    "fabric.utilities.distributed": logging.WARNING,  # that each rank has joined
    "pytorch.loggers.mlflow": logging.ERROR,  # that it creates our experiment
}
"""Loggers below `lightning` whose lower messages say nothing that the plan and the progress lines do not say."""
_ANSWERED = (
    # Lightning 2.6 with torch 2.14 and newer: not actionable for a user.
    r".isinstance\(treespec, LeafSpec\). is deprecated",
    # `data_wait_share` of the progress lines says whether there are enough.
    r"The '\w+' does not have many workers",
    # A text model of Hugging Face stays in evaluation mode on purpose.
    r"Found \d+ module\(s\) in eval mode at the start of training",
    # The last step of a stage is always measured.
    r"The number of training batches \(\d+\) is smaller than the logging interval",
)
"""Starts of warnings that concern nobody."""


class StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is when a message comes: a caller of `main` may have replaced it since."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        print(self.format(record), file=sys.stderr, flush=True)


def configure_logging() -> None:
    """Log the suite's messages to stderr, from all processes but the first only warnings, as from Lightning.

    Progress lines of the first process go to stdout.
    """
    progress = logging.getLogger(PROGRESS)
    progress.propagate = False
    if not progress.handlers:
        progress.addHandler(ProgressHandler())
    for name in SUITE:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO if is_first_process() else logging.WARNING)
        if not logger.handlers:  # not the root logger's: Lightning's messages have their own handler already
            logger.addHandler(StderrHandler())
    for name, level in _LIGHTNING.items():
        # These child loggers, since importing Lightning sets the level of their parents.
        logging.getLogger(f"lightning.{name}").setLevel(level)
    for message in _ANSWERED:
        warnings.filterwarnings("ignore", message=message)
