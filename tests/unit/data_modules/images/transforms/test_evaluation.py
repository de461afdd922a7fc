"""The evaluation transform against Pillow and against torchvision's Resize and CenterCrop."""

import io
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from data_modules.images.transforms.evaluation import centre_square, evaluation_image


def encode(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(("width", "height"), [(64, 48), (48, 64), (50, 50), (100, 32), (20, 30), (33, 70), (32, 32)])
def test_evaluation_image__equals_resize_and_centre_crop(width: int, height: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    reference = Compose([Resize(32, InterpolationMode.BICUBIC), CenterCrop(32)])(Image.fromarray(pixels))
    image = evaluation_image(encode(pixels), 32)
    assert (image.shape, image.dtype) == ((3, 32, 32), np.uint8)
    assert np.array_equal(image, np.asarray(reference).transpose(2, 0, 1))


def test_evaluation_image__transparent_parts_are_white() -> None:
    assert (evaluation_image(encode(np.zeros((9, 9, 4), dtype=np.uint8)), 4) == 255).all()


@pytest.mark.parametrize("size", [(300, 30), (30, 300), (401, 33), (17, 1000), (5, 64), (2, 900), (900, 3), (1, 50)])
def test_centre_square__a_long_picture_is_cut_first_with_the_pixels_of_the_whole_resized(size: tuple[int, int]) -> None:
    # Values in the middle of the range are not clipped between the filter's two passes, whose order depends on size.
    pixels = np.random.default_rng(sum(size)).integers(64, 192, (size[1], size[0], 3), dtype=np.uint8)
    picture = Image.fromarray(pixels)
    reference = Compose([Resize(32, InterpolationMode.BICUBIC), CenterCrop(32)])(picture)
    difference = centre_square(picture, 32).astype(int) - np.asarray(reference).transpose(2, 0, 1)
    assert np.abs(difference).max() <= 1, "rounding"


@pytest.mark.parametrize("size", [(2, 20_000), (1_000_000, 1)])
def test_centre_square__a_strip_takes_little_memory(size: tuple[int, int]) -> None:
    script = f"""
        import resource
        import numpy as np
        from PIL import Image
        from data_modules.images.transforms.evaluation import centre_square
        picture = Image.new("RGB", {size}, (10, 20, 30))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        pixels = centre_square(picture, 224)
        assert pixels.shape == (3, 224, 224) and (pixels == np.array([10, 20, 30])[:, None, None]).all()
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) < 20_000, "kilobytes more than the picture itself"
