"""The command line: `kelip VERB FILE.yaml [dotted.key=value ...]`, one file per verb.

A verb imports torch and Lightning inside its body, so that help and misspelt commands answer at once.
"""

import argparse
import logging
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata

from kelip_lightning.cli import (
    ablate,
    analyze,
    compare,
    consolidate,
    contrastive,
    data,
    evaluate,
    export,
    mae,
    plan,
    predict,
    pretrain,
    show_config,
    tokenizer,
)
from kelip_lightning.cli.failures import guarded
from kelip_lightning.runs.folder import is_first_process

VERBS = (
    pretrain,
    mae,
    contrastive,
    evaluate,
    analyze,
    compare,
    ablate,
    predict,
    consolidate,
    export,
    tokenizer,
    data,
    plan,
    show_config,
)

EPILOG = """\
An override names one value by its dotted key: seed=1, schedule.max_steps=300, mae=null.
Keys are listed in docs/config.md; kelip show-config FILE shows them all with their values.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0 done, 2 to be mended by the user, 130 interrupted, 1 else."""
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    talk_of_progress()
    return guarded(lambda: arguments.run(arguments))


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="kelip",
        description="Korean-English image-text pre-training: MAE pre-training, contrastive training, evaluation.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"kelip {_version()}")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        sub = verbs.add_parser(
            verb.NAME,
            help=verb.HELP,
            description=verb.DESCRIPTION,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(sub)
        sub.set_defaults(run=verb.run)
    return parser


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments; overrides may stand before and after options."""
    parser = build_parser()
    arguments, extra = parser.parse_known_args(argv)
    if extra and (not hasattr(arguments, "overrides") or any(one.startswith("-") for one in extra)):
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    if extra:
        arguments.overrides.extend(extra)
    return arguments


def talk_of_progress() -> None:
    """Send the suite's own log messages to stderr, from the first process only, and quiet Lightning's remarks."""
    for name in ("kelip_lightning", "data_modules"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO if is_first_process() else logging.WARNING)
        if not logger.handlers:  # not the root logger's: Lightning's messages have their own handler already
            logger.addHandler(logging.StreamHandler())
    for name in ("lightning.pytorch", "lightning.fabric"):
        # This child logger, since importing Lightning sets the level of its parent.
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.WARNING)
    # Lightning 2.6 with torch 2.14 and newer: nothing that a user could mend.
    warnings.filterwarnings("ignore", message=r".isinstance\(treespec, LeafSpec\). is deprecated")


def _version() -> str:
    try:
        return metadata.version("kelip-lightning")
    except metadata.PackageNotFoundError:
        return "(not installed)"
