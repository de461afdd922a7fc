"""Pairs of Korean and English words with the same meaning, from a YAML file."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import yaml

from data_modules.errors import DataError
from data_modules.languages import LANGUAGES
from data_modules.paths import resolve_path

_FORM = "`pairs` and `controls`, each topic -> a list of [Korean, English]"


@dataclass(frozen=True, slots=True, kw_only=True)
class WordPair:
    """A Korean and an English word with the same meaning."""

    ko: str
    en: str
    topic: str
    control: bool = False
    """Expected to retrieve the same images in both languages."""


def read_word_pairs(file: str) -> list[WordPair]:
    """The pairs of a YAML file (may be a `package:` path) in its order, control pairs last.

    Raises:
        DataError: The file is missing or malformed, or a word occurs in two pairs.
    """
    path = resolve_path(file)
    if not path.is_file():
        raise DataError(f"word pairs {path} do not exist; correct word_pairs")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
        pairs = [*_pairs(tree["pairs"], False), *_pairs(tree["controls"], True)]
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError, ValueError) as error:
        raise DataError(f"{path} needs {_FORM} ({error})") from error
    for language in ("ko", "en"):
        words = [getattr(pair, language) for pair in pairs]
        if twice := next((word for word in words if words.count(word) > 1), None):
            raise DataError(f"{path}: '{twice}' occurs in two pairs; keep one of them")
    return pairs


def _pairs(topics: dict[str, Any], control: bool) -> Iterator[WordPair]:
    for topic, words in topics.items():
        for pair in words:
            if not isinstance(pair, list) or len(pair) != len(LANGUAGES):
                raise ValueError(f"{pair!r} in {topic} is no pair [Korean, English]")
            ko, en = pair
            if not (isinstance(ko, str) and isinstance(en, str) and ko.strip() and en.strip()):
                raise ValueError(f"[{ko!r}, {en!r}] in {topic} are no two words")
            yield WordPair(ko=ko, en=en, topic=topic, control=control)


def nonsense_words(words: Sequence[str], seed: int) -> list[str]:
    """Words of the same number and lengths, with all characters except spaces shuffled over the whole list."""
    characters = [character for word in words for character in word if character != " "]
    shuffled = iter(np.random.default_rng(seed).permutation(characters).tolist())
    return ["".join(" " if character == " " else next(shuffled) for character in word) for word in words]
