"""The caption panel: what it says, and that Hangul is drawn as Hangul."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_modules.benchmarks.evaluation_sets import EvaluationSets
from kelip_lightning.callbacks.caption_panel import CaptionPanelCallback, panel_rows, spread_evenly
from kelip_lightning.drawing.fonts import load_font
from kelip_lightning.drawing.panels import PanelRow, RankedCaption, draw_caption_panel, shorten
from kelip_lightning.evaluation.embed import Embeddings


def _row(text: str, probability: float = 0.0, right: bool = False) -> PanelRow:
    caption = RankedCaption(text=text, probability=probability, right=right)
    return PanelRow(
        image=np.zeros((8, 8, 3), dtype=np.uint8),
        true_captions=["정답"],
        ranked={"ko": [caption], "en": [caption]},
    )


def test_draw_caption_panel__different_syllables_look_different() -> None:
    panels = [draw_caption_panel([_row(text)], title="t") for text in ("각", "간", "똠", "펲", "힝", "□")]
    for place, panel in enumerate(panels):
        assert panel.dtype == np.uint8
        for other in panels[:place]:
            assert not np.array_equal(panel, other)


def test_draw_caption_panel__right_captions_and_probabilities_show() -> None:
    plain = draw_caption_panel([_row("사과")], title="t")
    green = draw_caption_panel([_row("사과", right=True)], title="t")
    barred = draw_caption_panel([_row("사과", probability=0.5)], title="t")
    assert not np.array_equal(plain, green)
    assert (barred == np.array([228, 238, 250])).all(axis=-1).sum() > 1000


def test_draw_caption_panel__one_row_per_image() -> None:
    one, three = (draw_caption_panel([_row("사과")] * count, title="t") for count in (1, 3))
    assert three.shape[0] > one.shape[0]
    assert three.shape[1:] == one.shape[1:]


def test_shorten__keeps_beginning_and_end_within_the_width() -> None:
    font = load_font(15)
    assert shorten("사과", font, 100) == "사과"
    text = shorten("man in motorized wheelchair facing right: medium-dark skin tone", font, 300)
    assert font.getlength(text) <= 300
    assert text.startswith("man in")
    assert text.endswith("skin tone")


def test_panel_rows__top_captions_and_probabilities(sets: EvaluationSets) -> None:
    data = sets.retrieval[0]
    image_table, text_table = torch.eye(3)[data.target], torch.eye(3)
    order = {bytes(image.numpy().tobytes()): row for image, row in zip(data.images, image_table, strict=True)}
    names = [*data.captions["ko"], *data.captions["en"]]
    embeddings = Embeddings(
        lambda images: torch.stack([order[bytes(image.numpy().tobytes())] for image in images]),
        lambda texts: torch.stack([text_table[names.index(text) % 3] for text in texts]),
    )
    rows = panel_rows(data, torch.tensor([1, 2]), embeddings, scale=2.0)
    assert rows[0].true_captions == ["강아지 얼굴", "dog face"]
    top = rows[0].ranked["ko"][0]
    assert (top.text, top.right) == ("강아지 얼굴", True)
    assert top.probability == pytest.approx(np.exp(2) / (np.exp(2) + 2))
    assert [caption.right for caption in rows[1].ranked["en"]] == [True, False, False]
    assert sum(caption.probability for caption in rows[1].ranked["en"]) == pytest.approx(1.0)


@pytest.mark.parametrize(("items", "shown", "expected"), [(9, 3, [0, 4, 8]), (2, 8, [0, 1]), (5, 1, [0])])
def test_spread_evenly(items: int, shown: int, expected: list[int]) -> None:
    assert spread_evenly(items, shown).tolist() == expected


def test_caption_panel_callback__writes_one_image_per_period(
    fit: Callable[..., Any], sets: EvaluationSets, tmp_path: Path
) -> None:
    logger = TensorBoardLogger(tmp_path)
    fit([CaptionPanelCallback(sets.retrieval[0], every_n_steps=2, num_images=3)], steps=3, logger=logger)
    events = EventAccumulator(logger.log_dir).Reload()
    assert [image.step for image in events.Images("captions/unseen_design")] == [0, 2, 3]
