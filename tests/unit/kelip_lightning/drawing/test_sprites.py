"""Tiles of the embedding projector."""

import numpy as np
import pytest

from kelip_lightning.drawing.sprites import letter_tile, sprite_sheet


@pytest.mark.parametrize(("number", "columns"), [(1, 1), (4, 2), (5, 3), (9, 3), (10, 4)])
def test_sprite_sheet__row_by_row_in_the_fewest_columns(number: int, columns: int) -> None:
    tiles = [np.full((3, 3, 3), place, np.uint8) for place in range(number)]
    sheet = np.asarray(sprite_sheet(tiles, number, 3))
    found = sheet.reshape(columns, 3, columns, 3, 3).swapaxes(1, 2).reshape(columns**2, -1)
    assert [one.tolist() for one in found] == [[place] * 27 for place in [*range(number)]] + [
        [255] * 27 for _ in range(columns**2 - number)
    ]


def test_letter_tile__a_centred_letter() -> None:
    tile = letter_tile("A", (10, 20, 30), 40)
    assert tile.shape == (40, 40, 3)
    drawn = np.argwhere((tile != (10, 20, 30)).any(axis=2))
    low, high = drawn.min(axis=0), 39 - drawn.max(axis=0)
    assert np.abs(low - high).max() <= 2
