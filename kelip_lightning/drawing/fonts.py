"""The font of the panels; it ships with the project, so Hangul is readable on a bare machine."""

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
        FileNotFoundError: If the font file is not there, with the way to restore it.
    """
    if not FONT_FILE.is_file():
        raise FileNotFoundError(f"{FONT_FILE} is missing; restore it with `git checkout -- {FONT_FILE}`")
    # The basic layout is the same on every machine; Raqm is an optional part of Pillow.
    return ImageFont.truetype(str(FONT_FILE), size, layout_engine=ImageFont.Layout.BASIC)


def drawable(text: str) -> str:
    """The text with every character that the font lacks written in characters that it has.

    Accents are dropped (é as e), rare syllables spelt out in letters (펲 as ㅍㅔㅍ), and what is
    left becomes a question mark: nothing vanishes. Hangul is composed to syllables first, because the
    basic layout does not join letters.
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
    """The stand-alone letter of a syllable's part (ㅍ of an initial or final ㅍ); others unchanged."""
    kind, _, name = unicodedata.name(part, "").partition("SEONG ")
    return unicodedata.lookup(f"HANGUL LETTER {name}") if kind in _SYLLABLE_PARTS else part


def _is_in_font(character: str) -> bool:
    """Whether the font draws the character itself: neither its box for unknown characters nor nothing.

    The font's character map is no help: it lists all 11,172 syllables and leaves most of them blank.
    """
    if character.isspace():
        return True
    mask = load_font(_PROBE_SIZE).getmask(character)
    return mask.getbbox() is not None and bytes(mask) != bytes(load_font(_PROBE_SIZE).getmask(_NO_CHARACTER))
