"""Stage 1: MAE pre-training of the image encoder."""

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from data_modules.records import ImageBatch
from kelip_lightning.losses.self_supervised import masked_mse, standardize_patches
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoderBase
from kelip_lightning.models.patches import patchify
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig


class MaskedPretrainModule(StageModule):
    """Trains a masked autoencoder on `ImageBatch`es, before contrastive training (Ko & Gu 2022, arXiv:2203.14463)."""

    stage_name = "mae"

    def __init__(
        self, model: MaskedAutoencoderBase, optimizer: OptimizerConfig, schedule: ScheduleConfig, accumulate: int = 1
    ) -> None:
        super().__init__(optimizer, schedule, accumulate)
        self.model = model

    def compile_model(self) -> None:
        """Compile encoder and decoder together."""
        self.model.compile(dynamic=False)

    def training_step(self, batch: ImageBatch, batch_idx: int) -> Tensor:
        """The masked reconstruction loss of a batch."""
        if self.accumulate == 1:
            loss = self._loss(batch.images, batch.noise, batch.sample_seeds)
        else:
            loss = self._loss_in_chunks(batch)
        if self.logs_this_step:
            self.log_ratios({"loss": (loss.detach(), 1.0)})
        return loss

    def _loss_in_chunks(self, batch: ImageBatch) -> Tensor:
        """The loss with recomputed activations; images have equally many masked patches, so the mean is exact."""
        fields = (batch.images, batch.noise, batch.sample_seeds)
        chunks = zip(*(field.chunk(self.accumulate) for field in fields), strict=True)
        losses = [
            checkpoint(self._loss, *chunk, use_reentrant=False, preserve_rng_state=False)
            * (len(chunk[0]) / len(batch.images))
            for chunk in chunks
        ]
        return torch.stack(losses).sum()

    def _loss(self, images: Tensor, noise: Tensor, seeds: Tensor) -> Tensor:
        standardized = normalize_images(images)
        reconstruction = self.model(images, noise, seeds)
        with torch.autocast(images.device.type, enabled=False):
            target = patchify(standardized, self.model.patch_size)
            if self.model.norm_pix_loss:
                target = standardize_patches(target)
            return masked_mse(reconstruction.prediction_BNP, target, reconstruction.mask_BN)
