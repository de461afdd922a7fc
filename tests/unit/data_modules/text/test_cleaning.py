"""Captions come out clean, by rules that are counted."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_modules.faults import REPAIRED, SampleFault
from data_modules.text.cleaning import (
    MAX_CAPTION_CHARACTERS,
    clean_caption,
    detect_language,
    hangul_share,
    language_code,
)


@pytest.mark.parametrize(
    ("raw", "text", "repairs"),
    [
        ("  a cat \n", "a cat", []),
        ("고양이".encode(), "고양이", []),
        ("\ufeffa cat".encode(), "a cat", []),
        (b"caf\xe9 au lait", "caf\ufffd au lait", ["caption_not_utf8"]),
        (unicodedata.normalize("NFD", "한글"), "한글", ["caption_not_nfc"]),
        ("x" * 100_000, "x" * MAX_CAPTION_CHARACTERS, ["caption_cut"]),
        (("가" * 100_000).encode(), "가" * MAX_CAPTION_CHARACTERS, ["caption_cut"]),
        ("a\0b", "a b", []),
        (b"[1]", "[1]", []),
        ("a \ud800 b", "a \ufffd b", ["caption_not_utf8"]),
    ],
)
def test_clean_caption(raw: object, text: str, repairs: list[str]) -> None:
    found: list[str] = []
    assert clean_caption(raw, found) == text
    assert found == repairs


@pytest.mark.parametrize("raw", [None, "", b"", " \n\t", b"\0\0", "\u3000"])
def test_clean_caption__nothing_left(raw: object) -> None:
    with pytest.raises(SampleFault) as raised:
        clean_caption(raw, [])
    assert raised.value.kind == "caption_missing"


@given(raw=st.one_of(st.binary(max_size=300), st.text(max_size=300)))
def test_clean_caption__anything_gives_nfc_text_or_a_fault(raw: bytes | str) -> None:
    repairs: list[str] = []
    try:
        text = clean_caption(raw, repairs)
    except SampleFault:
        return
    assert text == text.strip() == unicodedata.normalize("NFC", text)
    assert text.encode("utf-8", errors="surrogatepass")
    assert set(repairs) <= set(REPAIRED)


@pytest.mark.parametrize(
    ("text", "share"),
    [("고양이", 1.0), ("cat", 0.0), ("고양이 cat", 0.5), ("ㅋㅋ 2024!", 1.0), ("123", 0.0), ("猫と고", 1 / 3)],
)
def test_hangul_share(text: str, share: float) -> None:
    assert hangul_share(text) == pytest.approx(share)


def test_detect_language__by_the_share_asked_for() -> None:
    assert detect_language("서울 Tower", 0.2) == "ko"
    assert detect_language("서울 Tower", 0.5) == "en"
    with pytest.raises(SampleFault, match="no letters"):
        detect_language("12:30 !!", 0.2)


@pytest.mark.parametrize(
    ("value", "code"),
    [("ko", "ko"), ("KO-kr", "ko"), ("kor_Hang", "ko"), ("Korean", "ko"), (" en ", "en"), ("eng", "en")],
)
def test_language_code(value: object, code: str) -> None:
    assert language_code(value) == code


@pytest.mark.parametrize("value", ["ja", "", None, "kokoro", 3])
def test_language_code__others(value: object) -> None:
    with pytest.raises(SampleFault) as raised:
        language_code(value)
    assert raised.value.kind == "language_unknown"
