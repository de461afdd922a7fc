"""Particles of Korean prompts against a table of readings, and against tossi 0.3.1."""

import pytest
import tossi

from data_modules.errors import DataError
from data_modules.text.particles import PARTICLES, Sound, check_template, fill_template, last_sound

V, R, C = Sound.VOWEL, Sound.RIEUL, Sound.CONSONANT

HANGUL = {
    "사과": V, "고양이": V, "개": V, "나무": V, "비행기": V, "의자": V, "세계": V, "귀": V, "개나리": V, "케이크": V,
    "책": C, "사람": C, "집": C, "옷": C, "부엌": C, "꽃": C, "잎": C, "밖": C, "강": C, "눈": C, "빛": C, "밥": C,
    "값": C, "흙": C, "닭": C, "삶": C, "여덟": C, "몫": C, "곧": C, "히읗": C, "자동차 안": C,
    "물": R, "말": R, "별": R, "서울": R, "연필": R, "호텔": R, "거울": R, "달": R, "테이블": R, "얼룩말": R,
    "물고기 떼": V, "빨간 사과": V, "시골 마을": R, "책상 위": V,
    "ㄱ": C, "ㄴ": C, "ㄹ": R, "ㅁ": C, "ㅅ": C, "ㅎ": C, "ㄲ": C, "ㅏ": V, "ㅣ": V, "ㅢ": V,
}  # fmt: skip
NUMBERS = {
    "0": C, "1": R, "2": V, "3": C, "4": V, "5": V, "6": C, "7": R, "8": R, "9": V,
    "10": C, "11": R, "12": V, "20": C, "100": C, "103": C, "108": R, "500": C, "1000": C, "1,000": C, "2024": V,
    "10000": C, "100000": C, "1,000,000": C, "10000000": C, "100000000": C, "1000000000": C, "1000000000000": V,
    "10000000000000000": C, "100000000000000000000": V, "1,200": C, "3.5": V, "3.14": V, "2.7": R, "1.50": C, "1.0": C,
    "007": R, "00": C, "제2": V, "숫자 7": R, "숫자 5": V, "Ⅳ": V, "Ⅲ": C, "①": R,
}  # fmt: skip
SYMBOLS = {
    "50%": V, "30℃": V, "30 °C": V, "5km": V, "100 km": V, "20kph": V, "80 km/h": V, "3cm": V, "2mm": V, "70kg": C,
    "500g": C, "3t": C, "2L": V, "330ml": V, "5m": V, "100m²": V, "84㎡": V, "60Hz": V, "45°": V, "640px": R, "2h": C,
    "$3": V, "₩5,000": C, "€7": V, "C++": V,
}  # fmt: skip
LETTERS = {
    "A": V, "L": R, "M": C, "N": C, "R": R, "S": V, "X": V, "Y": V, "Z": V, "e": V, "n": C,
    "SUV": V, "TV": V, "USA": V, "LED": V, "BMW": V, "URL": R, "HTML": R, "PVC": V, "DSLR": R, "ATM": C, "KTX": V,
    "html": R, "PhD": V, "R&B": V, "U.S.": V, "CNN": C, "VR": R,
}  # fmt: skip
WORDS = {
    "book": C, "cat": C, "map": C, "cup": C, "robot": C, "rabbit": C, "truck": C, "black": C, "music": C, "plastic": C,
    "app": C, "shop": C, "web": C, "club": C, "squat": C, "bag": C, "foot": C, "chocolate": C,
    "lion": C, "pan": C, "film": C, "steam": C, "ring": C, "king": C, "line": C, "phone": C, "time": C, "comb": C,
    "design": C, "Texas Ranger SuperCab": C,
    "camel": R, "hotel": R, "ball": R, "girl": R, "apple": R, "table": R, "smile": R, "whale": R, "Model": R,
    "bus": V, "bed": V, "car": V, "cake": V, "house": V, "tape": V, "orange": V, "desk": V, "lamp": V, "milk": V,
    "park": V, "boat": V, "soup": V, "meat": V, "hawk": V, "box": V, "fish": V, "beach": V, "bridge": V, "tree": V,
    "blue": V, "piano": V, "Golf": V, "HUMMER": V, "taxi": V, "set": V, "jet": V, "disc": V, "café": V, "dog": V,
}  # fmt: skip
TAILS = {
    "사과(apple)": V, "책(book)": C, "물 (water)": R, "사과[沙果]": V, "'책'": C, "\"사과\"": V, "「달」": R, "책.": C,
    "사과!": V, "물 ": R, "책(표지(앞))": C, "(책)": C, "사과🍎": V, "책…": C, "서울, ": R, "애플(Apple Inc.)": R,
}  # fmt: skip
TABLE = HANGUL | NUMBERS | SYMBOLS | LETTERS | WORDS | TAILS


