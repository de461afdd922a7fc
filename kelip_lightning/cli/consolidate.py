"""`kelip consolidate RUN|CHECKPOINT`: the weights of a checkpoint as a folder of float32 weights."""

import argparse
from pathlib import Path

from kelip_lightning.cli.verb import verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", metavar="RUN|CHECKPOINT", help="a run folder (its newest complete checkpoint), or a checkpoint"
    )
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="folder to write (default: the run's own)")


@verb(_add_arguments)
def consolidate(arguments: argparse.Namespace) -> int:
    """Convert a checkpoint, DeepSpeed's partitions included, to a folder of weights.

    Writes the weights of a checkpoint as float32 in one safetensors file, with configuration and tokenizer: the
    dual_encoder or image_encoder folder that a finished stage writes itself. The checkpoint is one file, or the
    partitions written by the ranks of DeepSpeed's ZeRO, of any number of ranks.

      kelip consolidate runs/emoji
      kelip consolidate runs/emoji/contrastive/checkpoints/step=0000500 --output /tmp/step-500
    """
    from kelip_lightning.training.consolidate import consolidate

    print(f"weights   {consolidate(Path(arguments.path), arguments.output)}")
    return 0
