"""Efficiency of a tokenizer per language: tokens per syllable, word and caption, and truncated captions."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

CountTokens = Callable[[list[str]], list[int]]
"""Texts -> number of tokens of each, without start and end, not truncated."""

HANGUL_SYLLABLE = re.compile("[가-힣]")
HANGUL_WORD = re.compile("[가-힣]+")
ENGLISH_WORD = re.compile("[A-Za-z]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageReport:
    """Metrics of the captions of one language."""

    captions: int
    tokens_per_unit: float
    """ko: tokens per Hangul syllable, in the Hangul words of all captions; en: tokens per word of Latin letters."""
    fertility: float
    """Tokens per space-separated word."""
    tokens_per_caption: float
    """Start and end included."""
    share_cut: float
    """Share of captions longer than the context length."""


def language_of(caption: str) -> str:
    """`ko` if a caption has a Hangul syllable, else `en`."""
    return "ko" if HANGUL_SYLLABLE.search(caption) else "en"


def report_by_language(
    captions: Iterable[str], count_tokens: CountTokens, context_length: int
) -> dict[str, LanguageReport]:
    """`ko` and `en` -> metrics of its captions, if there are any; `context_length` includes start and end."""
    by_language: dict[str, list[str]] = {"ko": [], "en": []}
    for caption in captions:
        by_language[language_of(caption)].append(caption)
    return {
        language: _report(language, texts, count_tokens, context_length)
        for language, texts in by_language.items()
        if texts
    }


def _report(language: str, captions: list[str], count_tokens: CountTokens, context_length: int) -> LanguageReport:
    word = HANGUL_WORD if language == "ko" else ENGLISH_WORD
    words_of = [word.findall(caption) for caption in captions]
    units = sum(len("".join(words)) if language == "ko" else len(words) for words in words_of)
    tokens_of_units = sum(count_tokens([" ".join(words) for words in words_of]))
    counts = count_tokens(captions)
    return LanguageReport(
        captions=len(captions),
        tokens_per_unit=tokens_of_units / max(1, units),
        fertility=sum(counts) / max(1, sum(len(caption.split()) for caption in captions)),
        tokens_per_caption=sum(counts) / len(captions) + 2,
        share_cut=sum(count + 2 > context_length for count in counts) / len(captions),
    )
