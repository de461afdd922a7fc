"""Normalisation of captions: against ftfy and open_clip's clean-up, as steps of a file and as a function."""

import html
import json
import unicodedata

import pytest
from ftfy.chardata import LIGATURES, WIDTH_MAP
from ftfy.fixes import uncurl_quotes
from hypothesis import given, settings
from hypothesis import strategies as st
from open_clip.tokenizer import get_clean_fn
from tokenizers import normalizers

from data_modules.text.normalization import (
    HTML_ESCAPED,
    STRAIGHTENED,
    caption_normalizer,
    straight_text_normalizer,
    straighten,
    version_of,
)
from tests.paths import FIXTURES

NORMALIZER, OLDER = caption_normalizer(), caption_normalizer(1)
OF_OPEN_CLIP, LOWERED_BY_OPEN_CLIP = get_clean_fn("whitespace"), get_clean_fn("lower")
OLDER_FILE = FIXTURES / "run_of_e16296c" / "runs" / "finished" / "contrastive" / "dual_encoder" / "tokenizer.json"


def test_straightened__is_what_ftfy_straightens() -> None:
    characters = map(chr, [*range(0xD800), *range(0xE000, 0x20000)])
    theirs = {one: uncurl_quotes(one.translate(LIGATURES).translate(WIDTH_MAP)) for one in characters}
    assert dict(STRAIGHTENED) == {one: straight for one, straight in theirs.items() if straight != one}
    assert not set(STRAIGHTENED) & set("".join(STRAIGHTENED.values())), "one pass is enough"


@pytest.mark.parametrize(
    "unchanged", ["", 'it\'s "red"', "㎏ ① ½ ² ™ ㈜ Ⅳ", "한글 ㄱㅏ 각", "«x» ‹y› ′″ `", "🍎 漢字 ー"]
)
def test_straighten__leaves_the_rest(unchanged: str) -> None:
    assert straighten(unchanged) == unchanged


@pytest.mark.parametrize(
    ("caption", "expected"),
    [
        ("seven o’clock", "seven o'clock"),
        ("‘a’ ‚b‛ rock ʼn roll", "'a' 'b' rock 'n roll"),
        ("Japanese “free of charge” button", 'japanese "free of charge" button'),
        ("„low“ ‟quotes”", '"low" "quotes"'),
        ("ＡＢＣ ｘｙｚ ０１２９", "abc xyz 0129"),
        ("！＂＃＄％＆＇（）＊＋，－．／：；＜＝＞？＠［＼］＾＿｀｛｜｝～", "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"),
        ("￦1,000 ￡5 ｟x｠", "₩1,000 £5 ⦅x⦆"),
        ("빨간　사과", "빨간 사과"),
        ("ﬁsh ﬂag ﬀ ﬃ ﬄ ﬆ ﬅ Ĳ ŉ ǆ", "fish flag ff ffi ffl st ſt ij 'n dž"),
        ("ﾡￂ ﾵￂ ﾡￂﾤ", "가 사 가\u1102"),  # no final consonants, as in NFKC
        ("ｱｲｳ ｶﾞ ﾊﾟ", "アイウ ガ パ"),
        ("“빨간 사과”는 Ｒｅｄ　Ａｐｐｌｅ’s 색", '"빨간 사과"는 red apple\'s 색'),
        ("㎏ ① ½ ™ 각", "㎏ ① ½ ™ 각"),
        ("salt &amp; pepper", "salt & pepper"),
        ("&quot;Red&quot; &gt; 3", '"red" > 3'),
        ("it&#39;s&nbsp;&nbsp;red &#x27;&#X2014;", "it's red '—"),
        ("it&rsquo;s &ldquo;red&rdquo; &bdquo;x&sbquo; &#8217;&#x201C;", 'it\'s "red" "x\' \'"'),
        ("twice &amp;quot;escaped&amp;quot; &amp;amp; &amp;#38;rsquo;", 'twice "escaped" & \''),
        ("＆ａｍｐ；quot；", '"'),
        ("  a\t\n b\u3000\u2003c ", "a b c"),
        ("", ""),
    ],
)
def test_normalize__as_open_clip_cleans(caption: str, expected: str) -> None:
    assert NORMALIZER.normalize_str(caption) == expected
    assert LOWERED_BY_OPEN_CLIP(caption) == expected


