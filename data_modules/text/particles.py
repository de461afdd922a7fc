"""Korean particles in prompts: a template is filled with a name, and each particle takes the form that fits it.

Many Korean particles have two forms, one after a final consonant and one after a vowel (사과를, 책을). A template
writes both between braces, `{}{을/를} 찍은 사진`. The form is a function of the last sound of the text before it,
which for text that is not Hangul is the last sound of its Korean reading: 3 is read 삼, `km` 킬로미터, `book` 북.

Reference: 국립국어원, 표준국어대사전, entries of the particles (조사의 이형태: 은/는, 이/가, 을/를, 과/와, 아/야 after
a noun with or without 받침; 로 after a vowel and after ㄹ, else 으로); 한글 맞춤법 제4항 (names of the jamo) and
제44항 (numbers by units of 만); 외래어 표기법 제3장 제1절 (English), in `_word_sound`.
"""

import re
import unicodedata
from enum import Enum

from data_modules.errors import DataError


class Sound(Enum):
    """Last sound of a text in its Korean reading."""

    VOWEL = "vowel"
    RIEUL = "rieul"
    """The final consonant ㄹ, after which 으로 is 로."""
    CONSONANT = "consonant"
    """Any other final consonant."""


PARTICLES: tuple[str, ...] = ("은/는", "이/가", "을/를", "과/와", "이/", "으로/로", "아/야", "이나/나", "이랑/랑")
"""Particle slots, `after a consonant/after a vowel`; `이/` is the stem of 이다, which is dropped after a vowel."""

NAME_SLOTS: tuple[str, ...] = ("", "c")
"""What stands between the braces of the slot of the name: `{}`, or `{c}` as CLIP_benchmark writes it."""

_SLOT = re.compile(r"\{([^{}]*)\}")


def check_template(template: str, context: str) -> None:
    """Check that a template has one slot for a name and only known slots for particles.

    Args:
        template: For example `{}{을/를} 찍은 사진`.
        context: Key or file that the message starts with.

    Raises:
        DataError: There is no slot for the name, or two; a slot is unknown; no word stands before a particle.
    """
    slots = _SLOT.findall(template)
    known = f"a template holds one {{}} or {{c}}, and any of {' '.join(f'{{{one}}}' for one in PARTICLES)}"
    if unknown := [slot for slot in slots if slot not in NAME_SLOTS and slot not in PARTICLES]:
        raise DataError(f"{context}: the template {template!r} has the unknown slot {{{unknown[0]}}}; {known}")
    if (count := sum(slot in NAME_SLOTS for slot in slots)) != 1:
        raise DataError(f"{context}: the template {template!r} has {count or 'no'} slots for the name; {known}")
    first = _SLOT.search(template)
    assert first is not None
    if first.group(1) in PARTICLES and not template[: first.start()].strip():
        raise DataError(
            f"{context}: the template {template!r} starts with the particle {{{first.group(1)}}}; put a word before it"
        )


def fill_template(template: str, name: str) -> str:
    """The prompt of a name.

    A particle takes its form from the text directly before it: the name in `{}{을/를}`, 사진 in `{} 사진{을/를}`.
    Braces in the name are text.

    Raises:
        DataError: The template is unusable, see `check_template`.
    """
    check_template(template, "fill_template")
    prompt, end = "", 0
    for slot in _SLOT.finditer(template):
        prompt += template[end : slot.start()]
        prompt += name if slot.group(1) in NAME_SLOTS else _particle(slot.group(1), last_sound(prompt))
        end = slot.end()
    return prompt + template[end:]


def _particle(slot: str, sound: Sound) -> str:
    after_consonant, after_vowel = slot.split("/")
    if sound is Sound.VOWEL or (sound is Sound.RIEUL and slot == "으로/로"):
        return after_vowel
    return after_consonant


def last_sound(text: str) -> Sound:
    """The last sound of a text as it is read in Korean.

    Spaces, punctuation and quotes at the end are skipped, and so are parentheses and square brackets with what they
    hold, unless there is nothing before them: `사과(apple)` ends as 사과. Then the last characters decide:

    - Hangul: the final consonant of the last syllable; a single letter by its name (ㄱ 기역).
    - Numbers: Sino-Korean (3 삼, 10 십, 12,000 만이천), after Latin letters too (V8 팔); decimals digit by digit;
      `$3` as 삼 달러.
    - Units and symbols: their reading (% 퍼센트, ℃ 도, km 킬로미터); `m`, `g`, `L` and the like after a number only.
    - Latin letters: see `_latin_sound`.

    A text without a reading here (Chinese characters, emoji, empty) counts as ending in a vowel.
    """
    text = _without_tail(unicodedata.normalize("NFC", text))
    if not text:
        return Sound.VOWEL
    if (unit := _unit(text)) is not None:
        return unit
    if number := _NUMBER.search(text):
        return _number_sound(number.group(2), number.group(1))
    if latin := _LATIN.search(_without_accents(text)):
        return _latin_sound(latin.group())
    return _character_sound(text[-1])


