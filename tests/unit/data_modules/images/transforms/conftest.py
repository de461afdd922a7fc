"""A picture that shows nothing but its background."""

import io

import pytest
from PIL import Image


@pytest.fixture
def encode_clear() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGBA", (20, 20), (0, 0, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()
