"""`kelip consolidate RUN|CHECKPOINT`: the weights of a checkpoint as a folder that everything else loads."""

import argparse
from pathlib import Path

NAME = "consolidate"
HELP = "turn a checkpoint, DeepSpeed's pieces too, into a folder of weights"
DESCRIPTION = """\
Writes the weights of a checkpoint as float32 in one safetensors file, with configuration and tokenizer: the
dual_encoder or image_encoder folder that a finished stage writes by itself. The checkpoint may be one file, or
the pieces that the ranks of DeepSpeed's ZeRO wrote; the number of ranks no longer matters.

  kelip consolidate runs/emoji
  kelip consolidate runs/emoji/contrastive/checkpoints/step=0000500 --output /tmp/step-500
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`RUN|CHECKPOINT [--output FOLDER]`."""
    parser.add_argument(
        "path", metavar="RUN|CHECKPOINT", help="a run folder (its newest whole checkpoint), or a checkpoint"
    )
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="folder to write; default: the run's own place")


def run(arguments: argparse.Namespace) -> int:
    """Write the folder and name it."""
    from kelip_lightning.training.consolidate import consolidate

    path = Path(arguments.path)
    print(f"weights   {consolidate(path, arguments.output)}")
    return 0