_BRACKETS = {")": "(", "）": "（", "]": "["}


def _without_tail(text: str) -> str:
    while text:
        last = text[-1]
        if last in _BRACKETS and (before := _before_bracket(text)):
            text = before
        elif last in _SYMBOLS or unicodedata.category(last)[0] in "LN":
            return text
        else:
            text = text[:-1]
    return text


def _before_bracket(text: str) -> str:
    """The text before the bracket that the last character closes; empty if nothing is left or nothing opens it."""
    closing, depth = text[-1], 0
    for position in range(len(text) - 1, -1, -1):
        depth += (text[position] == closing) - (text[position] == _BRACKETS[closing])
        if depth == 0:
            before = text[:position]
            return before if any(character.isalnum() or character in _SYMBOLS for character in before) else ""
    return ""


def _without_accents(text: str) -> str:
    return "".join(one for one in unicodedata.normalize("NFD", text) if not unicodedata.combining(one))


_JONGSEONG_RIEUL = 8
"""Index of ㄹ among the 28 finals of the Hangul syllables block; 0: none."""


def _character_sound(character: str) -> Sound:
    if "가" <= character <= "힣":
        final = (ord(character) - ord("가")) % 28
        return Sound.VOWEL if final == 0 else Sound.RIEUL if final == _JONGSEONG_RIEUL else Sound.CONSONANT
    if "ㄱ" <= character <= "ㅎ":  # 리을 alone among the names of the consonants ends in ㄹ
        return Sound.RIEUL if character == "ㄹ" else Sound.CONSONANT
    value = unicodedata.numeric(character, None)  # Ⅳ, ①, ²
    if value is not None and value == int(value):
        return _number_sound(str(int(value)), "")
    return Sound.VOWEL


_NUMBER = re.compile(r"([$₩€£¥]?)\s?([0-9][0-9,]*(?:\.[0-9]+)?)$")
_CURRENCIES = {"$": "달러", "₩": "원", "€": "유로", "£": "파운드", "¥": "엔"}
_DIGITS = "영일이삼사오육칠팔구"
_POWERS = dict(
    zip((48, 44, 40, 36, 32, 28, 24, 20, 16, 12, 8, 4, 3, 2, 1), "극재정간구양자해경조억만천백십", strict=True)
)
"""Power of ten -> its name, the largest first."""


def _number_sound(number: str, currency: str) -> Sound:
    if currency:
        return _character_sound(_CURRENCIES[currency][-1])
    digits = number.replace(",", "")
    zeros = len(digits) - len(digits.rstrip("0"))
    if "." in digits or not digits.strip("0"):
        zeros = 0
    reading = next((word for power, word in _POWERS.items() if zeros >= power), _DIGITS[int(digits[-1])])
    return _character_sound(reading)


_SYMBOLS = {"%": "퍼센트", "‰": "퍼밀", "℃": "도", "℉": "도", "°": "도", "+": "플러스", "&": "앤드"}
_SYMBOLS |= {
    "㎞": "미터",
    "㎝": "미터",
    "㎜": "미터",
    "㎏": "그램",
    "㎎": "그램",
    "㎡": "미터",
    "㎥": "미터",
    "ℓ": "리터",
}
_SYMBOLS |= _CURRENCIES | {"㎖": "리터", "㎐": "헤르츠", "㎾": "와트"}
# Units -> the last word of their reading.
_UNITS = {
    "km": "미터",
    "cm": "미터",
    "mm": "미터",
    "kg": "그램",
    "mg": "그램",
    "ml": "리터",
    "mL": "리터",
    "kph": "아워",
}
_UNITS |= {
    "km/h": "미터",
    "m/s": "미터",
    "kHz": "헤르츠",
    "MHz": "헤르츠",
    "GHz": "헤르츠",
    "kW": "와트",
    "kWh": "아워",
}
_UNITS |= {
    "km²": "미터",
    "m²": "미터",
    "cm²": "미터",
    "m³": "미터",
    "cm³": "미터",
    "kcal": "칼로리",
    "°C": "도",
    "°F": "도",
}
_UNITS |= {"KB": "바이트", "MB": "바이트", "GB": "바이트", "TB": "바이트", "px": "픽셀"}
_UNITS_AFTER_NUMBERS = {
    "m": "미터",
    "g": "그램",
    "t": "톤",
    "L": "리터",
    "l": "리터",
    "W": "와트",
    "V": "볼트",
    "h": "시간",
}
_UNITS_AFTER_NUMBERS |= {
    "s": "초",
    "min": "분",
    "ft": "피트",
    "in": "인치",
    "Hz": "헤르츠",
    "cal": "칼로리",
    "A": "암페어",
}
_UNIT = re.compile(r"(?<![A-Za-z°/])[A-Za-z°/]+[²³]?$")


