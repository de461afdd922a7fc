"""What becomes of a caption before it is cut into tokens: one normal form for what reads the same.

It stands in the tokenizer's file, so that every library that reads the file gives the same ids.
"""

import html.entities

from tokenizers import Regex, normalizers

_ESCAPED = "&<>\"'\u00a0·…–—‘’“”•©®™°×«»"
"""The characters that web pages escape in captions; the ampersand first, since pages escape escapes."""


def caption_normalizer() -> normalizers.Normalizer:
    """NFC, lower case, HTML entities as their characters, runs of white space as one space, none at the ends.

    NFC first, so that decomposed Hangul, as macOS writes it into file names, gives the same ids as composed.
    Entities that are none of the common ones (`caption_normalizer._ESCAPED`) stay as they are written.
    """
    return normalizers.Sequence(
        [
            normalizers.NFC(),
            normalizers.Lowercase(),
            normalizers.NFC(),  # lower-casing can decompose a letter
            *(normalizers.Replace(Regex(_entity_pattern(character)), character) for character in _ESCAPED),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )


def _entity_pattern(character: str) -> str:
    """A regular expression for every way to escape a character, in lower case: by name, decimal, hexadecimal."""
    names = sorted({name.lower() for name, value in html.entities.html5.items() if value == character})
    named = [name.removesuffix(";") for name in names if name.endswith(";")]
    return f"&(?:{'|'.join(named)}|#0*{ord(character)}|#x0*{ord(character):x});"