def test_last_sound__the_table_is_large_and_has_no_name_twice() -> None:
    parts = (HANGUL, NUMBERS, SYMBOLS, LETTERS, WORDS, TAILS)
    assert sum(map(len, parts)) == len(TABLE) >= 180


@pytest.mark.parametrize(("text", "expected"), TABLE.items())
def test_last_sound__of_the_korean_reading(text: str, expected: Sound) -> None:
    assert last_sound(text) is expected


@pytest.mark.parametrize("text", ["", " ", "...", "漢字"])
def test_last_sound__without_a_reading_is_a_vowel(text: str) -> None:
    assert last_sound(text) is V


def test_last_sound__decomposed_hangul() -> None:
    assert last_sound("\u1106\u116e\u11af") is R  # 물


_NO_READING = "tossi knows no reading, and offers both forms, 은(는)"
TOSSI_DIFFERS = {
    **dict.fromkeys({*LETTERS, *WORDS}, _NO_READING),  # 외래어 표기법 gives a reading of Latin letters
    **dict.fromkeys(SYMBOLS.keys() - {"₩5,000"}, _NO_READING),  # 오천 and 원 take the same forms
    **dict.fromkeys(("Ⅳ", "Ⅲ", "①", "사과🍎"), _NO_READING),
    **dict.fromkeys(
        ("ㄱ", "ㄴ", "ㄹ", "ㅁ", "ㅅ", "ㅎ", "ㄲ", "ㅏ", "ㅣ", "ㅢ"), "named by 한글 맞춤법 제4항, unread by tossi"
    ),
    "50%": "tossi skips the sign: 오십 ends in a consonant, 오십 퍼센트 in a vowel",
    "사과[沙果]": "tossi skips round brackets alone",
}
"""Names where tossi departs from the standard -> why."""


def _expected(slot: str, sound: Sound) -> str:
    """The form of a slot by the dictionary's rule, from the sound written in the table."""
    consonant, vowel = slot.split("/")
    return {V: vowel, R: vowel if slot == "으로/로" else consonant, C: consonant}[sound]


def _tossi(name: str, slot: str) -> str:
    if slot == "이/":
        return str(tossi.pick(name, "이다")).removesuffix("다")
    return str(tossi.pick(name, slot.split("/")[0]))


@pytest.mark.parametrize("slot", PARTICLES)
def test_fill_template__every_particle_as_the_table_and_tossi(slot: str) -> None:
    for name, sound in TABLE.items():
        expected = name + _expected(slot, sound)
        assert fill_template(f"{{}}{{{slot}}}", name) == expected
        if name not in TOSSI_DIFFERS:
            assert name + _tossi(name, slot) == expected, name


def test_tossi__differs_where_listed() -> None:
    same = [name for name in TOSSI_DIFFERS if all(_tossi(name, s) == _expected(s, TABLE[name]) for s in PARTICLES)]
    assert same == []


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("이것은 {}{이/}다.", "고양이", "이것은 고양이다."),
        ("이것은 {}{이/}다.", "책", "이것은 책이다."),
        ("{c}{을/를} 찍은 사진", "연필", "연필을 찍은 사진"),
        ("{}{으로/로} 가는 길", "연필", "연필로 가는 길"),
        ("{}{으로/로} 가는 길", "부산", "부산으로 가는 길"),
        ("{} 사진{을/를} 보았다", "나무", "나무 사진을 보았다"),
        ("사진{은/는} {}{과/와} 같다", "책", "사진은 책과 같다"),
        ('"{}"{이/가} 보인다', "사과", '"사과"가 보인다'),
        ("a photo of a {}.", "cat", "a photo of a cat."),
        ("a {c} {", "cat", "a cat {"),
        ("{}", "{}{을/를}", "{}{을/를}"),
        ("{}{을/를} 찍은 사진", "{책}", "{책}을 찍은 사진"),
    ],
)
def test_fill_template__agrees_with_the_text_before(template: str, name: str, expected: str) -> None:
    assert fill_template(template, name) == expected


def test_fill_template__checks_the_template() -> None:
    with pytest.raises(DataError, match="2 slots"):
        fill_template("{}{이/가} {}", "x")


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ("사진", "has no slots for the name"),
        ("{} {c}", "has 2 slots for the name"),
        ("{}{는/은}", r"has the unknown slot \{는/은\}"),
        ("{name} 사진", r"has the unknown slot \{name\}"),
        ("{이/가} {}", r"starts with the particle \{이/가\}; put a word before it"),
    ],
)
def test_check_template__names_the_template_and_the_known_slots(template: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem) as caught:
        check_template(template, "a.yaml")
    assert str(caught.value).startswith(f"a.yaml: the template {template!r} ")
    assert "으로/로" in str(caught.value) or "put a word" in str(caught.value)
