"""A model whose embeddings a test can compute: the mean colour of an image, the letters of a text."""

import io
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from data_modules.faults import SampleFault
from kelip_lightning.evaluation.encoders import Encoders

WIDTH = 6
MATRIX = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)


def png(colour: tuple[int, int, int]) -> bytes:
    """An image file of one colour."""
    stream = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(stream, "PNG")
    return stream.getvalue()


def preprocess(data: bytes) -> Tensor:
    """The pixels, uint8 (3, 4, 4); SampleFault if the bytes are no image."""
    try:
        image = Image.open(io.BytesIO(data)).convert("RGB").resize((4, 4))
    except OSError as error:
        raise SampleFault("image_undecodable", "no image") from error
    return torch.from_numpy(np.array(image).transpose(2, 0, 1).copy())


def expected_row(colour: tuple[int, int, int], sign: float = 1.0) -> NDArray[np.float64]:
    """The unit-length embedding of an image of one colour."""
    row = sign * (np.array(colour, float) + 1) @ MATRIX.astype(float)
    unit: NDArray[np.float64] = row / np.linalg.norm(row)
    return unit


def letters(text: str) -> NDArray[np.float64]:
    """The unit-length embedding of a text: how often each letter class occurs."""
    counts = np.bincount([ord(character) % WIDTH for character in text], minlength=WIDTH) + 0.1
    unit: NDArray[np.float64] = counts / np.linalg.norm(counts)
    return unit


def stand_in(sign: float = 1.0, on_images: Callable[[int], None] | None = None) -> Encoders:
    """The model; `sign` -1 is another one; `on_images` is called with the size of every batch of images but probes."""
    matrix = torch.from_numpy(MATRIX) * sign

    def encode_images(pixels: Tensor) -> Tensor:
        is_probe = len(pixels) == 1 and len(pixels.unique()) > 3  # the images of tests have one colour
        if on_images is not None and not is_probe:
            on_images(len(pixels))
        return (pixels.float().mean(dim=(2, 3)) + 1) @ matrix

    def encode_texts(texts: list[str]) -> Tensor:
        return torch.from_numpy(np.stack([letters(text) for text in texts])).float() * sign

    return Encoders(
        name="stand-in",
        preprocess=preprocess,
        encode_images=encode_images,
        encode_texts=encode_texts,
        logit_scale=10.0,
        device=torch.device("cpu"),
    )
