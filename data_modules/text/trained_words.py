"""Pairs of a Korean and an English word of one meaning from bilingual captions, with the concepts that each names.

A word is a keyword, in lower case. It names a concept in a language if it occurs as whole words in the concept's name
or keywords of that language. Names are translations of one another, keywords are not: they are given in each language
independently. So the names alone decide which words form a pair, by mutual best association: of all words in English
names, B shares most concepts with A, and of all words in Korean names, A shares most with B (Dice coefficient over the
names; ties form no pair). Words that are spelt alike in both languages (5, UFO) are left out, since to a model they are
one word. How far the two words name the same concepts then differs from pair to pair.

Reference: Melamed 2000, Models of translational equivalence among words (mutual best, "competitive linking").
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from data_modules.languages import LANGUAGES

Sets = dict[str, set[str]]
"""Word -> the concepts that it names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConceptTexts:
    """What training shows of one concept."""

    names: Mapping[str, tuple[str, ...]]
    """Language -> its names."""
    keywords: Mapping[str, tuple[str, ...]]
    """Language -> its keywords."""
    weight: float = 1.0
    """Passes over it per epoch."""
    cluster: str = ""
    """Concepts of one cluster are alike."""
    kind: str = ""
    """What is pictured, where planted differences ask for it."""
    images: frozenset[str] = frozenset()
    """Keys of its images."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedPair:
    """Two words of one meaning with the concepts that they name in training."""

    ko: str
    en: str
    ko_concepts: frozenset[str]
    en_concepts: frozenset[str]

    @property
    def concepts(self) -> frozenset[str]:
        """Those of either word."""
        return self.ko_concepts | self.en_concepts


def overlap(first: Iterable[str], second: Iterable[str], concepts: Mapping[str, ConceptTexts]) -> float:
    """Shared weight of two sets of concepts by their joint weight (Jaccard index), in [0, 1]; 0 if both are empty."""
    one, other = set(first), set(second)
    joint = sum(concepts[name].weight for name in one | other)
    return sum(concepts[name].weight for name in one & other) / joint if joint else 0.0


def trained_pairs(concepts: Mapping[str, ConceptTexts], min_concepts: int) -> list[TrainedPair]:
    """The pairs of the module docstring, in the order of the Korean words.

    Args:
        concepts: Identifier -> texts.
        min_concepts: Fewest concepts that each word names.
    """
    named: dict[str, Sets] = {}
    shown: dict[str, Sets] = {}
    for language in LANGUAGES:
        vocabulary = {word.lower() for one in concepts.values() for word in one.keywords.get(language, ())}
        named[language], shown[language] = defaultdict(set), defaultdict(set)
        for concept, texts in concepts.items():
            in_names = _words(texts.names.get(language, ())) & vocabulary
            in_keywords = _words(texts.keywords.get(language, ())) & vocabulary
            for word in in_names:
                named[language][word].add(concept)
            for word in in_names | in_keywords:
                shown[language][word].add(concept)
    found = {(ko, en) for ko, en in _mutual_best(*(named[language] for language in LANGUAGES)) if ko != en}
    pairs = [
        TrainedPair(ko=ko, en=en, ko_concepts=frozenset(shown["ko"][ko]), en_concepts=frozenset(shown["en"][en]))
        for ko, en in sorted(found)
    ]
    return [one for one in pairs if min(len(one.ko_concepts), len(one.en_concepts)) >= min_concepts]


def _words(texts: Iterable[str]) -> set[str]:
    """All runs of consecutive words of the texts, in lower case; a colon or a comma ends a run."""
    runs: set[str] = set()
    for text in texts:
        for part in text.lower().replace(",", ":").split(":"):
            words = part.split()
            runs |= {
                " ".join(words[start:stop]) for start in range(len(words)) for stop in range(start + 1, len(words) + 1)
            }
    return runs


def _mutual_best(ko: Sets, en: Sets) -> set[tuple[str, str]]:
    """The pairs whose words are each other's one best match."""
    forward, backward = _best(ko, en), _best(en, ko)
    return {(word, match) for word, match in forward.items() if backward.get(match) == word}


def _best(words: Sets, others: Sets) -> dict[str, str]:
    """Word -> the other word with the highest Dice coefficient, if there is one alone."""
    of_concept: dict[str, list[str]] = defaultdict(list)
    for other, concepts in others.items():
        for concept in concepts:
            of_concept[concept].append(other)
    best = {}
    for word, concepts in words.items():
        shared = Counter(other for concept in concepts for other in of_concept[concept])
        scores = {other: count / (len(concepts) + len(others[other])) for other, count in shared.items()}
        first = [other for other, score in scores.items() if score == max(scores.values())]
        if len(first) == 1:
            best[word] = first[0]
    return best
