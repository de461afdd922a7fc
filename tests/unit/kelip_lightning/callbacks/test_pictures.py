"""The caption panel, in Hangul too, and the reconstruction picture: visible patches exact, predictions in pixels."""

import io
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from data_modules.benchmarks.config import EvaluationConfig
from data_modules.benchmarks.evaluation_sets import EvaluationSets
from kelip_lightning.callbacks.evaluation import EvaluationCallback
from kelip_lightning.callbacks.pictures import (
    ReconstructionCallback,
    draw_confusions,
    draw_examples,
    panel_rows,
    reconstruct,
    to_pixels,
)
from kelip_lightning.drawing.fonts import load_font
from kelip_lightning.drawing.panels import PanelRow, RankedCaption, draw_top_matches_panel, shorten
from kelip_lightning.evaluation.tasks import TopExamples
from kelip_lightning.losses.self_supervised import standardize_patches
from kelip_lightning.models.masked_autoencoder import MaskedReconstruction
from kelip_lightning.models.patches import keep_lowest, mask_of, patchify
from kelip_lightning.models.preprocessing import normalize_images

PATCH = 4


def _row(text: str, probability: float = 0.0, right: bool = False) -> PanelRow:
    caption = RankedCaption(text=text, probability=probability, right=right)
    return PanelRow(
        image=np.zeros((8, 8, 3), dtype=np.uint8),
        true_captions=["정답"],
        ranked={"ko": [caption], "en": [caption]},
    )


def test_draw_top_matches_panel__different_syllables_look_different() -> None:
    panels = [draw_top_matches_panel([_row(text)], title="t") for text in ("각", "간", "똠", "펲", "힝", "□")]
    for place, panel in enumerate(panels):
        assert panel.dtype == np.uint8
        assert not any(np.array_equal(panel, other) for other in panels[:place])


def test_draw_top_matches_panel__right_captions_and_probabilities_show() -> None:
    plain = draw_top_matches_panel([_row("사과")], title="t")
    green = draw_top_matches_panel([_row("사과", right=True)], title="t")
    barred = draw_top_matches_panel([_row("사과", probability=0.5)], title="t")
    assert not np.array_equal(plain, green)
    assert (barred == np.array([228, 238, 250])).all(axis=-1).sum() > 1000


def test_draw_top_matches_panel__one_row_per_image() -> None:
    one, three = (draw_top_matches_panel([_row("사과")] * count, title="t") for count in (1, 3))
    assert three.shape[0] > one.shape[0]
    assert three.shape[1:] == one.shape[1:]


def test_shorten__keeps_beginning_and_end_within_the_width() -> None:
    font = load_font(15)
    assert shorten("사과", font, 100) == "사과"
    text = shorten("man in motorized wheelchair facing right: medium-dark skin tone", font, 300)
    assert font.getlength(text) <= 300
    assert text.startswith("man in")
    assert text.endswith("skin tone")


def test_panel_rows__the_images_with_their_captions_in_both_languages(sets: EvaluationSets) -> None:
    data = sets.retrieval[0]
    examples = [
        TopExamples(
            data=data,
            language=language,
            images=images,
            texts=[[f"{language} {image}"] for image in images],
            probabilities=[[0.25]] * len(images),
            correct=[[image == 4] for image in images],
            true_texts=[f"true {language} {image}" for image in images],
        )
        for language, images in (("ko", [1, 4]), ("en", [0, 4]))  # image 1 has no caption in English, 0 none in Korean
    ]
    (row,) = panel_rows(examples)
    assert row.true_captions == ["true ko 4", "true en 4"]
    assert row.ranked == {
        language: [RankedCaption(text=f"{language} 4", probability=0.25, right=True)] for language in ("ko", "en")
    }
    stored = np.asarray(Image.open(io.BytesIO(data.images.table.image(4))))
    assert row.image.shape == (96, 96, 3)
    assert abs(row.image.mean() - stored.mean()) < 3


def test_draw_examples__one_image_per_set_and_evaluation(
    fit: Callable[..., Any], sets: EvaluationSets, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path)
    callback = EvaluationCallback(
        sets, EvaluationConfig(every_n_steps=2), on_evaluation=[draw_examples, draw_confusions], num_examples=3
    )
    fit([callback], steps=3, logger=logger)
    events = EventAccumulator(logger.log_dir).Reload()
    for name in ("unseen_design", "groups"):
        assert [image.step for image in events.Images(f"pictures/examples/{name}")] == [0, 2, 3]
    assert [image.step for image in events.Images("pictures/confusions/groups")] == [0, 2, 3]


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
    pictures = EventAccumulator(logger.log_dir).Reload().Images("pictures/reconstructions")
    assert [picture.step for picture in pictures] == [0, 5, 6]
    assert (pictures[0].height, pictures[0].width) == (3 * 132, 120 + 3 * 132)
