"""What the masked autoencoder makes of fixed images, as a picture in TensorBoard."""

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from kelip_lightning.callbacks.periodic import PeriodicCallback, log_image
from kelip_lightning.drawing.panels import draw_labelled_rows
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoderBase
from kelip_lightning.models.patches import patchify, unpatchify
from kelip_lightning.models.preprocessing import channel_statistics, normalize_images
from kelip_lightning.modules.masked_pretrain import MaskedPretrainModule

_MASK_GREY = 128


class ReconstructionCallback(PeriodicCallback):
    """Draws masked image, reconstruction and original of the same images and masks all through the run."""

    def __init__(self, images: Tensor, noise: Tensor, every_n_steps: int) -> None:
        """Takes what is shown.

        Args:
            images: uint8 (N, 3, H, W), a handful.
            noise: float32 (N, num_patches), chooses the masked patches as in training.
            every_n_steps: Optimizer steps between two pictures.

        Raises:
            ValueError: If there is not one row of noise per image.
        """
        super().__init__(every_n_steps)
        if len(images) != len(noise) or len(images) == 0:
            raise ValueError(f"expected one row of noise per image, got {len(noise)} for {len(images)} images")
        self._images = images
        self._noise = noise

    def act(self, trainer: pl.Trainer, pl_module: MaskedPretrainModule, step: int) -> None:
        """Reconstructs, draws, logs."""
        masked, reconstruction = reconstruct(pl_module.model, self._images, self._noise)
        rows = {"masked": masked, "reconstruction": reconstruction, "original": self._images}
        side = self._images.shape[-1] * max(1, 128 // self._images.shape[-1])
        picture = draw_labelled_rows({label: _arrays(images) for label, images in rows.items()}, side)
        log_image(trainer, "reconstructions", picture, step)


def reconstruct(model: MaskedAutoencoderBase, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The masked images and their reconstructions, both uint8 (N, 3, H, W) on the CPU.

    Visible patches are pasted in as they were. A model trained with norm_pix_loss predicts patches
    less their own mean and over their own standard deviation, which the prediction does not know:
    for display they are taken from the original patch. Such pictures therefore look better than the
    model is; what it tells is the structure inside a patch, not its brightness or colour.

    Args:
        model: In eval mode.
        images: (N, 3, H, W), uint8.
        noise: (N, num_patches), float32.
    """
    parameter = next(model.parameters())
    normalised = normalize_images(images.to(parameter.device))
    with torch.autocast(parameter.device.type, enabled=False):
        output = model(normalised.to(parameter.dtype), noise.to(parameter.device))
    patches = output.prediction_BNP.float()
    if model.norm_pix_loss:
        target = patchify(normalised, model.patch_size)
        patches = patches * (target.var(dim=-1, keepdim=True) + 1e-6).sqrt() + target.mean(dim=-1, keepdim=True)
    predicted = patchify(to_pixels(unpatchify(patches, model.patch_size)), model.patch_size).cpu()
    original = patchify(images, model.patch_size)
    hidden = output.mask_BN.bool().cpu()[..., None]
    masked = torch.where(hidden, torch.full_like(original, _MASK_GREY), original)
    pasted = torch.where(hidden, predicted, original)
    return unpatchify(masked, model.patch_size), unpatchify(pasted, model.patch_size)


def to_pixels(normalised: Tensor) -> Tensor:
    """The inverse of `normalize_images`, rounded and clipped to uint8, (..., 3, H, W)."""
    mean, std = channel_statistics(normalised.device).unbind()
    return ((normalised * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)


def _arrays(images: Tensor) -> list[np.ndarray]:
    return [image.permute(1, 2, 0).contiguous().numpy() for image in images]
