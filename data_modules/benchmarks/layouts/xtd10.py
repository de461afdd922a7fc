"""The layout `xtd10`: one caption of each of 1,000 COCO images in several languages, a text file per language.

Reference: Aggarwal and Kale, "Towards Zero-shot Cross-lingual Image Retrieval", arXiv:2012.05107;
https://github.com/adobe-research/Cross-lingual-Test-Dataset-XTD10. That repository has the names of the images and the
Korean captions in `XTD10/`, the English ones in `MIC/`: copy the files into one folder.
"""

from pathlib import Path
from typing import Any

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.listed import ImageFiles, ListedSamples, check_relative
from data_modules.benchmarks.layouts.settings import identity_of, image_folder, key_column, only_folder
from data_modules.errors import DataError
from data_modules.sources.tables import check_columns

NAMES_FILE = "test_image_names.txt"
_START, _END = "test_1kcaptions_", ".txt"
_SUBFOLDERS = ("train2014", "val2014")
"""COCO's folders, which image names repeat: COCO_train2014_000000061844.jpg."""


def open_xtd10(
    config: TableConfig, context: str, data_folder: str | None, needs_images: bool, needed: list[str]
) -> ListedSamples:
    """The images in the order of their names' file, a column per language found.

    Raises:
        DataError: A file is missing, files differ in length, or the folder has none of the images.
    """
    folder, store = xtd10_images(config, data_folder)
    names = image_names(folder)
    files = language_files(folder)
    values: dict[str, list[Any]] = {language: _lines(file) for language, file in files.items()}
    for language, captions in values.items():
        if len(captions) != len(names):
            raise DataError(
                f"{files[language]} has {len(captions)} lines, and {NAMES_FILE} {len(names)}: each line is one image; "
                "restore the files"
            )
    check_columns(folder, values, needed)
    if needs_images:
        store.require_some()
    return ListedSamples(
        identity=identity_of(Layout.xtd10, [folder / NAMES_FILE, *files.values(), store.folder]),
        context=context,
        values=values,
        names=names,
        images=store,
        key=key_column(config, values),
    )


def xtd10_images(config: TableConfig, data_folder: str | None) -> tuple[Path, ImageFiles]:
    """The folder of texts, and where the images are.

    Raises:
        DataError: The folder or the file of names is missing or malformed.
    """
    folder = only_folder(config, Layout.xtd10, data_folder)
    images = image_folder(config, folder, data_folder)
    return folder, ImageFiles(images, [_candidates(name) for name in image_names(folder)])


def image_names(folder: Path) -> list[str]:
    """The name of each line's image.

    Raises:
        DataError: The file is missing, or a line names no image.
    """
    file = folder / NAMES_FILE
    if not file.is_file():
        raise DataError(f"{file} does not exist, and names the image of each line; restore it, or correct files")
    names = [line.strip() for line in _lines(file)]
    for number, name in enumerate(names, start=1):
        check_relative(name, f"{file}: line {number}")
    return names


def language_files(folder: Path) -> dict[str, Path]:
    """Language -> file of captions, sorted by language.

    Raises:
        DataError: There is none.
    """
    found = {file.name[len(_START) : -len(_END)]: file for file in sorted(folder.glob(f"{_START}?*{_END}"))}
    if not found:
        raise DataError(f"{folder} has no {_START}LANGUAGE{_END}; copy the captions beside {NAMES_FILE}")
    return found


def _candidates(name: str) -> tuple[str, ...]:
    return (*(f"{one}/{name}" for one in _SUBFOLDERS if f"_{one}_" in name), name)


def _lines(file: Path) -> list[str]:
    """Lines end at line feeds alone: a caption may hold what `str.splitlines` splits at."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 text ({error}); restore or convert it") from error
    lines = text.replace("\r\n", "\n").split("\n")
    return lines[:-1] if not lines[-1] else lines