def _unit(text: str) -> Sound | None:
    if text[-1] in _SYMBOLS:
        return _character_sound(_SYMBOLS[text[-1]][-1])
    if match := _UNIT.search(text):
        reading = _UNITS.get(match.group())
        if reading is None and re.search(r"[0-9]\s?$", text[: match.start()]):
            reading = _UNITS_AFTER_NUMBERS.get(match.group())
        return None if reading is None else _character_sound(reading[-1])
    return None


_LATIN = re.compile(r"[A-Za-z]+$")
_LETTERS = {"L": Sound.RIEUL, "R": Sound.RIEUL, "M": Sound.CONSONANT, "N": Sound.CONSONANT}
"""Letters whose Korean names end in a consonant: 엘, 알, 엠, 엔."""


def _latin_sound(token: str) -> Sound:
    """The last sound of the last run of Latin letters.

    Read letter by letter: a single letter, a token that ends in a capital (SUV, PhD), a token without a vowel (html).
    Capitals of five letters or more with a vowel are a word (HUMMER). Words go by `_word_sound`.

    Deviation: acronyms that are read as words (NASA 나사, RAM 램) are read letter by letter; the particle is often the
    same.
    """
    word = token.lower()
    capitals_are_letters = not (token.isupper() and len(token) >= 5)
    if len(token) == 1 or (token[-1].isupper() and capitals_are_letters) or not re.search("[aeiouy]", word):
        return _LETTERS.get(token[-1].upper(), Sound.VOWEL)
    return _word_sound(word)


_USUAL_CONSONANT = frozenset({"bag", "big", "foot", "good", "biscuit", "circuit", "chocolate", "technique", "jpeg"})
_USUAL_VOWEL = frozenset({"set", "jet", "net", "mat", "hit", "kit", "bat", "nut", "dot", "knit", "credit"})
_USUAL_VOWEL |= {"edamame", "guacamole", "minestrone", "sesame", "tamale", "ukulele"}
_ENDINGS: tuple[tuple[str, Sound], ...] = (
    (r"ng|[mn]|[mn]e|[aeiou]mb", Sound.CONSONANT),  # 5항: ring 링, lion 라이언; line 라인, comb 콤
    (r"l|le|lle", Sound.RIEUL),  # 6항: hotel 호텔, apple 애플
    (r"ck|(?<![aeiou])[aeiouy](?:pp|[ptkcb])|ook|qu[ai][ptk]", Sound.CONSONANT),  # 1항: truck 트럭, cat 캣, book 북
)


def _word_sound(word: str) -> Sound:
    """The last sound of a lower-case English word in its usual transliteration, by its spelling.

    After 외래어 표기법 제3장 제1절: final m, n and ng stay final consonants (제5항), final l is ㄹ (제6항), final p, t,
    k after a short vowel are final consonants (제1항); all other words end in a vowel, since a final b, d, g, s, f, v,
    sh, ch takes 으 or 이 (bed 베드, bus 버스) and r is not written (car 카). Spelling stands for sound: one vowel
    letter before p, t, k, c is short and two are long (boat 보트, but `oo` before k is short); a final e is silent
    (cake 케이크, line 라인).

    Deviation: final b after a short vowel counts as a consonant, as in usage (web 웹, club 클럽). Words whose usage
    departs from the spelling are listed (set 세트, bag 백); the lists are short, so that rare ones are missed.
    """
    if word in _USUAL_CONSONANT or word in _USUAL_VOWEL:
        return Sound.CONSONANT if word in _USUAL_CONSONANT else Sound.VOWEL
    return next((sound for ending, sound in _ENDINGS if re.search(f"(?:{ending})$", word)), Sound.VOWEL)
