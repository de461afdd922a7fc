"""From the bytes of a caption to clean text, and which language it is."""

import re
import unicodedata

from data_modules.faults import SampleFault

MAX_CAPTION_CHARACTERS = 10_000
"""Longer captions are cut before anything else looks at them; a tokenizer keeps far fewer."""
_SURROGATE = re.compile("[\ud800-\udfff]")


def clean_caption(raw: object, repairs: list[str]) -> str:
    """The caption as NFC text without white space around it.

    Args:
        raw: Text, or its bytes in UTF-8; none counts as empty.
        repairs: Gets the kinds of `faults.REPAIRED` that were needed.

    Raises:
        SampleFault: Nothing is left (`caption_missing`), or it is neither (`caption_not_text`).
    """
    if isinstance(raw, bytes):
        # Four bytes hold any character: what a cut cannot reach need not be decoded.
        text = raw[: 4 * MAX_CAPTION_CHARACTERS + 4].decode("utf-8", errors="replace")
        text = text.removeprefix("\ufeff")
        if "\ufffd" in text[:MAX_CAPTION_CHARACTERS]:
            repairs.append("caption_not_utf8")
    elif raw is None or isinstance(raw, str):
        text = raw or ""
    else:
        raise SampleFault("caption_not_text", f"{type(raw).__name__} is no text")
    if len(text) > MAX_CAPTION_CHARACTERS:
        repairs.append("caption_cut")
        text = text[:MAX_CAPTION_CHARACTERS]
    if not text.isascii():
        text = _composed(text, repairs)
    text = text.replace("\x00", " ").strip()
    if not text:
        raise SampleFault("caption_missing", "the caption is empty")
    return text


def _composed(text: str, repairs: list[str]) -> str:
    if _SURROGATE.search(text):  # JSON can spell them, UTF-8 and tokenizers cannot
        repairs.append("caption_not_utf8")
        text = _SURROGATE.sub("\ufffd", text)
    if not unicodedata.is_normalized("NFC", text):
        repairs.append("caption_not_nfc")
        text = unicodedata.normalize("NFC", text)
    return text


def clean_texts(value: object, field: str, repairs: list[str]) -> tuple[str, ...]:
    """The texts of a field, clean: one of a text, several of a list of texts, none of null or an empty text.

    Args:
        value: What the field holds.
        field: Its name, for the fault.
        repairs: Gets the kinds of `faults.REPAIRED` that were needed.

    Raises:
        SampleFault: It holds something else than texts (`caption_not_text`).
    """
    entries = value if isinstance(value, list | tuple) else [value]
    texts: list[str] = []
    for entry in entries:
        try:
            texts.append(clean_caption(entry, repairs))
        except SampleFault as fault:
            if fault.kind != "caption_missing":
                raise SampleFault(fault.kind, f"the field '{field}' holds {_told(value)}: {fault.detail}") from fault
            repairs += ["text_entry_empty"] if isinstance(value, list | tuple) else []
    return tuple(texts)


def split_keywords(value: object, separator: str | None, field: str, repairs: list[str]) -> tuple[str, ...]:
    """The keywords of a field, clean: the entries of a list, or the parts of a text between separators.

    Args:
        value: What the field holds.
        separator: What stands between keywords in a text; none: only lists hold any.
        field: Its name, for the fault.
        repairs: Gets the kinds of `faults.REPAIRED` that were needed.

    Raises:
        SampleFault: It holds something else (`caption_not_text`).
    """
    texts = clean_texts(value, field, repairs)
    if isinstance(value, list | tuple) or not texts:
        return texts
    if separator is None:
        raise SampleFault(
            "caption_not_text",
            f"the field '{field}' holds {_told(value)}, one text: say what stands between its keywords as "
            "keyword_separator",
        )
    return tuple(part.strip() for part in texts[0].split(separator) if part.strip())


def text_list(given: object) -> list[str]:
    """What a YAML file gives for one or several texts: a list as it is, a bare text as a list of one.

    Raises:
        ValueError: It is something else, or one of the texts is blank or none.
    """
    texts = [given] if isinstance(given, str) else given
    if not isinstance(texts, list) or not texts or not all(isinstance(one, str) and one.strip() for one in texts):
        raise ValueError(f"{_told(given)} is neither a text nor a list of texts")
    return list(texts)


def _told(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def hangul_share(text: str) -> float:
    """Share of Hangul among the letters of a text, in [0, 1]; 0 for a text without letters."""
    letters = [character for character in text if character.isalpha()]
    hangul = sum(1 for c in letters if "가" <= c <= "힣" or "ᄀ" <= c <= "ᇿ" or "ㄱ" <= c <= "ㆎ")
    return hangul / len(letters) if letters else 0.0


def detect_language(text: str, min_hangul_share: float) -> str:
    """`ko` if at least that share of the letters is Hangul, else `en`.

    Raises:
        SampleFault: The text has no letters (`language_unknown`).
    """
    if not any(character.isalpha() for character in text):
        raise SampleFault("language_unknown", f"no letters in {text[:40]!r}")
    return "ko" if hangul_share(text) >= min_hangul_share else "en"


def language_code(value: object) -> str:
    """`ko` or `en` for what a language column says: `ko`, `kor`, `ko-KR`, `Korean`; `en`, `eng`, `English`, ...

    Raises:
        SampleFault: It says something else (`language_unknown`).
    """
    text = str(value).strip().lower()
    for code, names in (("ko", ("ko", "kor", "korean")), ("en", ("en", "eng", "english"))):
        if text.replace("_", "-").split("-")[0] in names:
            return code
    raise SampleFault("language_unknown", f"the language column says {str(value)[:40]!r}")
