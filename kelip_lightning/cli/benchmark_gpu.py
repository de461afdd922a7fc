"""`kelip benchmark gpu`: everything that only a GPU can check, in one report."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kelip_lightning.errors import ConfigError

if TYPE_CHECKING:
    from kelip_lightning.benchmarks.gpu_report.runner import Part

FOLDER = Path("runs/gpu-report")
SMOKE_FOLDER = Path("runs/gpu-report-smoke")
SMOKE_FACTOR = 3.0
"""Default of --time-factor: a CPU is slow to compile."""
NO_GPU = "torch sees no GPU here; run this on a machine with one, or try every part on the CPU with --smoke"


def add_gpu_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `kelip benchmark gpu`."""
    parser.add_argument("--parts", metavar="A,B", help="only these parts (default: all)")
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FOLDER",
        help=f"folder of report.json, report.md and the parts ({FOLDER}; with --smoke {SMOKE_FOLDER})",
    )
    parser.add_argument("--again", action="store_true", help="also repeat the parts that have ended well before")
    parser.add_argument(
        "--time-factor",
        type=_positive,
        metavar="X",
        help=f"factor on every time limit (default: 1; with --smoke {SMOKE_FACTOR:g})",
    )
    parser.add_argument("--smoke", action="store_true", help="every part on the CPU, with tiny sizes")


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0")
    return value


def run_gpu_report(arguments: argparse.Namespace) -> int:
    """Run the parts, write the report and print where it is; 1 if a part failed."""
    from kelip_lightning.benchmarks.gpu_report.parts import PARTS
    from kelip_lightning.benchmarks.gpu_report.report import write_report
    from kelip_lightning.benchmarks.gpu_report.runner import ReportPlan, Status, read_outcome, run_parts

    chosen = _chosen(arguments.parts, PARTS)
    plan = ReportPlan(
        folder=arguments.output or (SMOKE_FOLDER if arguments.smoke else FOLDER),
        smoke=arguments.smoke,
        machine=_machine(smoke=arguments.smoke),
        again=arguments.again,
        time_factor=arguments.time_factor or (SMOKE_FACTOR if arguments.smoke else 1.0),
    )
    known = {part.name: one for part in PARTS if (one := read_outcome(plan, part)) is not None}
    failed, files = False, list[Path]()
    for outcome in run_parts(chosen, plan, _print_progress):
        known[outcome.part] = outcome
        failed |= outcome.status is Status.failed
        # After each, so that an interrupted report has what is known.
        files = write_report(PARTS, known, plan)
    print(f"written: {', '.join(map(str, files))}")
    return int(failed)


def _chosen(names: str | None, parts: "Sequence[Part]") -> "list[Part]":
    """The named parts, in the order of the report; ConfigError if one is unknown."""
    if names is None:
        return list(parts)
    wanted, known = [one.strip() for one in names.split(",")], [one.name for one in parts]
    if unknown := [one for one in wanted if one not in known]:
        raise ConfigError([f"--parts {', '.join(map(repr, unknown))}: the parts are {', '.join(known)}"])
    return [one for one in parts if one.name in wanted]


def _machine(*, smoke: bool) -> dict[str, Any]:
    """The device and the version of torch that the outcomes depend on.

    Raises:
        ConfigError: There is no GPU, and it is no smoke test.
    """
    import torch

    if not smoke and not torch.cuda.is_available():
        raise ConfigError([NO_GPU])
    device = "CPU" if smoke else torch.cuda.get_device_name()
    return {"device": device, "torch": torch.__version__}


def _print_progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
