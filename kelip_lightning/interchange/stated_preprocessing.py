"""Whether the preprocessing that a folder of another library states is the one of this package."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kelip_lightning.errors import EncoderFileError
from kelip_lightning.interchange.folder import PREPROCESSING, preprocessing
from kelip_lightning.interchange.formats.architecture import read_json
from kelip_lightning.interchange.formats.open_clip import CONFIG as OPEN_CLIP_CONFIG
from kelip_lightning.models.preprocessing import CLIP_MEAN, CLIP_STD

_PROCESSOR = "processor_config.json"
_MEANS, _DEVIATIONS = ("mean", "image_mean"), ("std", "image_std")
_NOT_COMPARED = ("image_processor_type", "do_convert_rgb")
_OPEN_CLIP: Mapping[str, Any] = {
    "mean": CLIP_MEAN,
    "std": CLIP_STD,
    "interpolation": "bicubic",
    "resize_mode": "shortest",
}


Statistics = tuple[float, float, float]
"""A value per channel."""


def stated_differences(folder: Path, image_size: int, *, with_statistics: bool = True) -> list[str]:
    """`key is VALUE there, VALUE here` for every stated value that differs; missing keys and files do not count.

    Args:
        folder: With the files of open_clip, else those of transformers, or of neither.
        image_size: Side of the model's images, pixels.
        with_statistics: Whether mean and standard deviation are compared too.

    Raises:
        EncoderFileError: A file is damaged.
    """
    stated, here = _stated(folder), dict(_OPEN_CLIP)
    if not (folder / OPEN_CLIP_CONFIG).is_file():
        here = {key: value for key, value in preprocessing(image_size).items() if key not in _NOT_COMPARED}
        stated = _with_sides(stated)
    if not with_statistics:
        here = {key: value for key, value in here.items() if key not in (*_MEANS, *_DEVIATIONS)}
    return list(_compare(stated, here))


def stated_statistics(folder: Path) -> tuple[Statistics, Statistics]:
    """Mean and standard deviation of each channel that a folder states; CLIP's where it states none.

    Raises:
        EncoderFileError: A file is damaged, or a value is not three numbers.
    """
    stated = _stated(folder)
    return _channels(folder, stated, _MEANS, CLIP_MEAN), _channels(folder, stated, _DEVIATIONS, CLIP_STD)


def _channels(folder: Path, stated: Mapping[str, Any], keys: tuple[str, ...], usual: Statistics) -> Statistics:
    key = next((key for key in keys if stated.get(key) is not None), None)
    value = usual if key is None else stated[key]
    if not isinstance(value, list | tuple) or len(value) != 3 or not all(isinstance(one, int | float) for one in value):
        raise EncoderFileError(f"{folder} states {key} = {value}, which must be three numbers")
    return tuple(map(float, value))  # type: ignore[return-value]


def _stated(folder: Path) -> dict[str, Any]:
    """The preprocessing of the first file that there is; empty without one."""
    if (folder / OPEN_CLIP_CONFIG).is_file():
        return _mapping(read_json(folder / OPEN_CLIP_CONFIG).get("preprocess_cfg"))
    if (folder / PREPROCESSING).is_file():
        return read_json(folder / PREPROCESSING)
    if (folder / _PROCESSOR).is_file():
        return _mapping(read_json(folder / _PROCESSOR).get("image_processor"))
    return {}


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _with_sides(stated: dict[str, Any]) -> dict[str, Any]:
    """Older files give one number for a size."""
    size, crop = stated.get("size"), stated.get("crop_size")
    stated = stated | ({"size": {"shortest_edge": size}} if isinstance(size, int) else {})
    return stated | ({"crop_size": {"height": crop, "width": crop}} if isinstance(crop, int) else {})


def _compare(stated: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for key, value in here.items():
        other = stated.get(key)
        if other is not None and not _equal(other, value):
            yield f"{key} is {other} there, {list(value) if isinstance(value, tuple) else value} here"


def _equal(one: Any, other: Any) -> bool:
    if isinstance(other, list | tuple):
        return isinstance(one, list | tuple) and len(one) == len(other) and np.allclose(one, other, rtol=0, atol=1e-6)
    if isinstance(other, float):
        return isinstance(one, int | float) and abs(one - other) < 1e-6
    return bool(one == other)
