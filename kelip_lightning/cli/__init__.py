"""The command line: `kelip VERB FILE.yaml [dotted.key=value ...]`, one file per verb; training.py has three."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from kelip_lightning.cli import (
    ablate,
    analyze,
    benchmark,
    compare,
    consolidate,
    data,
    embed,
    evaluate,
    export,
    init,
    plan,
    predict,
    search,
    show_config,
    status,
    tokenizer,
    training,
)
from kelip_lightning.cli.failures import guarded
from kelip_lightning.cli.logs import configure_logging
from kelip_lightning.cli.stop_signals import terminable

VERBS = (
    init.init,
    training.pretrain,
    training.mae,
    training.contrastive,
    evaluate.evaluate,
    analyze.analyze,
    compare.compare,
    ablate.ablate,
    predict.predict,
    embed.embed,
    search.search,
    consolidate.consolidate,
    export.export,
    tokenizer.tokenizer,
    data.data,
    plan.plan,
    status.status,
    benchmark.benchmark,
    show_config.show_config,
)

_TRAINING = (training.pretrain.run, training.mae.run, training.contrastive.run)

EPILOG = """\
An override sets one value by its dotted key: seed=1, schedule.max_steps=300, mae=null.
docs/config.md lists the keys; kelip show-config FILE prints them with their values.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb.

    Returns:
        Exit code: 0 success, 2 user error, 130 interrupted, 75 stopped by the scheduler, 1 any other failure.
    """
    arguments = parse_arguments(sys.argv[1:] if argv is None else argv)
    configure_logging()
    if arguments.run in _TRAINING:  # they are stopped at once until their run begins, and in order from then on
        return guarded(lambda: arguments.run(arguments))

    def interruptible() -> int:
        with terminable():
            code: int = arguments.run(arguments)
            return code

    return guarded(interruptible)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="kelip",
        description="Korean-English CLIP: MAE pre-training, contrastive training, evaluation.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_PrintVersion, nargs=0, help="print the installed version")
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        sub = verbs.add_parser(
            verb.name,
            help=verb.description.partition(".\n")[0],
            description=verb.description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        verb.add_arguments(sub)
        sub.set_defaults(run=verb.run)
    return parser


def parse_arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The parsed arguments; overrides may come before and after options."""
    parser = build_parser()
    arguments, extra = parser.parse_known_args(argv)
    if extra and (not hasattr(arguments, "overrides") or any(one.startswith("-") for one in extra)):
        parser.error(f"unrecognized arguments: {' '.join(extra)}")
    if extra:
        arguments.overrides.extend(extra)
    return arguments


class _PrintVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: Any, **__: Any) -> None:
        from importlib import metadata  # here, as importing it takes a sixth of the time of --help

        try:
            version = metadata.version("kelip-lightning")
        except metadata.PackageNotFoundError:
            version = "(not installed)"
        print(f"kelip {version}")
        parser.exit()
