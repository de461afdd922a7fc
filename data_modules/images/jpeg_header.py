"""What the header of a plain JPEG says, in a few microseconds: Pillow takes fifty for the same.

Reference: ITU-T T.81, annex B: markers and their segments.
"""

import struct

_START, _SCAN = b"\xff\xd8", 0xDA
_FRAMES = frozenset({0xC0, 0xC1, 0xC2})
"""Baseline, extended sequential and progressive: what libjpeg decodes everywhere."""
_WITHOUT_EFFECT = frozenset({0xC4, 0xDB, 0xDD, 0xE0, 0xED, 0xEE, 0xFE})
"""Huffman and quantisation tables, restart interval, JFIF, Photoshop, Adobe, comment."""
_PROFILE, _PROFILE_NAME = 0xE2, b"ICC_PROFILE\0"


def plain_jpeg_size(data: bytes) -> tuple[int, int] | None:
    """Width and height of a JPEG in RGB or grey, 8 bits a channel, that nothing asks to turn.

    None: it is none, or it has a segment that Pillow has to look at (EXIF, further pictures, damage).
    """
    if not data.startswith(_START):
        return None
    size: tuple[int, int] | None = None
    place, last = len(_START), len(data) - 10
    while place < last and data[place] == 0xFF:
        marker = data[place + 1]
        if marker == _SCAN:
            return size
        if marker in _FRAMES:
            precision, height, width, channels = struct.unpack_from(">BHHB", data, place + 4)
            if precision != 8 or channels not in (1, 3) or not width or not height:
                return None
            size = width, height
        elif marker == _PROFILE:
            if not data.startswith(_PROFILE_NAME, place + 4):
                return None
        elif marker not in _WITHOUT_EFFECT:
            return None
        place += 2 + (data[place + 2] << 8 | data[place + 3])
    return None
