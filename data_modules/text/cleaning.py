"""Captions: read from text files, cleaned, and their language detected."""

import codecs
import gzip
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path

from data_modules.errors import DataError
from data_modules.faults import SampleFault

MAX_CAPTION_CHARACTERS = 10_000
"""Longer captions are cut before any other step; a tokenizer keeps far fewer."""
_MAX_BYTES = 4 * MAX_CAPTION_CHARACTERS + 4
_SURROGATE = re.compile("[\ud800-\udfff]")


def read_caption_lines(files: Iterable[Path]) -> Iterator[str]:
    """Stream the non-empty lines of UTF-8 text files (`.gz`: compressed).

    Raises:
        DataError: A file is missing or not UTF-8 text.
    """
    for file in files:
        if not file.is_file():
            raise DataError(f"caption file {file} does not exist; give text files with one caption per line")
        try:
            opener = gzip.open if file.suffix == ".gz" else open
            with opener(file, "rt", encoding="utf-8") as lines:
                yield from (line.strip() for line in lines if line.strip())
        except (UnicodeDecodeError, EOFError, gzip.BadGzipFile) as error:
            raise DataError(f"caption file {file} is not UTF-8 text ({error}); convert it first") from error


def clean_caption(raw: object, repairs: list[str]) -> str:
    """The caption as stripped NFC text.

    Args:
        raw: Text, or its bytes in UTF-8; `None` counts as empty.
        repairs: Receives the kinds of `faults.REPAIRED` that were applied.

    Raises:
        SampleFault: The caption is empty (`caption_missing`), of another type (`caption_not_text`), or not UTF-8
            (`caption_not_utf8`).
    """
    if isinstance(raw, bytes):
        # A character has at most four bytes: the rest would be cut anyway, perhaps within a character.
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(raw[:_MAX_BYTES], final=len(raw) <= _MAX_BYTES)
        except UnicodeDecodeError as error:
            raise SampleFault("caption_not_utf8", f"{raw[:40]!r}: {error.reason} at byte {error.start}") from error
        text = text.removeprefix("\ufeff")
    elif raw is None or isinstance(raw, str):
        text = raw or ""
    else:
        raise SampleFault("caption_not_text", f"{type(raw).__name__} is no text")
    if len(text) > MAX_CAPTION_CHARACTERS:
        repairs.append("caption_cut")
        text = text[:MAX_CAPTION_CHARACTERS]
    if not text.isascii():
        if _SURROGATE.search(text):  # valid in JSON, not in UTF-8 and tokenizers
            raise SampleFault("caption_not_utf8", f"{text[:40]!r} holds half of a surrogate pair")
        if not unicodedata.is_normalized("NFC", text):
            repairs.append("caption_not_nfc")
            text = unicodedata.normalize("NFC", text)
    text = text.replace("\x00", " ").strip()
    if not text:
        raise SampleFault("caption_missing", "the caption is empty")
    return text


def clean_texts(value: object, field: str, repairs: list[str]) -> tuple[str, ...]:
    """The clean texts of a field's value: a text, a list of texts, or null; empty texts are dropped.

    `repairs` receives the kinds of `faults.REPAIRED` that were applied.

    Raises:
        SampleFault: The value is of another type (`caption_not_text`), or not UTF-8 (`caption_not_utf8`).
    """
    entries = value if isinstance(value, list | tuple) else [value]
    texts: list[str] = []
    for entry in entries:
        try:
            texts.append(clean_caption(entry, repairs))
        except SampleFault as fault:
            if fault.kind != "caption_missing":
                raise SampleFault(fault.kind, f"the field '{field}' holds {_short(value)}: {fault.detail}") from fault
            repairs += ["text_entry_empty"] if isinstance(value, list | tuple) else []
    return tuple(texts)


def split_keywords(value: object, separator: str | None, field: str, repairs: list[str]) -> tuple[str, ...]:
    """The clean keywords of a field's value: entries of a list, or parts of a text between separators.

    `separator` may be `None` if the value is a list; `repairs` as in `clean_texts`.

    Raises:
        SampleFault: The value is of another type, or a text without a separator (`caption_not_text`).
    """
    texts = clean_texts(value, field, repairs)
    if isinstance(value, list | tuple) or not texts:
        return texts
    if separator is None:
        raise SampleFault(
            "caption_not_text",
            f"the field '{field}' holds {_short(value)}, one text: name the separator of its keywords as "
            "keyword_separator",
        )
    return tuple(part.strip() for part in texts[0].split(separator) if part.strip())


def text_list(given: object) -> list[str]:
    """A list of texts from a YAML file; a single text as a list of one.

    Raises:
        ValueError: The value is of another type, or a text is blank.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) and one.strip() for one in texts):
        raise ValueError(f"{_short(given)} is neither a text nor a list of texts")
    return list(texts)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def count_letters(text: str) -> tuple[int, int]:
    """Letters of a text that are Hangul, and all letters."""
    letters = [character for character in text if character.isalpha()]
    return sum(1 for c in letters if "가" <= c <= "힣" or "ᄀ" <= c <= "ᇿ" or "ㄱ" <= c <= "ㆎ"), len(letters)


def hangul_share(text: str) -> float:
    """Share of Hangul among the letters of a text, in [0, 1]; 0 without letters."""
    hangul, letters = count_letters(text)
    return hangul / letters if letters else 0.0


def detect_language(text: str, min_hangul_share: float) -> str:
    """`ko` if at least this share of the letters is Hangul, else `en`.

    Raises:
        SampleFault: The text has no letters (`language_unknown`).
    """
    if not any(character.isalpha() for character in text):
        raise SampleFault("language_unknown", f"no letters in {text[:40]!r}")
    return "ko" if hangul_share(text) >= min_hangul_share else "en"


def language_code(value: object) -> str:
    """`ko` or `en` for the value of a language column: `ko`, `kor`, `ko-KR`, `Korean`; `en`, `eng`, `English`, ...

    Raises:
        SampleFault: Another language (`language_unknown`).
    """
    text = str(value).strip().lower()
    for code, names in (("ko", ("ko", "kor", "korean")), ("en", ("en", "eng", "english"))):
        if text.replace("_", "-").split("-")[0] in names:
            return code
    raise SampleFault("language_unknown", f"the language column holds {str(value)[:40]!r}")
