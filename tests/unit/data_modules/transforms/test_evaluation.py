"""The evaluation transform against Pillow and against torchvision's Resize and CenterCrop."""

import io

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from data_modules.transforms.evaluation import evaluation_image


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (50, 50), (100, 32), (20, 30), (33, 70)])
def test_evaluation_image__equals_resize_and_centre_crop(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    reference = Compose([Resize(32, InterpolationMode.BICUBIC), CenterCrop(32)])(Image.fromarray(pixels))
    image = evaluation_image(_png(pixels), 32)
    assert (image.shape, image.dtype) == ((3, 32, 32), np.uint8)
    assert np.array_equal(image, np.asarray(reference).transpose(2, 0, 1))


def test_evaluation_image__takes_the_centre_of_a_wide_picture() -> None:
    pixels = np.zeros((10, 30, 3), dtype=np.uint8)
    pixels[:, 10:20] = (10, 20, 30)
    image = evaluation_image(_png(pixels), 10)
    assert np.array_equal(image, np.broadcast_to(np.array([10, 20, 30])[:, None, None], (3, 10, 10)))


def test_evaluation_image__square_picture_of_the_right_size_is_untouched() -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    assert np.array_equal(evaluation_image(_png(pixels), 16), pixels.transpose(2, 0, 1))


def test_evaluation_image__transparent_parts_are_white() -> None:
    assert (evaluation_image(_png(np.zeros((9, 9, 4), dtype=np.uint8)), 4) == 255).all()
