"""`--device`, for the verbs that use a trained model."""

import argparse

from kelip_lightning.distributed.accelerators import AUTO


def add_device_argument(parser: argparse.ArgumentParser) -> None:
    """`[--device NAME]`."""
    parser.add_argument(
        "--device",
        metavar="NAME",
        default=AUTO,
        help="where the model is used: auto (a GPU if there is one; the default), cpu, cuda, cuda:1, ... or mps",
    )
