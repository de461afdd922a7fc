"""What is logged to stderr, by which process."""

import logging
import warnings

from kelip_lightning.runs.folder import is_first_process
from kelip_lightning.runs.log_file import PROGRESS, SUITE, ProgressHandler


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
            logger.addHandler(logging.StreamHandler())
    for name in ("lightning.pytorch", "lightning.fabric"):
        # This child logger, since importing Lightning sets the level of its parent.
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.WARNING)
    # Lightning 2.6 with torch 2.14 and newer: not actionable for a user.
    warnings.filterwarnings("ignore", message=r".isinstance\(treespec, LeafSpec\). is deprecated")
