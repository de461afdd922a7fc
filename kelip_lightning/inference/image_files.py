"""From the bytes of an image file to a model's input; picklable, for the workers of a `DataLoader`."""

from collections.abc import Callable
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from data_modules.faults import sample_errors
from data_modules.images.decoding import decode_image


@dataclass(frozen=True, slots=True)
class PillowTransform:
    """Another library's transform, of the image decoded as everywhere here: upright RGB on white.

    Deviation: open_clip and transformers show the hidden colours of transparent pixels, do not rotate by EXIF, and clip
    16-bit grey at 255.
    """

    transform: Callable[[Image.Image], Tensor]
    """An RGB image -> float32 (3, H, W); picklable."""

    def __call__(self, data: bytes) -> Tensor:
        """float32 (3, H, W).

        Raises:
            SampleFault: The bytes cannot be decoded, or the transform fails on the image.
        """
        image = decode_image(data)
        with sample_errors():
            return self.transform(image)
