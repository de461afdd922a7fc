"""Scaling by hand; whole files are in `test_decoding.py`."""

import numpy as np
import pytest
from PIL import Image

from data_modules.deep_grey import is_deep_grey, to_eight_bits
from data_modules.faults import SampleFault


@pytest.mark.parametrize(
    ("mode", "deep"),
    [("I", True), ("I;16", True), ("I;16B", True), ("F", True), ("L", False), ("1", False), ("RGB", False)],
)
def test_is_deep_grey(mode: str, deep: bool) -> None:
    assert is_deep_grey(mode) == deep


def test_to_eight_bits__sixteen_bits_keep_black_grey_and_white() -> None:
    picture = Image.fromarray(np.array([[0, 128, 129, 257 * 100, 65_535]], dtype=np.uint16))
    scaled = to_eight_bits(picture)
    assert scaled.mode == "L"
    assert np.asarray(scaled).tolist() == [[0, 0, 1, 100, 255]]


def test_to_eight_bits__picture_in_memory_without_a_range() -> None:
    with pytest.raises(SampleFault, match="mode I with values from 0 to 9 without a stated range"):
        to_eight_bits(Image.fromarray(np.arange(10, dtype=np.int32).reshape(2, 5)))
