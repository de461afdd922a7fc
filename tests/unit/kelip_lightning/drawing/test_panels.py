"""Images, words and frames of a row."""

import numpy as np

from kelip_lightning.drawing.panels import ImageRow, draw_image_rows

GREEN = (0, 150, 70)


def plain(red: int) -> np.ndarray:
    return np.full((16, 16, 3), (red, 0, 0), dtype=np.uint8)


def test_draw_image_rows__images_from_left_to_right_and_a_frame_around_the_right_one() -> None:
    row = ImageRow(words=["밥"], lead=plain(50), images=[plain(100), plain(150)], right=frozenset({1}))
    drawn = draw_image_rows([row], "title")
    places = [np.flatnonzero((drawn == (red, 0, 0)).all(axis=2).any(axis=0)) for red in (50, 100, 150)]
    assert all(len(place) == 64 for place in places)
    assert places[0].max() < places[1].min() < places[1].max() < places[2].min()
    frame = np.flatnonzero((drawn == GREEN).all(axis=2).any(axis=0))
    assert frame.min() < places[2].min()
    assert frame.min() > places[1].max()
    assert frame.max() > places[2].max()


def test_draw_image_rows__rows_below_one_another_with_their_words() -> None:
    rows = [ImageRow(words=[word], lead=plain(red), images=[plain(9)]) for word, red in (("집", 50), ("house", 60))]
    drawn = draw_image_rows(rows, "집 house")
    first, second = (np.flatnonzero((drawn == (red, 0, 0)).all(axis=2).any(axis=1)) for red in (50, 60))
    assert first.max() < second.min()
    assert (drawn[first, :300] < 128).any()  # the word beside it
    assert (drawn[second, :300] < 128).any()
