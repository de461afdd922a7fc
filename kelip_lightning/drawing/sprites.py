"""Sprite sheets of TensorBoard's embedding projector: square tiles in a square grid."""

import math
from collections.abc import Iterable

import numpy as np
from PIL import Image, ImageDraw

from kelip_lightning.drawing.fonts import load_font

_WHITE = (255, 255, 255)


def letter_tile(letter: str, colour: tuple[int, int, int], side: int) -> np.ndarray:
    """A white letter on a coloured square, uint8 (side, side, 3)."""
    tile = Image.new("RGB", (side, side), colour)
    font = load_font(round(side * 0.7))
    left, top, right, bottom = font.getbbox(letter)
    place = ((side - left - right) / 2, (side - top - bottom) / 2)
    ImageDraw.Draw(tile).text(place, letter, fill=_WHITE, font=font)
    return np.asarray(tile)


def sprite_sheet(tiles: Iterable[np.ndarray], number: int, side: int) -> Image.Image:
    """The tiles row by row in a square grid of the fewest columns; free places at the end are white.

    Args:
        tiles: uint8 (side, side, 3) each.
        number: Of the tiles, at least 1.
        side: Pixels.
    """
    columns = math.isqrt(number - 1) + 1
    sheet = Image.new("RGB", (columns * side, columns * side), _WHITE)
    for place, tile in enumerate(tiles):
        sheet.paste(Image.fromarray(tile), (place % columns * side, place // columns * side))
    return sheet
