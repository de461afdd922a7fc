"""`kelip pretrain FILE`: the whole chain."""

import argparse

from kelip_lightning.cli.training import add_training_arguments, check_syntax, terminable, train
from kelip_lightning.runs.folder import is_first_process

NAME = "pretrain"
HELP = "both stages: MAE pre-training, contrastive training, evaluation"
DESCRIPTION = """\
MAE pre-training, hand-over of the image encoder, contrastive training, final evaluation, in one run folder.
An override goes to every stage that has the key; mae.KEY and contrastive.KEY reach one stage.

  kelip pretrain experiments/emoji/pretrain.yaml
  kelip pretrain experiments/emoji/pretrain.yaml name=no-mae mae=null
  kelip pretrain experiments/emoji/pretrain.yaml name=wider image_encoder.width=256 image_encoder.num_heads=4
"""

add_arguments = add_training_arguments


@terminable()
def run(arguments: argparse.Namespace) -> int:
    """Train both stages."""
    check_syntax(arguments.file)
    from kelip_lightning.cli.report import print_result
    from kelip_lightning.config.experiment import PretrainExperiment
    from kelip_lightning.training.stages import run_pretrain

    folder, metrics = train(arguments, PretrainExperiment, run_pretrain)
    if is_first_process():
        print_result(folder, metrics)
    return 0
