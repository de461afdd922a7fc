"""Stage 1: the MAE warm-up of the image encoder."""

import torch
from torch import Tensor

from data_modules.records import ImageBatch
from kelip_lightning.losses.reconstruction import masked_mse, standardize_patches
from kelip_lightning.models.official_autoencoder import AnyMaskedAutoencoder
from kelip_lightning.models.patches import patchify
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.optim.optimizers import OptimizerConfig
from kelip_lightning.optim.schedules import ScheduleConfig


class MaskedPretrainModule(StageModule):
    """Trains a masked autoencoder on `ImageBatch`es.

    Reference: Ko & Gu 2022 (arXiv:2203.14463) warm the image encoder up with MAE before contrastive training.
    """

    def __init__(self, model: AnyMaskedAutoencoder, optimizer: OptimizerConfig, schedule: ScheduleConfig) -> None:
        super().__init__(optimizer, schedule)
        self.model = model

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """The masked reconstruction error of a batch."""
        images = normalize_images(batch.images)
        reconstruction = self.model(images, batch.noise)
        with torch.autocast(images.device.type, enabled=False):
            target = patchify(images, self.model.patch_size)
            if self.model.norm_pix_loss:
                target = standardize_patches(target)
            loss = masked_mse(reconstruction.prediction_BNP, target, reconstruction.mask_BN)
        self.log_values({"loss": loss.detach()})
        return loss
