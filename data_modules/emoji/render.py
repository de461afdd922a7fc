"""Render SVG drawings as small WebP images with an alpha channel."""

import io

import resvg_py
from PIL import Image

SIZE = 72
# Averaging down from four times the size keeps the weight of thin lines.
_OVERSAMPLED = SIZE * 4
QUALITY = 80
ALPHA_QUALITY = 80


def rasterise(svg: str) -> Image.Image:
    """An SVG document, centred on a transparent square of `SIZE` x `SIZE` pixels, mode RGBA.

    Raises:
        ValueError: The SVG cannot be parsed.
    """
    # System fonts differ between machines.
    png = resvg_py.svg_to_bytes(svg_string=svg, width=_OVERSAMPLED, skip_system_fonts=True)
    drawing = Image.open(io.BytesIO(png)).convert("RGBA")
    side = max(drawing.size)
    square = Image.new("RGBA", (side, side))
    square.paste(drawing, ((side - drawing.width) // 2, (side - drawing.height) // 2))
    # Premultiplied, the colour of transparent pixels does not affect the edges.
    premultiplied = square.convert("RGBa")
    return premultiplied.resize((SIZE, SIZE), Image.Resampling.BOX).convert("RGBA")


def render(svg: str) -> bytes:
    """Lossy WebP with alpha, `SIZE` x `SIZE` pixels, of an SVG document.

    Raises:
        ValueError: The SVG cannot be parsed.
    """
    buffer = io.BytesIO()
    rasterise(svg).save(buffer, "WEBP", quality=QUALITY, alpha_quality=ALPHA_QUALITY, method=6)
    return buffer.getvalue()
