"""The layout `image_folder`: a folder of images per class, as torchvision's `ImageFolder` reads it."""

import os
from collections.abc import Iterator
from pathlib import Path

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.listed import ImageFiles, ListedSamples
from data_modules.benchmarks.layouts.settings import identity_of, key_column, only_folder
from data_modules.errors import DataError
from data_modules.image_files import IMAGE_ENDINGS
from data_modules.sources.tables import check_columns

CLASS, PATH = "class", "path"


def open_image_folder(config: TableConfig, context: str, data_folder: str | None, needed: list[str]) -> ListedSamples:
    """The images below each class folder, sorted by class and path: columns `class` and `path`.

    Raises:
        DataError: There is no image, one in no class folder, or a class folder without images.
    """
    folder = only_folder(config, Layout.image_folder, data_folder)
    paths = class_images(folder)
    values = {CLASS: [path.partition("/")[0] for path in paths], PATH: list(paths)}
    check_columns(folder, values, needed)
    return ListedSamples(
        identity=identity_of(Layout.image_folder, [folder]),
        context=context,
        values=values,
        names=paths,
        images=ImageFiles(folder, [(path,) for path in paths]),
        key=key_column(config, values),
    )


def class_images(folder: Path) -> list[str]:
    """Paths of the images, relative to the folder, the first part being the class.

    Raises:
        DataError: As `open_image_folder`.
    """
    entries = sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    if loose := [name for name in entries if is_image(name) and not (folder / name).is_dir()]:
        raise DataError(f"{folder / loose[0]} is in no class folder; move it into the folder of its class")
    paths = []
    for name in entries:
        if (folder / name).is_dir():
            found = sorted(_images_below(folder / name))
            if not found:
                raise DataError(
                    f"the class folder {folder / name} holds no image ({', '.join(sorted(IMAGE_ENDINGS))}); fill or "
                    "remove it"
                )
            paths += [f"{name}/{path}" for path in found]
    if not paths:
        raise DataError(f"{folder} holds no folder of images; name the folder with a folder per class in files")
    return paths


def _images_below(folder: Path) -> Iterator[str]:
    for parent, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if is_image(name):
                yield (Path(parent) / name).relative_to(folder).as_posix()


def is_image(name: str) -> bool:
    """Whether a file's ending is that of an image."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower().lstrip(".") in IMAGE_ENDINGS
