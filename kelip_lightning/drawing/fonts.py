"""The font of plots and panels; it ships with the project, because many machines have no Hangul font."""

import unicodedata
from functools import lru_cache
from pathlib import Path

from PIL import ImageFont

import data_modules

FONT_FILE = Path(data_modules.__file__).parent / "assets" / "fonts" / "NanumSquareR.ttf"
"""2,479 Hangul syllables, Hangul letters and ASCII; SIL Open Font License 1.1, see the folder's README."""

_PROBE_SIZE = 20
_SYLLABLE_PARTS = ("HANGUL CHO", "HANGUL JUNG", "HANGUL JONG")
_NO_CHARACTER = "\uffff"


@lru_cache
def load_font(size: int) -> ImageFont.FreeTypeFont:
    """The font at a height of `size` pixels.

    Raises:
        FileNotFoundError: The font file is missing; the message says how to restore it.
    """
    if not FONT_FILE.is_file():
        raise FileNotFoundError(f"{FONT_FILE} is missing; restore it with `git checkout -- {FONT_FILE}`")
    # The basic layout is the same everywhere; Raqm is an optional part of Pillow.
    return ImageFont.truetype(str(FONT_FILE), size, layout_engine=ImageFont.Layout.BASIC)


def drawable(text: str) -> str:
    """The text with characters that the font lacks replaced by ones that it has.

    Accents are removed (é -> e), rare syllables become letters (펲 -> ㅍㅔㅍ), other characters a question mark.
    Hangul is composed to syllables first, because the basic layout does not join letters.
    """
    return "".join(map(_drawable_character, unicodedata.normalize("NFC", text)))


@lru_cache(maxsize=4096)
def _drawable_character(character: str) -> str:
    if _is_in_font(character):
        return character
    if character == "\N{MINUS SIGN}":
        return "-"
    parts = map(_letter, unicodedata.normalize("NFKD", character))
    return "".join(part for part in parts if not unicodedata.combining(part) and _is_in_font(part)) or "?"


def _letter(part: str) -> str:
    """The compatibility letter of a conjoining one (ㅍ of an initial or final ㅍ); others unchanged."""
    kind, _, name = unicodedata.name(part, "").partition("SEONG ")
    return unicodedata.lookup(f"HANGUL LETTER {name}") if kind in _SYLLABLE_PARTS else part


def _is_in_font(character: str) -> bool:
    """Whether the font draws the character: neither blank nor the box for unknown characters.

    The font's character map is not usable: it lists all 11,172 syllables, most of them blank.
    """
    if character.isspace():
        return True
    mask = load_font(_PROBE_SIZE).getmask(character)
    return mask.getbbox() is not None and bytes(mask) != bytes(load_font(_PROBE_SIZE).getmask(_NO_CHARACTER))
