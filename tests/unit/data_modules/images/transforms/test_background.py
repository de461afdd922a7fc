"""Backgrounds keep to their ranges and always take the same share of the stream."""

import numpy as np
import pytest

from data_modules.images.transforms.background import Background, draw_background


@pytest.mark.parametrize(("background", "low", "high"), [("white", 255, 255), ("light", 192, 255), ("random", 0, 255)])
def test_draw_background__range(background: str, low: int, high: int) -> None:
    generator = np.random.default_rng(0)
    drawn = np.array([draw_background(Background[background], generator) for _ in range(3000)])
    assert drawn.min(axis=0).tolist() == [low] * 3
    assert drawn.max(axis=0).tolist() == [high] * 3


def test_draw_background__same_seed_same_colour() -> None:
    colours = [draw_background(Background.random, np.random.default_rng(1)) for _ in range(2)]
    assert colours[0] == colours[1]


def test_background__members_are_spelled_as_in_yaml() -> None:
    assert [member.name for member in Background] == [member.value for member in Background]


def test_draw_background__the_setting_does_not_move_the_stream() -> None:
    following = []
    for background in Background:
        generator = np.random.default_rng(7)
        draw_background(background, generator)
        following.append(generator.random())
    assert following == [following[0]] * 3
