"""TensorBoard images: reconstructions of the masked autoencoder, and the top captions of fixed images."""

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from data_modules.benchmarks.evaluation_sets import RetrievalSet
from kelip_lightning.callbacks.evaluation import EvaluationCallback, module_embeddings
from kelip_lightning.callbacks.periodic import PeriodicCallback
from kelip_lightning.drawing.panels import PanelRow, RankedCaption, draw_caption_panel, draw_labelled_rows
from kelip_lightning.evaluation.embed import Embeddings
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoderBase
from kelip_lightning.models.patches import patchify, unpatchify
from kelip_lightning.models.preprocessing import channel_statistics, normalize_images
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.modules.masked_pretrain import MaskedPretrainModule

TOP_CAPTIONS = 3
_MASK_GREY = 128


def log_image(trainer: pl.Trainer, tag: str, image: np.ndarray, step: int) -> None:
    """Write a uint8 image (H, W, 3) to every TensorBoard logger; other loggers take no images."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, image, step, dataformats="HWC")
            logger.experiment.flush()


class CaptionPanelCallback(PeriodicCallback):
    """Draws images of a retrieval set with their true and their top captions.

    The images are spread evenly over the set and stay the same for the whole run. A probability is the softmax of the
    scaled similarities over all captions of the set's gallery in one language.

    Args:
        retrieval_set: Images and gallery.
        every_n_steps: Optimizer steps between two panels.
        num_images: Rows of the panel.
        evaluation: The run's evaluation callback, earlier in the list of callbacks: its embeddings of the gallery are
            used when both act at the same step.
    """

    def __init__(
        self,
        retrieval_set: RetrievalSet,
        every_n_steps: int,
        num_images: int = 8,
        evaluation: EvaluationCallback | None = None,
    ) -> None:
        super().__init__(every_n_steps)
        self._set = retrieval_set
        self._evaluation = evaluation
        self._shown = spread_evenly(len(retrieval_set.images), num_images)

    def act(self, trainer: pl.Trainer, pl_module: ContrastiveModule, step: int) -> None:
        """Embed, rank, draw, log."""
        embeddings = (
            self._evaluation.embeddings_at(step, pl_module) if self._evaluation else module_embeddings(pl_module)
        )
        rows = panel_rows(self._set, self._shown, embeddings, pl_module.model.scale().item())
        panel = draw_caption_panel(rows, title=f"{self._set.name}, step {step}")
        log_image(trainer, f"captions/{self._set.name}", panel, step)


def panel_rows(data: RetrievalSet, shown: Tensor, embeddings: Embeddings, scale: float) -> list[PanelRow]:
    """The rows of a panel for the images at the indices `shown`; `scale` is 1 / temperature."""
    features = embeddings.images(data.images[shown], [data.digests[index] for index in shown.tolist()])
    ranked: dict[str, list[list[RankedCaption]]] = {}
    for language, captions in data.captions.items():
        chances = (scale * features @ embeddings.texts(captions).T).softmax(dim=-1)
        top = chances.topk(min(TOP_CAPTIONS, len(captions)), dim=-1)
        ranked[language] = [
            [
                RankedCaption(text=captions[index], probability=chance, right=index == target)
                for index, chance in zip(indices, values, strict=True)
            ]
            for indices, values, target in zip(
                top.indices.tolist(), top.values.tolist(), data.target[shown].tolist(), strict=True
            )
        ]
    return [
        PanelRow(
            image=data.images[index].permute(1, 2, 0).numpy(),
            true_captions=[captions[int(data.target[index])] for captions in data.captions.values()],
            ranked={language: rows[place] for language, rows in ranked.items()},
        )
        for place, index in enumerate(shown.tolist())
    ]


def spread_evenly(num_items: int, num_shown: int) -> Tensor:
    """At most `num_shown` distinct indices from the first to the last item; int64, no randomness."""
    return torch.linspace(0, num_items - 1, min(num_items, num_shown)).round().long()


class ReconstructionCallback(PeriodicCallback):
    """Draws masked image, reconstruction and original, with the same images and masks throughout a run.

    Args:
        images: uint8 (N, 3, H, W).
        noise: float32 (N, num_patches), chooses the masked patches as in training.
        every_n_steps: Optimizer steps between two pictures.

    Raises:
        ValueError: `noise` does not have one row per image.
    """

    def __init__(self, images: Tensor, noise: Tensor, every_n_steps: int) -> None:
        super().__init__(every_n_steps)
        if len(images) != len(noise) or len(images) == 0:
            raise ValueError(f"expected one row of noise per image, got {len(noise)} for {len(images)} images")
        self._images = images
        self._noise = noise

    def act(self, trainer: pl.Trainer, pl_module: MaskedPretrainModule, step: int) -> None:
        """Reconstruct, draw, log."""
        masked, reconstruction = reconstruct(pl_module.model, self._images, self._noise)
        rows = {"masked": masked, "reconstruction": reconstruction, "original": self._images}
        side = self._images.shape[-1] * max(1, 128 // self._images.shape[-1])
        arrays = {label: list(images.permute(0, 2, 3, 1).contiguous().numpy()) for label, images in rows.items()}
        picture = draw_labelled_rows(arrays, side)
        log_image(trainer, "reconstructions", picture, step)


def reconstruct(model: MaskedAutoencoderBase, images: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The masked images and their reconstructions, both uint8 (N, 3, H, W) on the CPU.

    Visible patches are those of the input. A model trained with norm_pix_loss predicts standardized patches; their
    mean and standard deviation are taken from the original patch, so the picture shows the predicted structure inside
    a patch, not its brightness or colour.

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
