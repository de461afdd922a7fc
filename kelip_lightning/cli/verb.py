"""Declaration of a verb of the command line, and what several verbs share."""

import argparse
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kelip_lightning.distributed.accelerators import AUTO

if TYPE_CHECKING:
    from kelip_lightning.config.load import LoadedExperiment

Run = Callable[[argparse.Namespace], int]
AddArguments = Callable[[argparse.ArgumentParser], None]


@dataclass(frozen=True, slots=True)
class Verb:
    """`kelip NAME ...`."""

    name: str
    description: str
    """Text of `kelip NAME --help`; its first line is the verb's line in `kelip --help`."""
    add_arguments: AddArguments
    run: Run
    """Returns the exit code."""


def verb(add_arguments: AddArguments) -> Callable[[Run], Verb]:
    """Declares a function as the verb of its name; its docstring is the help text.

    The function imports torch and Lightning inside its body, after it has loaded its file, so that help, usage errors
    and mistakes in the file need no heavy imports.
    """
    return lambda run: Verb(run.__name__.replace("_", "-"), inspect.cleandoc(run.__doc__ or ""), add_arguments, run)


def add_experiment_arguments(parser: argparse.ArgumentParser) -> None:
    """`FILE.yaml [dotted.key=value ...]`."""
    parser.add_argument("file", metavar="FILE.yaml", help="the experiment")
    add_overrides_argument(parser)


def add_overrides_argument(parser: argparse.ArgumentParser) -> None:
    """`[dotted.key=value ...]`."""
    parser.add_argument("overrides", metavar="dotted.key=value", nargs="*", help="values that replace those of FILE")


def add_run_argument(parser: argparse.ArgumentParser) -> None:
    """`RUN`."""
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run, for example runs/emoji")


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """`[--device NAME]`."""
    parser.add_argument(
        "--device",
        metavar="NAME",
        default=AUTO,
        help="device of the model: auto (a GPU if there is one; the default), cpu, cuda, cuda:1, ... or mps",
    )


def positive_count(text: str) -> int:
    """A whole number of at least 1, for `type=` of an argument."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text} must be a whole number of at least 1")
    return int(text)


def load_any_experiment(
    file: str | Path, overrides: Sequence[str], *, on_this_machine: bool, stored: bool = False, heavy: bool = True
) -> "LoadedExperiment[Any]":
    """As `load_experiment`, with the schema that fits the file."""
    from kelip_lightning.config.experiment import SCHEMAS
    from kelip_lightning.config.load import find_schema, load_experiment

    schema = find_schema(file, SCHEMAS)
    return load_experiment(file, overrides, schema, on_this_machine=on_this_machine, stored=stored, heavy=heavy)
