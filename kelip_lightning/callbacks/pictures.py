"""TensorBoard images: reconstructions of the masked autoencoder, and the top captions of fixed images."""

from collections.abc import Sequence

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from data_modules.images.transforms.evaluation import evaluation_image
from kelip_lightning.callbacks.periodic import PeriodicCallback
from kelip_lightning.drawing.panels import (
    THUMBNAIL,
    ConfusedPair,
    PanelRow,
    RankedCaption,
    draw_confusion_panel,
    draw_labelled_rows,
    draw_top_matches_panel,
)
from kelip_lightning.evaluation.suite import Evaluation
from kelip_lightning.evaluation.tasks import TopExamples
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoderBase
from kelip_lightning.models.patches import patchify, unpatchify
from kelip_lightning.models.preprocessing import channel_statistics, normalize_images
from kelip_lightning.modules.masked_pretrain import MaskedPretrainModule

_MASK_GREY = 128


def log_image(trainer: pl.Trainer, tag: str, image: np.ndarray, step: int) -> None:
    """Write a uint8 image (H, W, 3) to every TensorBoard logger; other loggers take no images."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(tag, image, step, dataformats="HWC")
            logger.experiment.flush()


def draw_examples(trainer: pl.Trainer, step: int, evaluation: Evaluation) -> None:
    """Draw the example images of each set with their top captions or classes in both languages.

    The images are spread evenly over the set and stay the same for the whole run. A probability is the softmax of the
    scaled similarities over all captions or classes of the set in one language.
    """
    by_set: dict[str, list[TopExamples]] = {}
    for one in evaluation.examples:
        by_set.setdefault(one.data.name, []).append(one)
    for name, languages in by_set.items():
        panel = draw_top_matches_panel(panel_rows(languages), title=f"{name}, step {step}")
        log_image(trainer, f"pictures/examples/{name}", panel, step)


def draw_confusions(trainer: pl.Trainer, step: int, evaluation: Evaluation) -> None:
    """Draw the most confused classes of each zero-shot set, both languages in one panel."""
    by_set: dict[str, list[ConfusedPair]] = {}
    for one in evaluation.confusions:
        names = {
            language: [own[0] if own else "" for own in every] for language, every in one.data.classes.names.items()
        }
        by_set.setdefault(one.data.name, []).extend(
            ConfusedPair(
                language=one.language,
                true={language: every[pair.true] for language, every in names.items() if every[pair.true]},
                predicted={
                    language: every[pair.predicted] for language, every in names.items() if every[pair.predicted]
                },
                count=pair.count,
                share=pair.share,
            )
            for pair in one.pairs
        )
    for name, pairs in by_set.items():
        log_image(
            trainer, f"pictures/confusions/{name}", draw_confusion_panel(pairs, title=f"{name}, step {step}"), step
        )


def panel_rows(languages: Sequence[TopExamples]) -> list[PanelRow]:
    """The rows of a panel: the images of one set, shown in every language in which they have a caption or class."""
    selected = languages[0].data.images
    shown = sorted(set.intersection(*(set(one.images) for one in languages)))
    places = [{image: place for place, image in enumerate(one.images)} for one in languages]
    return [
        PanelRow(
            image=decode_thumbnail(selected.table.image(int(selected.rows[image]))),
            true_captions=[one.true_texts[place[image]] for one, place in zip(languages, places, strict=True)],
            ranked={one.language: _ranked(one, place[image]) for one, place in zip(languages, places, strict=True)},
        )
        for image in shown
    ]


def _ranked(examples: TopExamples, place: int) -> list[RankedCaption]:
    columns = zip(examples.texts[place], examples.probabilities[place], examples.correct[place], strict=True)
    return [RankedCaption(text=text, probability=chance, right=right) for text, chance, right in columns]


def decode_thumbnail(data: bytes) -> np.ndarray:
    """The evaluation image of an encoded file at the size of a panel, uint8 (H, W, 3)."""
    return evaluation_image(data, THUMBNAIL).transpose(1, 2, 0)


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
        log_image(trainer, "pictures/reconstructions", picture, step)


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
