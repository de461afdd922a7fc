"""Caption files, cleaning with its reported repairs, and languages."""

import gzip
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data_modules.errors import DataError
from data_modules.faults import REPAIRED, SampleFault
from data_modules.text.cleaning import (
    MAX_CAPTION_CHARACTERS,
    clean_caption,
    detect_language,
    hangul_share,
    language_code,
    read_caption_lines,
)


def test_read_caption_lines__streams_files_without_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("사과\n\n  red apple \n", encoding="utf-8")
    with gzip.open(tmp_path / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("포도\n")
    captions = read_caption_lines([tmp_path / "a.txt", tmp_path / "b.txt.gz", tmp_path / "missing.txt"])
    assert [next(captions) for _ in range(3)] == ["사과", "red apple", "포도"]
    with pytest.raises(DataError, match=r"missing\.txt does not exist"):
        next(captions)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_read_caption_lines__no_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        list(read_caption_lines([tmp_path / name]))


@pytest.mark.parametrize(
    ("raw", "text", "repairs"),
    [
        ("  a cat \n", "a cat", []),
        ("고양이".encode(), "고양이", []),
        ("\ufeffa cat".encode(), "a cat", []),
        (unicodedata.normalize("NFD", "한글"), "한글", ["caption_not_nfc"]),
        ("x" * 100_000, "x" * MAX_CAPTION_CHARACTERS, ["caption_cut"]),
        (("가" * 100_000).encode(), "가" * MAX_CAPTION_CHARACTERS, ["caption_cut"]),
        ("a\0b", "a b", []),
        (b"[1]", "[1]", []),
    ],
)
def test_clean_caption(raw: object, text: str, repairs: list[str]) -> None:
    found: list[str] = []
    assert clean_caption(raw, found) == text
    assert found == repairs


@pytest.mark.parametrize("raw", [b"caf\xe9 au lait", "고양이".encode("cp949"), "고양이".encode()[:-1], "a \ud800 b"])
def test_clean_caption__not_utf8_is_never_replaced(raw: object) -> None:
    with pytest.raises(SampleFault, match="caption_not_utf8"):
        clean_caption(raw, [])


@pytest.mark.parametrize("raw", [None, "", b"", " \n\t", b"\0\0", "\u3000"])
def test_clean_caption__nothing_left(raw: object) -> None:
    with pytest.raises(SampleFault, match="caption_missing"):
        clean_caption(raw, [])


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
    with pytest.raises(SampleFault, match="language_unknown"):
        language_code(value)
