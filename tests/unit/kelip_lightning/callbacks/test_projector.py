"""The files of TensorBoard's projector: points, captions in both languages, tiles, embeddings of the evaluation."""

import csv
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from google.protobuf import text_format
from lightning.pytorch.loggers import TensorBoardLogger
from PIL import Image
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig

from data_modules.benchmarks.config import EvaluationConfig
from data_modules.benchmarks.evaluation_sets import EvaluationSets
from data_modules.images.transforms.evaluation import evaluation_image
from kelip_lightning.callbacks.evaluation import EvaluationCallback, module_encoders
from kelip_lightning.callbacks.projector import TILE, ProjectorWriter
from kelip_lightning.evaluation.suite import Projected

Fit = Callable[..., Any]


def _callback(sets: EvaluationSets, max_images: int = 5, name: str = "unseen_design") -> EvaluationCallback:
    return EvaluationCallback(
        sets,
        EvaluationConfig(every_n_steps=2),
        on_evaluation=[ProjectorWriter()],
        projected=Projected(set_name=name, max_images=max_images),
    )


def _written(folder: Path) -> tuple[list[dict[str, str]], np.ndarray, Image.Image]:
    """Metadata, embeddings and sheet that TensorBoard finds by the configuration."""
    config = text_format.Parse((folder / "projector_config.pbtxt").read_text(encoding="utf-8"), ProjectorConfig())
    (one,) = config.embeddings
    assert list(one.sprite.single_image_dim) == [TILE, TILE]
    text = (folder / one.metadata_path).read_text(encoding="utf-8")
    rows = list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    return rows, np.loadtxt(folder / one.tensor_path, delimiter="\t"), Image.open(folder / one.sprite.image_path)


def test_projector__images_and_both_languages(fit: Fit, sets: EvaluationSets, tmp_path: Path) -> None:
    trainer, module = fit([_callback(sets)], steps=4, logger=TensorBoardLogger(tmp_path, name="", version=""))
    rows, points, sheet = _written(tmp_path)
    captions = {"사과": "apple", "강아지 얼굴": "dog face", "도시락": "bento box"}
    assert list(rows[0]) == ["ko", "en", "kind", "key"]
    assert [one["kind"] for one in rows] == ["image"] * 5 + ["ko"] * 3 + ["en"] * 3
    assert [(one["ko"], one["en"]) for one in rows] == [
        *((ko, captions[ko]) for ko in ("사과", "강아지 얼굴", "도시락", "사과", "강아지 얼굴")),
        *captions.items(),
        *captions.items(),
    ]
    assert [one["key"] for one in rows[:5]] == [f"picture {n}" for n in range(5)]

    module.eval()
    encoders, table = module_encoders(trainer, module), sets.retrieval[0].images.table
    with torch.no_grad():
        images = encoders.encode_images(torch.stack([encoders.preprocess(table.image(n)) for n in range(5)]))
        texts = [encoders.encode_texts(list(each)) for each in (captions, captions.values())]
        expected = torch.nn.functional.normalize(torch.cat([images, *texts]).float(), dim=1)
    np.testing.assert_allclose(points, expected.numpy(), atol=1e-4)

    assert sheet.size == (4 * TILE, 4 * TILE)  # 11 tiles in a square
    tiles = [np.asarray(sheet.crop((n % 4 * TILE, n // 4 * TILE, (n % 4 + 1) * TILE, (n // 4 + 1) * TILE)))
             for n in range(16)]  # fmt: skip
    for number in range(5):
        expected_tile = evaluation_image(table.image(number), TILE).transpose(1, 2, 0)
        assert np.array_equal(tiles[number], expected_tile)
    korean, english = tiles[5], tiles[8]
    assert all(np.array_equal(tile, korean) for tile in tiles[5:8])
    assert all(np.array_equal(tile, english) for tile in tiles[8:11])
    assert tuple(korean[0, 0]) != tuple(english[0, 0])
    assert all((tile == 255).all() for tile in tiles[11:])
    for letter in (korean, english):
        assert 0.02 < (letter == 255).all(axis=2).mean() < 0.5, "no letter is drawn"


def test_projector__at_most_so_many_images(fit: Fit, sets: EvaluationSets, tmp_path: Path) -> None:
    """The first and the last of five pictures, of the first and the second concept."""
    fit([_callback(sets, max_images=2)], steps=2, logger=TensorBoardLogger(tmp_path, name="", version=""))
    rows, points, _ = _written(tmp_path)
    assert [(one["kind"], one["key"]) for one in rows] == [
        (kind, key) for kind in ("image", "ko", "en") for key in ("picture 0", "picture 4")
    ]
    assert len(points) == 6


def test_projector__only_after_the_last_step_and_without_a_second_embedding(
    fit: Fit, sets: EvaluationSets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr(
        "kelip_lightning.callbacks.projector.write_projector", lambda *arguments: written.append(arguments[2])
    )
    embedded: list[int] = []

    def count(_: Any, inputs: tuple[torch.Tensor], __: Any) -> None:
        if not torch.is_grad_enabled():
            embedded.append(len(inputs[0]))

    class Counting(EvaluationCallback):
        def evaluate(self, due: Any, trainer: Any, pl_module: Any) -> Any:
            hook = pl_module.model.image_layer.register_forward_hook(count)
            try:
                return super().evaluate(due, trainer, pl_module)
            finally:
                hook.remove()

    projected = Projected(set_name="unseen_design", max_images=5)
    callback = Counting(sets, EvaluationConfig(every_n_steps=2), on_evaluation=[ProjectorWriter()], projected=projected)
    fit([callback], steps=5, logger=TensorBoardLogger(tmp_path))
    assert [step for step, _ in callback.history] == [0, 2, 4, 5]
    assert written == [5]
    assert sum(embedded) == 4 * 5


def test_projector__a_full_disk_does_not_lose_the_run(
    fit: Fit, sets: EvaluationSets, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kelip_lightning.callbacks.projector.write_projector", full)
    callback = _callback(sets)
    fit([callback], steps=2, logger=TensorBoardLogger(tmp_path))
    assert callback.newest() is not None
    assert "the files of the embedding projector could not be written: [Errno 28] No space left" in caplog.text
