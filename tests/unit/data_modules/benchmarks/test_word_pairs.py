"""The word pairs that ship, and files that are wrong."""

import re
import unicodedata
from collections import Counter
from pathlib import Path

import pytest
import yaml

from data_modules.benchmarks.word_pairs import WordPair, nonsense_words, read_word_pairs
from data_modules.errors import DataError

SHIPPED = "package:assets/word_pairs.yaml"


def test_read_word_pairs__the_file_that_ships() -> None:
    pairs = read_word_pairs(SHIPPED)
    topics = Counter(pair.topic for pair in pairs if not pair.control)
    assert set(topics) == {"food", "clothing", "houses", "school", "holidays", "family", "body", "nature"}
    assert sum(topics.values()) >= 120
    assert min(topics.values()) >= 15
    assert sum(pair.control for pair in pairs) >= 40
    for pair in pairs:
        assert re.fullmatch("[가-힣]+( [가-힣]+)*", pair.ko), pair
        assert re.fullmatch("[A-Za-z]+('s|s')?( [A-Za-z]+('s|s')?)*", pair.en), pair
        assert unicodedata.is_normalized("NFC", pair.ko)


def test_read_word_pairs__order_topics_and_controls(tmp_path: Path) -> None:
    file = write(tmp_path, {"pairs": {"food": [["밥", "rice"]]}, "controls": {"sky": [["달", "moon"]]}})
    assert read_word_pairs(file) == [
        WordPair(ko="밥", en="rice", topic="food"),
        WordPair(ko="달", en="moon", topic="sky", control=True),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"pairs": {"food": [["밥", "rice"]]}}, "needs `pairs` and `controls`"),
        ({"pairs": {"food": [["밥"]]}, "controls": {}}, "needs `pairs` and `controls`"),
        ({"pairs": {"food": [["밥", 3]]}, "controls": {}}, "are no two words"),
        ({"pairs": {"food": [["밥", "rice"], ["국", "rice"]]}, "controls": {}}, "'rice' occurs in two pairs"),
        ([], "needs `pairs` and `controls`"),
        ({"pairs": {"food": ["사과"]}, "controls": {}}, "'사과' in food is no pair"),
        ({"pairs": {"food": [{"밥": 1, "rice": 2}]}, "controls": {}}, "in food is no pair"),
        ({"pairs": {"food": "밥국"}, "controls": {}}, "needs `pairs` and `controls`"),
        ({"pairs": {"food": [["밥", " "]]}, "controls": {}}, "are no two words"),
    ],
)
def test_read_word_pairs__files_that_are_wrong(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_word_pairs(write(tmp_path, content))


def test_read_word_pairs__missing_or_no_yaml(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not exist; correct word_pairs"):
        read_word_pairs(str(tmp_path / "nowhere.yaml"))
    (tmp_path / "pairs.yaml").write_text("pairs: [", encoding="utf-8")
    with pytest.raises(DataError, match="needs `pairs`"):
        read_word_pairs(str(tmp_path / "pairs.yaml"))


def test_nonsense_words__same_characters_and_lengths() -> None:
    words = [pair.ko for pair in read_word_pairs(SHIPPED)]
    made_up = nonsense_words(words, seed=1)
    assert [len(word) for word in made_up] == [len(word) for word in words]
    assert [word.count(" ") for word in made_up] == [word.count(" ") for word in words]
    assert Counter("".join(made_up)) == Counter("".join(words))
    assert len(set(made_up) & set(words)) < len(words) / 10
    assert made_up == nonsense_words(words, seed=1) != nonsense_words(words, seed=2)


def write(folder: Path, content: object) -> str:
    file = folder / "pairs.yaml"
    file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return str(file)
