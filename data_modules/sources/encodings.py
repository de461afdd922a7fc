"""Encodings of text tables: files are decoded strictly, and what does not decode is refused with what would fit."""

import codecs
from collections.abc import Iterator
from pathlib import Path

from data_modules.errors import DataError
from data_modules.text.cleaning import hangul_share

SAMPLE_BYTES = 1 << 26
"""Bytes from the start of a file that are decoded before it is opened; the rest is decoded as it is read."""
_BLOCK_BYTES = 1 << 20
_BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Longer ones first where one begins with another."""
_KOREAN = ("cp949", "utf-16-le", "utf-16-be")
"""Encodings of Korean texts without a byte order mark; cp949 contains EUC-KR."""
_MIN_HANGUL = 0.5
"""Least fraction of Hangul among the letters beyond ASCII of a plausible Korean text."""


def python_encoding(encoding: str) -> str:
    """The codec that reads a configured encoding; that of UTF-8 also reads files with a byte order mark."""
    return "utf-8-sig" if codecs.lookup(encoding).name == "utf-8" else encoding


def check_encoding(file: Path, encoding: str, remedy: str = "set encoding: {} for this source") -> None:
    """Decode the first `SAMPLE_BYTES` of a text table strictly.

    Args:
        file: The table.
        encoding: Its configured encoding.
        remedy: What to do about it, with a place for the name of a fitting encoding.

    Raises:
        DataError: They do not decode, or are UTF-8 although another encoding is configured; names those that fit.
    """
    if (position := _undecodable(file, encoding, SAMPLE_BYTES)) is not None:
        raise undecodable(file, encoding, position, remedy)
    is_utf8 = codecs.lookup(python_encoding(encoding)).name == "utf-8-sig"
    with file.open("rb") as stream:
        start = stream.read(_BLOCK_BYTES)
    if is_utf8 and b"\0" in start:
        raise undecodable(file, encoding, start.index(b"\0"), remedy)
    if not is_utf8 and not start.isascii() and _decoded(start, "utf-8") is not None:
        remedy = remedy.format("utf-8")
        raise DataError(f"{file} is UTF-8, and encoding = {encoding} would read other characters: {remedy}")


def undecodable(file: Path, encoding: str, position: int | None = None, remedy: str = "set encoding: {}") -> DataError:
    """The refusal of a file that is not in an encoding, with the encodings that fit its first `SAMPLE_BYTES`."""
    if position is None:
        position = _undecodable(file, encoding, None)
    place = "" if position is None else f" (byte {position:,} cannot be decoded)"
    fitting = fitting_encodings(file, encoding)
    if not fitting:
        return DataError(
            f"{file} is not {encoding.upper()}{place}, and no encoding of Korean or Western texts fits it as "
            "a whole: save it as UTF-8, or remove the lines in another encoding"
        )
    first, *others = fitting
    more = f" ({' and '.join(others)} would fit too)" if others else ""
    return DataError(
        f"{file} is not {encoding.upper()}{place}, and reads well as {first}{more}: {remedy.format(first)}"
    )


def fitting_encodings(file: Path, refused: str) -> list[str]:
    """Encodings, other than the refused one, in which the first `SAMPLE_BYTES` decode to a plausible text; best first.

    Plausible: no control characters, and at least half of the letters beyond ASCII are Hangul; where nothing of that
    kind fits, `utf-8` and `cp1252` (Western texts) need no Hangul.
    """
    with file.open("rb") as stream:
        content = stream.read(SAMPLE_BYTES)
    for mark, name in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            return [name] if name != refused and _decoded(content, name) is not None else []
    others = [name for name in _KOREAN if codecs.lookup(name) != codecs.lookup(refused)]
    found = [name for name in others if _is_plausible(_decoded(content, name), _MIN_HANGUL)]
    if codecs.lookup(refused).name != "utf-8" and _is_plausible(_decoded(content, "utf-8"), 0):
        return ["utf-8"]
    return found or [name for name in ("cp1252",) if _is_plausible(_decoded(content, name), 0)]


def _is_plausible(text: str | None, min_hangul: float) -> bool:
    if text is None or any(ord(character) < 32 and character not in "\t\r\n" for character in text):
        return False
    beyond_ascii = "".join(character for character in text if not character.isascii())
    return not min_hangul or hangul_share(beyond_ascii) >= min_hangul


def _decoded(content: bytes, encoding: str) -> str | None:
    """The text; `None` if it does not decode. An unfinished character at the end is left out."""
    try:
        return codecs.getincrementaldecoder(encoding)().decode(content)
    except UnicodeError:
        return None


def _undecodable(file: Path, encoding: str, limit: int | None) -> int | None:
    """The position of the first byte that does not decode; `None`: all do."""
    decoder, position = codecs.getincrementaldecoder(encoding)(), 0
    for block in _blocks(file, limit):
        before = len(decoder.getstate()[0])
        try:
            decoder.decode(block)
        except UnicodeDecodeError as error:
            return position - before + error.start
        except UnicodeError:  # a missing byte order mark
            return position
        position += len(block)
    if limit is None or position < limit:
        try:
            decoder.decode(b"", final=True)
        except UnicodeError:
            return position
    return None


def _blocks(file: Path, limit: int | None) -> Iterator[bytes]:
    left = file.stat().st_size if limit is None else limit
    with file.open("rb") as stream:
        while left > 0 and (block := stream.read(min(_BLOCK_BYTES, left))):
            left -= len(block)
            yield block
