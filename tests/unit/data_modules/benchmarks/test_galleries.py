"""Image galleries of the analyses: rows, images, columns, unusable settings and images."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from data_modules.benchmarks.config import GalleryConfig
from data_modules.benchmarks.galleries import build_image_gallery
from data_modules.errors import DataError

Rows = list[dict[str, Any]]


@pytest.fixture
def files(write_table: Callable[[Rows, str], str], rows: Rows) -> list[str]:
    return [write_table(rows, "a.parquet")]


def test_build_image_gallery__a_row_without_a_key_is_an_error(
    write_table: Callable[[Rows, str], str], rows: Rows
) -> None:
    rows[4]["key"] = None
    with pytest.raises(DataError, match=r"a\.parquet: row 4 has nothing in the column 'key'"):
        build_image_gallery(GalleryConfig(files=[write_table(rows, "a.parquet")]), 8)


@pytest.mark.parametrize("image", [None, {"bytes": None}, {"bytes": b""}, {"bytes": b"no image"}])
def test_build_image_gallery__an_unusable_image_is_named(
    write_table: Callable[[Rows, str], str], rows: Rows, image: object
) -> None:
    rows[4]["image"] = image
    with pytest.raises(DataError, match=r"a\.parquet: image 'round/2'"):
        build_image_gallery(GalleryConfig(files=[write_table(rows, "a.parquet")]), 8)


def test_build_image_gallery__rows_images_and_columns(files: list[str]) -> None:
    config = GalleryConfig(files=files, where={"design": ["flat"], "even": ["true"]})
    gallery = build_image_gallery(config, 8, ["number"])
    assert gallery.keys == ["flat/0", "flat/2", "flat/4"]
    assert gallery.columns == {"number": ["0", "2", "4"]}
    assert (gallery.images.shape, gallery.images.dtype) == ((3, 3, 8, 8), torch.uint8)
    assert gallery.images[1, :, 4, 4].tolist() == [14, 255, 99]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": {"design": ["oil"]}}, "satisfies `where`"),
        ({"key": "design"}, "'round' is not unique in the column 'design'"),
        ({"key": "nothing"}, "no column 'nothing'"),
    ],
)
def test_build_image_gallery__unusable(files: list[str], options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_image_gallery(GalleryConfig(files=files, **options), 8)
