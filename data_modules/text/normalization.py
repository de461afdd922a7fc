"""Normalisation of texts before they are tokenized, as steps that the tokenizer's file stores.

The steps are in the tokenizer, not in `cleaning.clean_caption`, for three reasons: training captions, prompts and
queries all pass through `BilingualTokenizer.encode`; a run that has its tokenizer keeps its training texts when it is
resumed; and transformers and open_clip, which read the tokenizer's file, give the same ids. The file has no number of
a version: its steps say what it does, and `version_of` recognises them.
"""

import functools
import html.entities
import re
import unicodedata
from collections.abc import Mapping
from types import MappingProxyType

from tokenizers import Regex, normalizers

NORMALIZATION = 2
"""Version of the normalisation of new tokenizers; 1 straightens nothing."""
HTML_ESCAPED = "&<>\"'\u00a0·…–—‘’“”•©®™°×«»"
"""Characters that web pages escape in captions; the ampersand comes first, since escapes are escaped too."""
_QUOTES = {"'": "\u02bc\u2018\u2019\u201a\u201b", '"': "\u201c\u201d\u201e\u201f"}
_LIGATURES = "ĲĳŉǱǲǳǄǅǆǇǈǉǊǋǌﬀﬁﬂﬃﬄﬅﬆ"


def _straightened() -> dict[str, str]:
    straight = {quote: plain for plain, quotes in _QUOTES.items() for quote in quotes}
    for character in ["\u3000", *map(chr, range(0xFF01, 0xFFF0))]:
        if (usual := unicodedata.normalize("NFKC", character)) != character:
            straight[character] = usual
    # NFKC replaces the long s too, which ftfy keeps.
    ligatures = {one: unicodedata.normalize("NFKC", one) for one in _LIGATURES} | {"ﬅ": "ſt", "ŉ": "'n"}
    return straight | ligatures


STRAIGHTENED: Mapping[str, str] = MappingProxyType(_straightened())
"""Character -> text: curly and low quotes, ligatures of Latin letters, full-width and half-width forms (U+FF01 to
U+FFEF by NFKC, a character at a time) and the ideographic space. Other characters that NFKC changes (㎏, ①, ½) stay.

Reference: ftfy 6 (`uncurl_quotes`, `fix_latin_ligatures`, `fix_character_width`), with which open_clip's tokenizers
clean texts.
"""
_ANY_STRAIGHTENED = re.compile(f"[{''.join(STRAIGHTENED)}]")


def straighten(text: str) -> str:
    """The text with every character of `STRAIGHTENED` replaced; half-width jamo are not composed yet."""
    return text if text.isascii() else _ANY_STRAIGHTENED.sub(lambda found: STRAIGHTENED[found[0]], text)


def caption_normalizer(version: int = NORMALIZATION) -> normalizers.Normalizer:
    """The normalisation of captions, as a tokenizer's file stores it.

    Version 2 straightens (`STRAIGHTENED`), then applies NFC, lower case, HTML entities as characters and white space as
    single spaces, none at the ends. NFC gives decomposed Hangul, common in file names of macOS, the ids of composed
    Hangul. Version 1, of tokenizers of earlier revisions, does not straighten, and unescapes an ampersand once.

    Deviation: open_clip also repairs wrongly decoded text, drops control characters and unescapes all HTML entities.
    Here only entities of `HTML_ESCAPED` with their semicolon change: `AT&T` and `&notify` are no escapes.
    """
    if version == 1:
        return normalizers.Sequence(_steps(1))
    straightening = [normalizers.Replace(character, straight) for character, straight in STRAIGHTENED.items()]
    return normalizers.Sequence([*straightening, *_steps(version)])


def straight_text_normalizer() -> normalizers.Normalizer:
    """`caption_normalizer()` without its many first steps; for straightened texts the results are the same."""
    return normalizers.Sequence(_steps(NORMALIZATION))


def _steps(version: int) -> list[normalizers.Normalizer]:
    entities = _entities_once() if version == 1 else _entities()
    return [
        normalizers.NFC(),
        normalizers.Lowercase(),
        normalizers.NFC(),  # lower-casing can decompose a letter
        *(normalizers.Replace(Regex(pattern), character) for pattern, character in entities.items()),
        normalizers.Replace(Regex(r"\s+"), " "),
        normalizers.Strip(),
    ]


def _entities_once() -> dict[str, str]:
    return {f"&(?:{_escapes(character)});": character for character in HTML_ESCAPED}


def _entities() -> dict[str, str]:
    """A pattern of HTML entities -> the text that takes their place; those of curly quotes give straight ones."""
    escapes: dict[str, list[str]] = {}
    for character in dict.fromkeys(HTML_ESCAPED + "".join(_QUOTES.values())):
        escapes.setdefault(straighten(character), []).append(_escapes(character))
    patterns = {text: f"(?:{'|'.join(names)});" for text, names in escapes.items()}
    patterns["&"] = f"(?:{patterns['&']})+"  # an ampersand may be escaped several times: &amp;amp;lt;
    return {f"&{pattern}": text for text, pattern in patterns.items()}


def _escapes(character: str) -> str:
    """A regular expression for a character's lower-cased HTML entities (name, decimal, hexadecimal) between & and ;."""
    names = sorted({name.lower() for name, value in html.entities.html5.items() if value == character})
    named = [name.removesuffix(";") for name in names if name.endswith(";")]
    return "|".join([*named, f"#0*{ord(character)}", f"#x0*{ord(character):x}"])


@functools.cache
def _stored(version: int) -> bytes:
    return bytes(caption_normalizer(version).__getstate__())


def version_of(normalizer: normalizers.Normalizer | None) -> int | None:
    """The version of a tokenizer's normalisation; `None`: it is not one of this package."""
    if normalizer is None:
        return None
    stored = bytes(normalizer.__getstate__())
    return next((version for version in (NORMALIZATION, 1) if stored == _stored(version)), None)
