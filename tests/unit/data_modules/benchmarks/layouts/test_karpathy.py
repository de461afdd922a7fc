"""Malformed JSON of Karpathy's splits, images listed twice, and folders without the images."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.opening import open_samples
from data_modules.errors import DataError

IMAGE: dict[str, Any] = {"filename": "1.jpg", "split": "test", "sentences": [{"raw": "a cat"}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([IMAGE], r"no JSON of Karpathy's splits, an object with a list `images`.*; correct files or layout"),
        ({"annotations": []}, "an object with a list `images`"),
        ({"images": []}, "`images` is no list, or empty"),
        ({"images": [3]}, "image 0 needs the texts `filename` and `split`"),
        ({"images": [IMAGE, IMAGE | {"filename": 3}]}, "image 1 needs the texts .*`filename` is int"),
        ({"images": [{"filename": "1.jpg", "sentences": []}]}, "image 0 needs the texts .*split"),
        ({"images": [IMAGE | {"sentences": "a cat"}]}, "`sentences` is no list"),
        ({"images": [IMAGE | {"sentences": [{"tokens": []}]}]}, "a list of objects with `raw`.*raw"),
        ({"images": [IMAGE | {"sentences": [{"raw": None}]}]}, "`raw` is NoneType"),
        ({"images": [IMAGE | {"filename": "../1.jpg"}]}, "image 0 names the image '../1.jpg', .*leaves its folder"),
        ({"images": [IMAGE, IMAGE | {"filename": "2.jpg"}, IMAGE]}, "image '1.jpg' is listed twice, in rows 0 and 2"),
        ({"images": [IMAGE | {"filename": "9.jpg"}]}, r"has none of the 1 images, for example 9\.jpg; correct image_f"),
    ],
)
def test_open_karpathy__unusable_files(content: object, message: str, tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    (tmp_path / "1.jpg").write_bytes(b"x")
    config = TableConfig(files=[str(tmp_path / "dataset.json")], layout=Layout.karpathy)
    with pytest.raises(DataError, match=f"^evaluation.x: .*{message}"):
        open_samples(config, "evaluation.x")


def test_open_karpathy__image_folder_is_checked_where_images_are_needed(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(json.dumps({"images": [IMAGE]}))
    config = TableConfig(files=["dataset.json"], layout=Layout.karpathy, image_folder="nowhere")
    with pytest.raises(DataError, match=r"image_folder .*/nowhere does not exist"):
        open_samples(config, "evaluation.x", data_folder=str(tmp_path))
    assert len(open_samples(config, "evaluation.x", data_folder=str(tmp_path), needs_images=False)) == 1
