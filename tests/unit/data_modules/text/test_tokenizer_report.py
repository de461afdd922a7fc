"""Tokens per syllable and word: of a toy tokenizer, and of a trained one on generated Korean."""

import random
from collections.abc import Iterator

import pytest

from data_modules.text.tokenizer import train_tokenizer
from data_modules.text.tokenizer_report import LanguageReport, language_of, report_by_language

NOUNS, ADJECTIVES = (
    words.split()
    for words in (
        """
        사과 바나나 포도 수박 딸기 고양이 강아지 토끼 호랑이 코끼리 자전거 자동차 비행기 기차 버스 학교 병원 도서관 공원
        시장 하늘 바다 구름 나무 꽃 강물 눈사람 우산 모자 안경 신발 가방 시계 책상 의자 창문 침대 냉장고 텔레비전 전화기
        아이 어머니 아버지 할머니 선생님 요리사 소방관 경찰관 의사 가수
        """,
        "빨간 노란 파란 하얀 검은 작은 큰 예쁜 귀여운 오래된 새로운 따뜻한 차가운 조용한 시끄러운 맛있는 높은 멋진",
    )
)
PLACES = ("집 앞", "공원 안", "바닷가", "식탁 위", "지하철역", "골목길", "운동장", "옥상", "호수 옆", "숲속")
VERBS = ("앉아 있다", "서 있다", "웃는다", "달린다", "먹는다", "잠을 잔다", "노래한다", "걸어간다", "빛난다")


def _sentences(seed: int, count: int) -> Iterator[str]:
    """Korean captions with particles that agree with the noun."""
    draw = random.Random(seed)
    for _ in range(count):
        noun, other = draw.sample(NOUNS, 2)
        final_consonant = (ord(noun[-1]) - 0xAC00) % 28 > 0
        subject, joined = noun + "가이"[final_consonant], noun + "와과"[final_consonant]
        yield draw.choice(
            [
                f"{draw.choice(ADJECTIVES)} {subject} {draw.choice(PLACES)}에 {draw.choice(VERBS)}",
                f"{draw.choice(PLACES)}에서 찍은 {draw.choice(ADJECTIVES)} {noun} 사진",
                f"{joined} {draw.choice(ADJECTIVES)} {other} 그림 {draw.randint(1, 99)}장",
            ]
        )


def test_korean__at_most_1_1_tokens_per_syllable_on_unseen_captions() -> None:
    tokenizer = train_tokenizer(_sentences(0, 20_000), 98_818, 77)
    unseen = sorted(set(_sentences(1, 2_000)) - set(_sentences(0, 20_000)))
    assert len(unseen) > 200
    report = report_by_language(unseen, tokenizer.count_tokens, 77)["ko"]
    assert report.captions == len(unseen)
    assert report.tokens_per_unit <= 1.1
    assert report.share_cut == 0


def _count_letters(texts: list[str]) -> list[int]:
    """A token for every character but spaces."""
    return [len(text.replace(" ", "")) for text in texts]


def test_report__metrics_of_a_toy_tokenizer() -> None:
    assert report_by_language(["빨간 사과 red", "a cat, 12", "dogs run"], _count_letters, 10) == {
        "ko": LanguageReport(
            captions=1, tokens_per_unit=4 / 4, fertility=7 / 3, tokens_per_caption=7 + 2, share_cut=0.0
        ),
        "en": LanguageReport(
            captions=2, tokens_per_unit=(4 + 7) / 4, fertility=(7 + 7) / 5, tokens_per_caption=9, share_cut=0.0
        ),
    }
    assert report_by_language(["dogs run"], _count_letters, 8)["en"].share_cut == 1
    assert set(report_by_language(["apple"], _count_letters, 10)) == {"en"}
    assert report_by_language([], _count_letters, 10) == {}


@pytest.mark.parametrize(("caption", "language"), [("a 사과", "ko"), ("apple 12", "en"), ("漢字", "en"), ("", "en")])
def test_language_of(caption: str, language: str) -> None:
    assert language_of(caption) == language
