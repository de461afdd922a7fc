"""The images of a sample: their sizes, and how many cannot be used."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_modules.faults import SampleFault, sample_errors
from data_modules.images.decoding import decode, open_image
from data_modules.preparation.survey.rows import SampledRows
from data_modules.sources.tables import image_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSizes:
    """Short sides of the images of a sample, in pixels."""

    num_images: int
    """Images that can be used."""
    smallest: int
    median: int
    largest: int
    repairs: Counter[str]
    """Kind of `faults.REPAIRED` -> images."""
    faults: Counter[str]
    """Kind of `faults.SKIPPED` -> images."""


def measure_images(found: SampledRows, image: str, root: Path | None) -> ImageSizes:
    """Decode the images of the sample.

    Args:
        found: The sample.
        image: Its column of images.
        root: Folder that paths are relative to; `None`: that of each row's file.
    """
    sides: list[int] = []
    repairs, faults = Counter[str](), Counter[str]()
    for row, folder in zip(found.rows, found.folders, strict=True):
        applied: list[str] = []
        try:
            with sample_errors():
                content, name = image_bytes(row.get(image), root or folder, allows_absolute=True, allows_leaving=True)
                encoded = open_image(content, name, applied)
                decode(encoded)
        except SampleFault as fault:
            faults[fault.kind] += 1
            continue
        repairs.update(applied)
        sides.append(min(encoded.width, encoded.height))
    smallest, median, largest = _spread(sides)
    return ImageSizes(
        num_images=len(sides), smallest=smallest, median=median, largest=largest, repairs=repairs, faults=faults
    )


def is_usable(cell: object, folder: Path) -> bool:
    """Whether the image of a cell can be read and decoded; paths are relative to `folder`."""
    try:
        with sample_errors():
            content, name = image_bytes(cell, folder, allows_absolute=True, allows_leaving=True)
            decode(open_image(content, name))
    except SampleFault:
        return False
    return True


def _spread(sides: Sequence[int]) -> tuple[int, int, int]:
    if not sides:
        return 0, 0, 0
    return min(sides), int(np.median(sides)), max(sides)
