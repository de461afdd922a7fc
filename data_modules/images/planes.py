"""Images as undecoded planes: brightness of every pixel, and colour of every block of 2 x 2 pixels, 1.5 bytes a pixel.

Reading them is arithmetic, for those who have the disk; `kelip data pack --pixels yuv420` writes such files. A file
holds `MAGIC`, width and height as little-endian uint32, and six planes of uint8 with a value per block, row by row: Y
of the four pixels (top left, top right, bottom left, bottom right), Cb and Cr. The last row or column of an odd side is
repeated. In this layout no value has to be duplicated, and two go to memory at once.

Reference: ITU-T T.871 (JFIF), sec. 7: YCbCr of BT.601 in 0..255.
"""

import struct

import numpy as np
from numpy.typing import NDArray
from PIL import Image

MAGIC = b"KELIPYUV"
_HEADER = struct.Struct("<8sII")
_NUM_PLANES = 6
_BITS = 7
"""Bits behind the point of the factors below; their products have 16 bits."""
_RED_OF_CR, _BLUE_OF_CB = round(1.402 * 2**_BITS), round(1.772 * 2**_BITS)
_GREEN_OF_CB, _GREEN_OF_CR = round(0.344136 * 2**_BITS), round(0.714136 * 2**_BITS)
_BLACK, _FULL = np.int16(0), np.int16(255)


def planes_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a file of planes; `None`: it is none.

    Raises:
        ValueError: The file does not hold the planes that its header describes.
    """
    if not data.startswith(MAGIC):
        return None
    if len(data) < _HEADER.size:
        raise ValueError(f"the header of planes has {_HEADER.size} bytes, and the file {len(data)}")
    _, width, height = _HEADER.unpack_from(data)
    if not width or not height or len(data) != file_size(width, height):
        expected = file_size(width, height)
        raise ValueError(f"planes of {width} x {height} pixels take {expected} bytes, and the file has {len(data)}")
    return width, height


def file_size(width: int, height: int) -> int:
    """Bytes of the file of an image."""
    return _HEADER.size + _NUM_PLANES * (-(-width // 2)) * (-(-height // 2))


def encode_planes(image: Image.Image) -> bytes:
    """The file of an image in mode YCbCr; the colour of a block is the rounded mean of its pixels.

    Raises:
        ValueError: It has another mode.
    """
    if image.mode != "YCbCr":
        raise ValueError(f"planes are encoded from an image in mode YCbCr, not {image.mode}")
    width, height = image.size
    pixels = np.pad(np.asarray(image), ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    blocks = pixels.reshape(len(pixels) // 2, 2, -1, 2, 3)
    colours = (blocks[..., 1:].sum(axis=(1, 3), dtype=np.uint16) + 2) // 4
    planes = (blocks[..., 0].transpose(1, 3, 0, 2), colours.astype(np.uint8).transpose(2, 0, 1))
    return _HEADER.pack(MAGIC, width, height) + b"".join(np.ascontiguousarray(one).tobytes() for one in planes)


def decode_planes(data: bytes) -> NDArray[np.uint8]:
    """The RGB pixels of a file of planes that `planes_size` accepts; the pixels of a block share its colour.

    Returns:
        uint8 (H, W, 3), each value within 1 of the exact one for these planes.
    """
    _, width, height = _HEADER.unpack_from(data)
    rows, columns = -(-height // 2), -(-width // 2)
    planes = np.frombuffer(data, np.uint8, offset=_HEADER.size).reshape(_NUM_PLANES, -1).astype(np.int16)
    tints = _tints(planes[4], planes[5])[:, None]
    pairs = np.empty((rows, 2, columns, 3), dtype="<i2")  # red and green, blue and red, green and blue of two pixels
    values = np.empty((3, 2, rows * columns), dtype=np.int16)
    for row in (0, 1):
        np.add(planes[2 * row : 2 * row + 2], tints, out=values)
        red, green, blue = np.clip(values, _BLACK, _FULL, out=values)
        for place, (first, second) in enumerate(((red[0], green[0]), (blue[0], red[1]), (green[1], blue[1]))):
            second <<= 8
            second |= first
            pairs[:, row, :, place] = second.reshape(rows, columns)
    return pairs.view(np.uint8).reshape(2 * rows, 2 * columns, 3)[:height, :width]


def _tints(cb: NDArray[np.int16], cr: NDArray[np.int16]) -> NDArray[np.int16]:
    """What each block adds to the brightness of its pixels for red, green and blue, int16 (3, N) from (N,) each."""
    tints = np.empty((3, len(cb)), dtype=np.int16)
    cb -= 128
    cr -= 128
    np.multiply(cr, _RED_OF_CR, out=tints[0])
    np.multiply(cb, -_GREEN_OF_CB, out=tints[1])
    tints[1] -= cr * _GREEN_OF_CR
    np.multiply(cb, _BLUE_OF_CB, out=tints[2])
    tints += 1 << _BITS - 1
    tints >>= _BITS
    return tints
