"""Which files are images, and which folders hold them, by their names."""

import os
from collections import deque
from pathlib import Path

IMAGE_ENDINGS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "yuv"})
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Tables that describe the images of their folder."""
_SAVED = ("state.json", "dataset_dict.json")
"""Files of a dataset that `save_to_disk` wrote."""
_DATA_ENDINGS = frozenset({"parquet", "arrow", "csv", "tsv", "json", "jsonl", "tar", "zip", "gz", "txt", "py"})
_MAX_ENTRIES = 2000
"""Files and folders that are looked at, folder by folder, before a folder without an image is taken for none."""


def ending_of(name: str) -> str:
    """What follows the last dot of a file's name, in lower case."""
    return os.path.splitext(name)[1].lower().lstrip(".")


def is_image(path: str) -> bool:
    """Whether a file's ending is that of an image."""
    return ending_of(path) in IMAGE_ENDINGS


def is_image_folder(folder: Path) -> bool:
    """Whether a folder holds images in files, with or without a metadata table, and is no dataset of another format.

    A dataset is known by what `save_to_disk` writes, or by a data file (parquet, CSV, ...) before its first image. A
    folder that cannot be read is none.
    """
    try:
        return _holds_images(folder)
    except OSError:
        return False


def _holds_images(folder: Path) -> bool:
    if not folder.is_dir() or any((folder / name).is_file() for name in _SAVED):
        return False
    if any((folder / name).is_file() for name in METADATA):
        return True
    left, waiting = _MAX_ENTRIES, deque([folder])
    while waiting and left > 0:
        entries = sorted(waiting.popleft().iterdir())[:left]
        left -= len(entries)
        names = [entry for entry in entries if not entry.name.startswith(".")]
        files = [entry.name for entry in names if entry.is_file()]
        if any(ending_of(name) in _DATA_ENDINGS and name not in METADATA for name in files):
            return False
        if any(map(is_image, files)):
            return True
        waiting += [entry for entry in names if entry.is_dir()]
    return False
