"""`kelip consolidate RUN|CHECKPOINT`: the weights of a checkpoint as a folder of float32 weights."""

import argparse
from pathlib import Path

from kelip_lightning.cli.verb import Verb


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    """`RUN|CHECKPOINT [--output FOLDER]`."""
    parser.add_argument(
        "path", metavar="RUN|CHECKPOINT", help="a run folder (its newest complete checkpoint), or a checkpoint"
    )
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="folder to write (default: the run's own)")


def _run(arguments: argparse.Namespace) -> int:
    from kelip_lightning.training.consolidate import consolidate

    print(f"weights   {consolidate(Path(arguments.path), arguments.output)}")
    return 0


VERB = Verb(
    name="consolidate",
    help="convert a checkpoint, DeepSpeed's partitions included, to a folder of weights",
    description="""\
Writes the weights of a checkpoint as float32 in one safetensors file, with configuration and tokenizer: the
dual_encoder or image_encoder folder that a finished stage writes itself. The checkpoint is one file, or the
partitions written by the ranks of DeepSpeed's ZeRO, of any number of ranks.

  kelip consolidate runs/emoji
  kelip consolidate runs/emoji/contrastive/checkpoints/step=0000500 --output /tmp/step-500
""",
    add_arguments=_add_arguments,
    run=_run,
)
