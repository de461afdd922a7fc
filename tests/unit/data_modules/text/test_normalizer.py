"""Captions that read the same become the same text."""

import html

import pytest

from data_modules.text.tokenizer import HTML_ESCAPED, caption_normalizer

NORMALIZER = caption_normalizer()


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("salt &amp; pepper", "salt & pepper"),
        ("&quot;Red&quot; &lt;3", '"red" <3'),
        ("it&#39;s&nbsp;&nbsp;red &#x27;&#X2014;", "it's red '—"),
        ("twice &amp;quot;escaped&amp;quot;", 'twice "escaped"'),
        ("&AMP; &Hellip;", "& …"),
        ("AT&T; &c; & &unknown; &amp", "at&t; &c; & &unknown; &amp"),
        ("  a\t\n b\u3000c ", "a b c"),
        ("", ""),
    ],
)
def test_normalize(caption: str, expected: str) -> None:
    assert NORMALIZER.normalize_str(caption) == expected


@pytest.mark.parametrize("character", HTML_ESCAPED)
def test_normalize__as_pythons_unescape(character: str) -> None:
    names = [name for name, value in html.entities.html5.items() if value == character and name.endswith(";")]
    spellings = [
        *(f"&{name}" for name in names),
        f"&#{ord(character)};",
        f"&#x{ord(character):X};",
        f"&#00{ord(character)};",
    ]
    assert len(spellings) > 3
    for spelling in spellings:
        expected = html.unescape(f"x{spelling}y").replace("\u00a0", " ")
        assert NORMALIZER.normalize_str(f"x{spelling}y") == expected, spelling


def test_normalize__twice_is_once() -> None:
    for caption in ("각  &quot; İ", "ﬁ ẞ", "a &lt; b"):
        once = NORMALIZER.normalize_str(caption)
        assert NORMALIZER.normalize_str(once) == once
