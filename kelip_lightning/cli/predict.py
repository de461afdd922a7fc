"""`kelip predict RUN IMAGE --texts ...`: which text fits an image."""

import argparse
import json
from pathlib import Path

from kelip_lightning.cli.device import add_device_argument
from kelip_lightning.distributed.accelerators import choose_device
from kelip_lightning.runs.folder import RunFolder

NAME = "predict"
HELP = "which of some texts, in either language, fits an image"
DESCRIPTION = """\
The probability of each text given the image, among the texts given.

  kelip predict runs/emoji apple.png --texts 사과 "a red apple" "a banana"
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`RUN IMAGE --texts TEXT ... [--device NAME] [--json]`."""
    parser.add_argument("run_folder", metavar="RUN", help="folder of a finished run, for example runs/emoji")
    parser.add_argument("image", metavar="IMAGE", help="an image file")
    parser.add_argument("--texts", metavar="TEXT", nargs="+", required=True, help="Korean or English texts")
    add_device_argument(parser)
    parser.add_argument("--json", action="store_true", help="print text -> probability as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Predict and print, the likeliest text first."""
    folder = RunFolder.open(arguments.run_folder)
    device = choose_device(arguments.device)
    from kelip_lightning.cli.report import print_probabilities
    from kelip_lightning.inference.predict import predict

    probabilities = predict(folder, Path(arguments.image), arguments.texts, device)
    if arguments.json:
        print(json.dumps(dict(zip(arguments.texts, probabilities, strict=True)), ensure_ascii=False, indent=2))
    else:
        print_probabilities(arguments.texts, probabilities)
    return 0
