"""Renders SVG drawings to small WebP images with an alpha channel."""

import io

import resvg_py
from PIL import Image

SIZE = 72
# Rendered at four times the size first: thin lines keep their weight when averaged down.
_OVERSAMPLED = SIZE * 4
QUALITY = 80
ALPHA_QUALITY = 80


def rasterise(svg: str) -> Image.Image:
    """Draws an SVG on a transparent square.

    Args:
        svg: SVG document; other than square ones are centred.

    Returns:
        Image of ``SIZE`` x ``SIZE`` pixels, mode RGBA.

    Raises:
        ValueError: If the SVG cannot be parsed.
    """
    # System fonts would make the result depend on the machine.
    png = resvg_py.svg_to_bytes(svg_string=svg, width=_OVERSAMPLED, skip_system_fonts=True)
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    side = max(drawing.size)
    square = Image.new("RGBA", (side, side))
    square.paste(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    # Averaging premultiplied colours keeps the hidden colour of clear pixels out of the edges.
    premultiplied = square.convert("RGBa")
    return premultiplied.resize((SIZE, SIZE), Image.Resampling.BOX).convert("RGBA")


def render(svg: str) -> bytes:
    """Draws an SVG and encodes it as lossy WebP with alpha, ``SIZE`` x ``SIZE`` pixels.

    Raises:
        ValueError: If the SVG cannot be parsed.
    """
    buffer = io.BytesIO()
    rasterise(svg).save(buffer, "WEBP", quality=QUALITY, alpha_quality=ALPHA_QUALITY, method=6)
    return buffer.getvalue()