@pytest.mark.parametrize(
    ("caption", "expected", "theirs"),
    [
        ("&AMP; &Hellip;", "& …", "& &hellip;"),
        ("AT&T; &c; & &unknown; &amp &copying", "at&t; &c; & &unknown; &amp &copying", "at&t; &c; & &unknown; & ©ing"),
        ("caf&eacute; &#44032;", "caf&eacute; &#44032;", "café 가"),
        ("cafÃ© a\u0007b", "cafã© a\u0007b", "café ab"),
    ],
    ids=["capitals", "no semicolon", "other entities", "wrongly decoded, control characters"],
)
def test_normalize__where_open_clip_cleans_otherwise(caption: str, expected: str, theirs: str) -> None:
    assert NORMALIZER.normalize_str(caption) == expected
    assert LOWERED_BY_OPEN_CLIP(caption) == theirs


@pytest.mark.parametrize("character", HTML_ESCAPED)
def test_normalize__as_pythons_unescape(character: str) -> None:
    names = [name for name, value in html.entities.html5.items() if value == character and name.endswith(";")]
    code = ord(character)
    for entity in (*(f"&{name}" for name in names), f"&#{code};", f"&#x{code:X};", f"&#00{code};"):
        expected = html.unescape(f"x{entity}y").replace("\u00a0", " ")
        assert NORMALIZER.normalize_str(f"x{entity}y") == uncurl_quotes(expected), entity
        assert OLDER.normalize_str(f"x{entity}y") == expected, entity


# No Latin-1 letters and signs, in whose combinations ftfy sees wrongly decoded text, and no entities.
_STRAIGHTENED_OR_USUAL = st.text(
    st.one_of(
        st.sampled_from([one for one in STRAIGHTENED if not set(STRAIGHTENED[one]) & set("Žž¢£¬¦¥ ")]),
        st.characters(min_codepoint=0xAC00, max_codepoint=0xD7A3),
        st.characters(min_codepoint=0x1100, max_codepoint=0x11FF),
        st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters="&"),
        st.sampled_from("\n\t\u200d\u0301🍎漢①㎏"),
    ),
    max_size=40,
)


@given(_STRAIGHTENED_OR_USUAL)
@settings(max_examples=300, deadline=None)
def test_normalize__after_open_clips_clean_up_is_the_same(text: str) -> None:
    once = NORMALIZER.normalize_str(text)
    assert NORMALIZER.normalize_str(OF_OPEN_CLIP(text)) == once
    assert NORMALIZER.normalize_str(once) == once


@given(st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from([*STRAIGHTENED])), max_size=40))
@settings(max_examples=300, deadline=None)
def test_straighten__replaces_the_first_steps_of_the_file(text: str) -> None:
    assert straight_text_normalizer().normalize_str(straighten(text)) == NORMALIZER.normalize_str(text)


def test_version_1__is_that_of_an_older_run() -> None:
    older = json.loads(OLDER_FILE.read_text(encoding="utf-8"))["normalizer"]
    assert json.loads(OLDER.__getstate__()) == older
    assert OLDER.normalize_str("Woman’s “Ａ” &amp;amp; &rsquo;") == "woman’s “ａ” &amp; ’"


def test_version_of() -> None:
    assert [version_of(one) for one in (NORMALIZER, OLDER, None)] == [2, 1, None]
    assert version_of(normalizers.NFC()) is None
    assert version_of(straight_text_normalizer()) is None, "a part of version 2"


def test_normalize__decomposed_hangul() -> None:
    assert NORMALIZER.normalize_str(unicodedata.normalize("NFD", "빨간 사과")) == "빨간 사과"
