"""`kelip mae FILE`: stage 1 alone."""

import argparse

from kelip_lightning.cli.training import add_training_arguments, check_syntax, terminable, train
from kelip_lightning.runs.folder import is_first_process

NAME = "mae"
HELP = "warm the image encoder up with masked auto-encoding (stage 1)"
DESCRIPTION = """\
MAE pre-training of the image encoder. Writes runs/NAME/mae/image_encoder, from which
contrastive training starts with init.image_encoder=runs/NAME/mae/image_encoder.

  kelip mae experiments/emoji/mae.yaml schedule.max_steps=600
"""

add_arguments = add_training_arguments


@terminable()
def run(arguments: argparse.Namespace) -> int:
    """Train stage 1."""
    check_syntax(arguments.file)
    from kelip_lightning.config.experiment import MaskedPretrainExperiment
    from kelip_lightning.training.stages import run_masked_pretrain

    folder, metrics = train(arguments, MaskedPretrainExperiment, run_masked_pretrain)
    if is_first_process():
        loss = metrics.get("train/loss")
        print("" if loss is None else f"last reconstruction error {loss:.4f}")
        print(f"image encoder   {folder.image_encoder}")
        print(f"pictures        make tensorboard   (tensorboard --logdir {folder.path.parent})")
        print(f"next            kelip contrastive FILE.yaml init.image_encoder={folder.image_encoder}")
    return 0
