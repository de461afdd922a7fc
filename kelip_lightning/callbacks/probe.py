"""Probes of MAE pre-training: how well classes can be read from the frozen features of the image encoder."""

from collections.abc import Sequence

import lightning.pytorch as pl
import torch
from torch import Tensor

from data_modules.benchmarks.image_stream import EvaluationTransform
from data_modules.benchmarks.probe_sets import ProbeSet
from kelip_lightning.callbacks.evaluation import IntervalEvaluation
from kelip_lightning.evaluation.encoders import ImageFunctions
from kelip_lightning.evaluation.probe import evaluate_probes
from kelip_lightning.evaluation.suite import Evaluation
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.modules.masked_pretrain import MaskedPretrainModule


class ProbeCallback(IntervalEvaluation[ProbeSet]):
    """k-NN and linear probe of the image encoder, at step 0, at each set's interval and at the end.

    Features are the pooled outputs of the encoder for whole images, no patch masked, in the trainer's precision: what
    contrastive training starts from.
    """

    def evaluate(self, due: Sequence[ProbeSet], trainer: pl.Trainer, pl_module: MaskedPretrainModule) -> Evaluation:
        """Accuracies of the sets that are due."""
        return Evaluation(metrics=evaluate_probes(due, module_features(trainer, pl_module), self.streaming))


def module_features(trainer: pl.Trainer, pl_module: MaskedPretrainModule) -> ImageFunctions:
    """The module's image encoder with its current weights, in the trainer's precision."""
    encoder, precision = pl_module.model.encoder, trainer.precision_plugin.forward_context
    parameter = next(encoder.parameters())

    def encode(images: Tensor) -> Tensor:
        with precision():
            features: Tensor = encoder(normalize_images(images.to(parameter.device)).to(parameter.dtype))
        return features

    return ImageFunctions(
        name="image encoder in training",
        preprocess=EvaluationTransform(encoder.config.image_size),
        encode_images=encode,
        device=torch.device(parameter.device),
    )
