"""The layout `karpathy`: images and captions in the JSON of Karpathy's splits of COCO, Flickr30k and Flickr8k.

Reference: Karpathy and Fei-Fei, "Deep Visual-Semantic Alignments for Generating Image Descriptions", CVPR 2015;
https://cs.stanford.edu/people/karpathy/deepimagesent/.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.listed import ImageFiles, ListedSamples, check_relative
from data_modules.benchmarks.layouts.settings import identity_of, image_folder, key_column, only_file
from data_modules.errors import DataError
from data_modules.paths import in_folder, resolve_path
from data_modules.sources.tables import check_columns

CAPTIONS, SPLIT, FILE_NAME = "captions", "split", "file_name"
_NUMBERS = ("imgid", "cocoid")
"""Optional columns."""


def open_karpathy(
    config: TableConfig, context: str, data_folder: str | None, needs_images: bool, needed: list[str]
) -> ListedSamples:
    """All images of the JSON in its order: columns `captions`, `split`, `file_name`, and `imgid`, `cocoid` if given.

    Raises:
        DataError: The JSON is malformed, an image is listed twice, or the folder has none of the images.
    """
    file = _file(config, data_folder)
    images = _read(file)
    names = [one["filename"] for one in images]
    values: dict[str, list[Any]] = {
        CAPTIONS: [[sentence["raw"] for sentence in one["sentences"]] for one in images],
        SPLIT: [one["split"] for one in images],
        FILE_NAME: list(names),
    }
    values |= {name: [one[name] for one in images] for name in _NUMBERS if all(name in one for one in images)}
    check_columns(file, values, needed)
    folder = image_folder(config, file.parent, data_folder)
    store = ImageFiles(folder, [_candidates(one) for one in images])
    if needs_images:
        store.require_some()
    return ListedSamples(
        identity=identity_of(Layout.karpathy, [file, folder]),
        context=context,
        values=values,
        names=names,
        images=store,
        key=key_column(config, values),
    )


def karpathy_images(config: TableConfig, data_folder: str | None) -> tuple[Path, ImageFiles]:
    """The JSON file, and where its images are.

    Raises:
        DataError: The JSON is missing or malformed.
    """
    file = _file(config, data_folder)
    folder = image_folder(config, file.parent, data_folder)
    return file, ImageFiles(folder, [_candidates(one) for one in _read(file)])


def _file(config: TableConfig, data_folder: str | None) -> Path:
    file = resolve_path(in_folder(only_file(config, "one JSON file"), data_folder))
    if not file.is_file():
        problem = "is a folder" if file.is_dir() else "does not exist"
        raise DataError(f"{file} {problem}, and the layout karpathy reads a JSON file; correct files or layout")
    return file


def _candidates(image: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the image may be, below the folder of images."""
    name, subfolder = image["filename"], image.get("filepath")
    return (f"{subfolder}/{name}", name) if subfolder else (name,)


def _read(file: Path) -> list[dict[str, Any]]:
    try:
        loaded = json.loads(file.read_bytes())
        images = loaded["images"]
        if not isinstance(images, list) or not images:
            raise TypeError("`images` is no list, or empty")
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(
            f"{file} is no JSON of Karpathy's splits, an object with a list `images` ({error!r}); correct files "
            "or layout"
        ) from error
    for number, image in enumerate(images):
        _check_image(image, f"{file}: image {number}")
    return list(images)


def _check_image(image: Any, place: str) -> None:
    """Checks one entry, which may be any JSON value."""
    try:
        _require_text(image["filename"], "filename")
        _require_text(image["split"], "split")
        if not isinstance(image["sentences"], list):
            raise TypeError("`sentences` is no list")
        for sentence in image["sentences"]:
            _require_text(sentence["raw"], "raw")
        if image.get("filepath") is not None:
            _require_text(image["filepath"], "filepath")
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{place} needs the texts `filename` and `split`, and `sentences`, a list of objects with `raw` "
            f"({error!r}); correct it"
        ) from error
    for candidate in _candidates(image):
        check_relative(candidate, place)


def _require_text(value: object, name: str) -> None:
    if not isinstance(value, str):
        raise TypeError(f"`{name}` is {type(value).__name__}")
