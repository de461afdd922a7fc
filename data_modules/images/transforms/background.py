"""What shows behind transparent pictures during training."""

from enum import Enum

import numpy as np


class Background(Enum):
    """Colour behind transparent parts; opaque pictures are not touched."""

    white = "white"
    light = "light"
    """A random light colour per sample, each channel uniform in 192..255."""
    random = "random"
    """Any random colour per sample, each channel uniform in 0..255."""


def draw_background(background: Background, generator: np.random.Generator) -> tuple[int, int, int]:
    """A colour (red, green, blue), 0-255 each; takes three integers from the stream whatever the setting."""
    low = 192 if background is Background.light else 0
    red, green, blue = (int(value) for value in generator.integers(low, 256, size=3))
    return (255, 255, 255) if background is Background.white else (red, green, blue)
