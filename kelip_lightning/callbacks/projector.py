"""Files of TensorBoard's embedding projector: images and captions of one set in the joint embedding space.

    <stage>/projector_config.pbtxt             read by TensorBoard
    <stage>/projector/<set>/tensors.tsv        a point a row: images, then the captions of each language
    <stage>/projector/<set>/metadata.tsv       captions, kind (image, ko, en) and key of each point
    <stage>/projector/<set>/sprite.png         a tile per point: the image, or a letter for a caption

Written here, as `SummaryWriter.add_embedding` holds a sheet several times in float64 and every number in 20 characters.
"""

import io
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.plugins.projector.projector_config_pb2 import ProjectorConfig as ProjectorFile

from data_modules.benchmarks.image_stream import EvaluationTransform, SelectedImages, image_batches
from kelip_lightning.distributed.sharing import blocks_of
from kelip_lightning.drawing.sprites import letter_tile, sprite_sheet
from kelip_lightning.evaluation.suite import Evaluation
from kelip_lightning.evaluation.tasks import SetEmbeddings, first_positives

_log = logging.getLogger(__name__)

TILE = 40
"""Side of a tile, pixels."""
_IMAGE = "image"
_TILES = {"ko": ("가", (0, 92, 175)), "en": ("A", (200, 80, 0))}
"""Kind of a caption -> letter and colour of its tile."""
_BATCH = 64


class Point(NamedTuple):
    """One row of the metadata."""

    captions: dict[str, str]
    """Language -> caption: of the image, or of the first image with this caption."""
    kind: str
    """image, or the language of a caption."""
    key: str
    """Of the image, or of the first image with the caption."""


class ProjectorWriter:
    """Writes the projector's files when an evaluation has kept embeddings; for `IntervalEvaluation.on_evaluation`.

    Args:
        num_workers: Loader processes that decode the images of the tiles.
    """

    def __init__(self, num_workers: int = 0) -> None:
        self._num_workers = num_workers

    def __call__(self, trainer: pl.Trainer, step: int, evaluation: Evaluation) -> None:
        """Write to the folder of every TensorBoard logger; nothing without embeddings."""
        if (found := evaluation.embeddings) is None:
            return
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                try:
                    write_projector(Path(logger.log_dir), found, step, self._num_workers)
                except OSError as error:  # no reason to lose the trained model, which is exported next
                    _log.warning("the files of the embedding projector could not be written: %s", error)


def write_projector(folder: Path, found: SetEmbeddings, step: int, num_workers: int = 0) -> None:
    """Write the files of one set below `folder`, the configuration last; earlier files of the set are replaced.

    Raises:
        DataError: An image cannot be decoded.
    """
    below = Path("projector") / found.data.name
    (folder / below).mkdir(parents=True, exist_ok=True)
    points = points_of(found)
    tiles = [*_thumbnails(found, num_workers), *(_caption_tile(one.kind) for one in points if one.kind != _IMAGE)]
    sheet = io.BytesIO()
    sprite_sheet(tiles, len(tiles), TILE).save(sheet, format="PNG")
    (folder / below / "sprite.png").write_bytes(sheet.getvalue())
    (folder / below / "metadata.tsv").write_text(_metadata(points, list(found.texts)), encoding="utf-8")
    with (folder / below / "tensors.tsv").open("w", encoding="ascii") as file:
        for row in torch.cat([found.image_rows, *found.text_rows.values()]).tolist():
            file.write("\t".join(f"{value:.4f}" for value in row) + "\n")
    config = ProjectorFile()
    embedding = config.embeddings.add()
    embedding.tensor_name = f"{found.data.name}, step {step}"
    embedding.tensor_path = str(below / "tensors.tsv")
    embedding.metadata_path = str(below / "metadata.tsv")
    embedding.sprite.image_path = str(below / "sprite.png")
    embedding.sprite.single_image_dim.extend([TILE, TILE])
    (folder / "projector_config.pbtxt").write_text(str(config), encoding="utf-8")


def points_of(found: SetEmbeddings) -> list[Point]:
    """The points in the order of the rows: images, then the captions of each language."""
    data, chosen = found.data, found.images.tolist()
    keys = dict(zip(chosen, data.images.table.keys(data.images.rows[found.images.numpy()]), strict=True))
    first = {language: first_positives(pairs)[found.images].tolist() for language, pairs in data.positives.items()}
    owners: dict[str, dict[int, int]] = {language: {} for language in found.texts}
    points = []
    for place, image in enumerate(chosen):
        for language, captions in first.items():
            owners[language].setdefault(captions[place], place)
        captions_of = {language: data.captions[language][captions[place]] for language, captions in first.items()}
        points.append(Point(captions_of, _IMAGE, keys[image]))
    for language, texts in found.texts.items():
        for text in texts.tolist():
            points.append(points[owners[language][text]]._replace(kind=language))
    return points


def _metadata(points: list[Point], languages: list[str]) -> str:
    """Tab-separated with a header; TensorBoard labels points by the first column."""
    lines = [[*languages, "kind", "key"]]
    lines += [[*(one.captions[language] for language in languages), one.kind, one.key] for one in points]
    return "".join("\t".join(" ".join(cell.split()) for cell in line) + "\n" for line in lines)


def _thumbnails(found: SetEmbeddings, num_workers: int) -> Iterator[np.ndarray]:
    images = found.data.images
    chosen = SelectedImages(images.table, images.rows[found.images.numpy()])
    batches = image_batches(
        chosen,
        EvaluationTransform(TILE),
        blocks_of(len(chosen), _BATCH),
        num_workers=num_workers,
        owner=f"evaluation set {found.data.name}",
    )
    for _, pixels in batches:
        yield from pixels.permute(0, 2, 3, 1).contiguous().numpy()


def _caption_tile(language: str) -> np.ndarray:
    return letter_tile(*_TILES[language], TILE)
