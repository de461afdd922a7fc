"""Galleries: which rows, which columns, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from data_modules.benchmarks.evaluation_sets import GalleryConfig, build_image_gallery
from data_modules.errors import DataError

Rows = list[dict[str, Any]]


def test_build_image_gallery__rows_images_and_columns(rows: Rows, write_table: Callable[[Rows, str], str]) -> None:
    config = GalleryConfig(files=[write_table(rows, "a.parquet")], where={"design": ["flat"], "even": ["true"]})
    gallery = build_image_gallery(config, 8, ["number"])
    assert gallery.keys == ["flat/0", "flat/2", "flat/4"]
    assert gallery.columns == {"number": ["0", "2", "4"]}
    assert gallery.images.shape == (3, 3, 8, 8)
    assert gallery.images.dtype == torch.uint8
    assert gallery.images[1, :, 4, 4].tolist() == [14, 255, 99]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": {"design": ["oil"]}}, "satisfies `where`"),
        ({"key": "design"}, "'round' is not unique in the column 'design'"),
        ({"key": "nothing"}, "no column 'nothing'"),
    ],
)
def test_build_image_gallery__what_is_refused(
    options: dict[str, Any], message: str, rows: Rows, write_table: Callable[[Rows, str], str]
) -> None:
    with pytest.raises(DataError, match=message):
        build_image_gallery(GalleryConfig(files=[write_table(rows, "a.parquet")], **options), 8)


@pytest.mark.parametrize("image", [None, {"bytes": b""}, {"bytes": b"no image"}])
def test_build_image_gallery__an_image_that_cannot_be_used_is_named(
    image: object, rows: Rows, write_table: Callable[[Rows, str], str]
) -> None:
    rows[3]["image"] = image
    with pytest.raises(DataError, match=r"a\.parquet: image 'flat/1'"):
        build_image_gallery(GalleryConfig(files=[write_table(rows, "a.parquet")]), 8)


def test_build_image_gallery__a_row_without_its_key(rows: Rows, write_table: Callable[[Rows, str], str]) -> None:
    rows[3]["key"] = None
    with pytest.raises(DataError, match=r"a\.parquet: row 3 has nothing in the column 'key'"):
        build_image_gallery(GalleryConfig(files=[write_table(rows, "a.parquet")]), 8)
