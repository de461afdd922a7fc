"""The shipped font: Hangul and ASCII without tofu, and a clear message when the file is gone."""

from pathlib import Path

import pytest

from kelip_lightning.drawing import fonts
from kelip_lightning.drawing.fonts import drawable, load_font


def _pixels(text: str) -> bytes:
    return bytes(load_font(20).getmask(text))


@pytest.mark.parametrize("text", ["가", "힣", "뷁", "도", "ㅋ", "A", "~", ":", "…", "·", "’"])
def test_load_font__has_the_glyph(text: str) -> None:
    assert _pixels(text) != _pixels("\uffff")


def test_load_font__every_common_syllable_is_its_own_picture() -> None:
    """The 2,350 syllables of KS X 1001, row by row of its code table."""
    rows = [bytes([row, cell]).decode("euc_kr") for row in range(0xB0, 0xC9) for cell in range(0xA1, 0xFF)]
    pictures = {_pixels(syllable) for syllable in rows}
    assert len(rows) == len(pictures) == 2350
    assert _pixels("\uffff") not in pictures
    assert b"" not in pictures


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("사과", "사과"),
        ("\u1109\u1161과", "사과"),
        ("인펲", "인ㅍㅔㅍ"),
        ("満", "?"),
        ("Côte d’Ivoire", "Cote d’Ivoire"),
        ("São Tomé", "Sao Tome"),
        ("5−3", "5-3"),
        ("도시락 · ㅋㅋ", "도시락 · ㅋㅋ"),
    ],
)
def test_drawable(text: str, expected: str) -> None:
    assert drawable(text) == expected


def test_load_font__says_how_to_restore_a_missing_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    load_font.cache_clear()
    monkeypatch.setattr(fonts, "FONT_FILE", tmp_path / "gone.ttf")
    with pytest.raises(FileNotFoundError, match="git checkout"):
        load_font(12)
    load_font.cache_clear()


def test_font_folder__carries_its_licence() -> None:
    folder = fonts.FONT_FILE.parent
    assert "SIL OPEN FONT LICENSE" in (folder / "OFL.txt").read_text(encoding="utf-8")
    assert fonts.FONT_FILE.name in (folder / "README.md").read_text(encoding="utf-8")
