"""`kelip contrastive FILE`: stage 2 alone."""

import argparse

from kelip_lightning.cli.training import add_training_arguments, check_syntax, terminable, train
from kelip_lightning.runs.folder import is_first_process

NAME = "contrastive"
HELP = "train image and text encoder contrastively (stage 2)"
DESCRIPTION = """\
Contrastive training with multi-crop, evaluated in both languages while it runs. Starts from fresh
weights, or from the MAE stage's encoder:

  kelip contrastive experiments/emoji/contrastive.yaml init.image_encoder=runs/NAME/mae/image_encoder
"""

add_arguments = add_training_arguments


@terminable()
def run(arguments: argparse.Namespace) -> int:
    """Train stage 2."""
    check_syntax(arguments.file)
    from kelip_lightning.cli.report import print_result
    from kelip_lightning.config.experiment import ContrastiveExperiment
    from kelip_lightning.training.stages import run_contrastive

    folder, metrics = train(arguments, ContrastiveExperiment, run_contrastive)
    if is_first_process():
        print_result(folder, metrics)
    return 0
