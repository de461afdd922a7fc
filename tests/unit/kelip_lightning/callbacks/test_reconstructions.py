"""The reconstruction picture: visible patches exact, predictions back in pixels."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from kelip_lightning.callbacks.reconstructions import ReconstructionCallback, reconstruct, to_pixels
from kelip_lightning.losses.self_supervised import standardize_patches
from kelip_lightning.models.masked_autoencoder import MaskedReconstruction
from kelip_lightning.models.patches import keep_lowest, mask_of, patchify
from kelip_lightning.models.preprocessing import normalize_images

PATCH = 4


class _Oracle(nn.Module):
    """Predicts the true target of every patch, plus an error."""

    patch_size = PATCH

    def __init__(self, norm_pix_loss: bool, error: float = 0.0) -> None:
        super().__init__()
        self.norm_pix_loss = norm_pix_loss
        self.error = nn.Parameter(torch.tensor(error))

    def forward(self, images: Tensor, noise: Tensor) -> MaskedReconstruction:
        target = patchify(images, PATCH)
        if self.norm_pix_loss:
            target = standardize_patches(target)
        mask = mask_of(keep_lowest(noise, 0.75), noise.shape[1])
        return MaskedReconstruction(prediction_BNP=target + self.error, mask_BN=mask)


def _case() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, 3, 16, 16), dtype=torch.uint8, generator=generator)
    return images, torch.rand(3, 16, generator=generator)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_reconstruct__perfect_prediction_gives_the_original(norm_pix_loss: bool) -> None:
    images, noise = _case()
    model: nn.Module = _Oracle(norm_pix_loss)
    with torch.no_grad():
        _, pasted = reconstruct(model, images, noise)  # type: ignore[arg-type]
    assert torch.equal(pasted, images)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_reconstruct__visible_patches_exact_and_masked_ones_predicted(norm_pix_loss: bool) -> None:
    images, noise = _case()
    model: nn.Module = _Oracle(norm_pix_loss, error=1.0)
    with torch.no_grad():
        masked, pasted = reconstruct(model, images, noise)  # type: ignore[arg-type]
    hidden = mask_of(keep_lowest(noise, 0.75), 16).bool()
    original = patchify(images, PATCH)
    assert torch.equal(patchify(masked, PATCH)[~hidden], original[~hidden])
    assert torch.equal(patchify(pasted, PATCH)[~hidden], original[~hidden])
    assert (patchify(masked, PATCH)[hidden] == 128).all()
    assert (patchify(pasted, PATCH)[hidden] != original[hidden]).any(dim=-1).all()


def test_to_pixels__inverts_normalize_images() -> None:
    images, _ = _case()
    assert torch.equal(to_pixels(normalize_images(images)), images)


def test_reconstruction_callback__needs_one_row_of_noise_per_image() -> None:
    images, noise = _case()
    with pytest.raises(ValueError, match="one row of noise per image"):
        ReconstructionCallback(images, noise[:2], every_n_steps=1)


def test_reconstruction_callback__writes_a_picture(fit: Callable[..., Any], tmp_path: Path) -> None:
    images, noise = _case()
    logger = TensorBoardLogger(tmp_path)

    class _OfOracle(ReconstructionCallback):
        def act(self, trainer: Any, pl_module: Any, step: int) -> None:
            super().act(trainer, SimpleNamespace(model=_Oracle(norm_pix_loss=True)), step)  # type: ignore[arg-type]

    fit([_OfOracle(images, noise, every_n_steps=5)], steps=6, logger=logger)
    pictures = EventAccumulator(logger.log_dir).Reload().Images("reconstructions")
    assert [picture.step for picture in pictures] == [0, 5, 6]
    assert (pictures[0].height, pictures[0].width) == (3 * 132, 120 + 3 * 132)
