"""Planted differences: images per language under the words of planted pairs and of controls, counted pair by pair."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from data_modules.config import ImageTextDataConfig, OrderConfig
from data_modules.errors import DataError
from data_modules.image_text import ImageTextDataModule
from data_modules.images.config import MultiCropConfig
from data_modules.records import PairRecord
from data_modules.sources.config import LanguageRule, PlantedConfig, SourceConfig
from data_modules.sources.opening import open_source
from data_modules.sources.planted import PlantedPair, choose_pairs, read_concepts
from data_modules.text.config import TokenizerConfig
from tests.unit.data_modules.conftest import encode

Rows = list[dict[str, Any]]
NUM_WORDS, PER_WORD, DESIGNS = 10, 6, ("round", "flat", "thin", "bold")
PICTURE = encode(np.full((24, 24, 3), 99, dtype=np.uint8))
CAPTIONS = {"ko": "name_ko", "en": "name_en"}
KEYWORDS = {"ko": "words_ko", "en": "words_en"}
KINDS = ("animal", "food", "sign", "animal", "sign", "animal")
"""Of the concepts of every second word; the others' are all drinks."""
PLANTED = PlantedConfig(num_pairs=4, num_controls=3, min_concepts=4)


@pytest.fixture
def file(write_table: Callable[[Rows, str], str]) -> str:
    """Word w names concepts 6 w ... 6 w + 5, each in four designs, in both languages."""
    rows: Rows = []
    for word in range(NUM_WORDS):
        for place in range(PER_WORD):
            concept = f"{word:02}-{place}"
            rows += [
                {
                    "key": f"{design}/{concept}",
                    "image": {"bytes": PICTURE},
                    "concept": concept,
                    "kind": "drink" if word % 2 else KINDS[place],
                    "name_ko": f"낱말{word} {place}째",
                    "name_en": f"word{word} part{place}",
                    "words_ko": [f"낱말{word}"],
                    "words_en": [f"word{word}"],
                }
                for design in DESIGNS
            ]
    return write_table(rows, "words.parquet")


def settings(file: str, **more: Any) -> ImageTextDataConfig:
    source = SourceConfig(files=[file], captions=CAPTIONS, keywords=KEYWORDS, attributes=["kind"])
    return ImageTextDataConfig(sources={"all": source}, global_batch_size=4, **more)


def opened(config: ImageTextDataConfig) -> ImageTextDataModule:
    return ImageTextDataModule(config, MultiCropConfig(), TokenizerConfig(vocab_size=300), seed=0, max_steps=1)


def chosen(file: str, planted: PlantedConfig = PLANTED) -> list[PlantedPair]:
    configs = settings(file).sources
    sources = [open_source(name, one) for name, one in configs.items()]
    return choose_pairs(read_concepts(sources, configs, planted.column, kind=planted.kind), planted)


def records(data: ImageTextDataModule) -> list[PairRecord]:
    return [source[index] for source in data.sources for index in range(len(source))]


def test_planted__counts_of_images_per_language_under_the_words(file: str) -> None:
    images: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record in records(opened(settings(file, planted=PLANTED))):
        images[record.keywords[0]][record.language].add(record.key)
    for one in chosen(file):
        seen = {
            "ko": images[one.pair.ko]["ko"],
            "en": images[one.pair.en]["en"],
        }
        concepts = {language: {key.split("/")[1] for key in keys} for language, keys in seen.items()}
        assert not seen["ko"] & seen["en"]
        assert len(seen["ko"] | seen["en"]) == PER_WORD * len(DESIGNS)
        if one.planted:
            assert {language: len(keys) for language, keys in seen.items()} == {"ko": 12, "en": 12}
            assert not concepts["ko"] & concepts["en"]
            assert {len(one) for one in concepts.values()} == {PER_WORD // 2}
            # The first half of the identifiers is in one language.
            assert {max(concepts["ko"]) < min(concepts["en"]), max(concepts["en"]) < min(concepts["ko"])} == {
                True,
                False,
            }
        else:
            assert {language: len(keys) for language, keys in seen.items()} == {"ko": 12, "en": 12}
            assert concepts["ko"] == concepts["en"]
            assert {len(one) for one in concepts.values()} == {PER_WORD}
    touched = {word for one in chosen(file) for word in (one.pair.ko, one.pair.en)}
    others = {word: found for word, found in images.items() if word not in touched}
    assert len(others) == 2 * (NUM_WORDS - 7)
    assert {len(keys) for found in others.values() for keys in found.values()} == {PER_WORD * len(DESIGNS)}


def test_planted__words_of_unsplit_controls_have_as_many_captions_on_all_images(file: str) -> None:
    planted = PlantedConfig(num_pairs=4, num_controls=3, split_controls=False)
    images: dict[str, list[str]] = defaultdict(list)
    for record in records(opened(settings(file, planted=planted))):
        images[record.keywords[0]].append(record.key)
    for one in chosen(file, planted):
        for word in (one.pair.ko, one.pair.en):
            assert len(images[word]) == PER_WORD * len(DESIGNS)
            assert len(set(images[word])) == PER_WORD * len(DESIGNS) // (2 if one.planted else 1)


def test_planted__same_images_in_the_same_order(file: str) -> None:
    plain, planted = opened(settings(file)), opened(settings(file, planted=PLANTED))
    assert [one.key for one in records(planted)] == [one.key for one in records(plain)]
    assert planted.order.batch(0).tolist() == plain.order.batch(0).tolist()


def test_choose_pairs__follow_from_the_seed_and_share_no_concept(file: str) -> None:
    assert chosen(file) == chosen(file)
    others = [chosen(file, PlantedConfig(num_pairs=4, num_controls=3, seed=seed)) for seed in range(1, 6)]
    assert len({tuple(one.pair.ko for one in found) for found in others}) > 1
    for found in others:
        assert [one.planted for one in found] == [True] * 4 + [False] * 3
        concepts = [concept for one in found for concept in one.pair.concepts]
        assert len(concepts) == len(set(concepts))
        assert all(one.concepts_in("ko") == one.concepts_in("en") for one in found if not one.planted)
        assert all(not one.concepts_in("ko") & one.concepts_in("en") for one in found if one.planted)


def test_choose_pairs__halves_that_picture_different_kinds(file: str) -> None:
    found = chosen(file, PlantedConfig(num_pairs=2, num_controls=3, kind="kind"))
    assert sorted(one.pair.en for one in found) == [f"word{word}" for word in range(0, NUM_WORDS, 2)]
    for one in found[:2]:
        halves = [{int(concept.split("-")[1]) for concept in one.concepts_in(language)} for language in ("ko", "en")]
        assert sorted(halves, key=min) == [{0, 3, 5}, {1, 2, 4}]  # animals; the rest
    with pytest.raises(DataError, match=r"finds 5; .* or leave kind out"):
        chosen(file, PlantedConfig(num_pairs=3, num_controls=3, kind="kind"))
    with pytest.raises(DataError, match="no column 'colour'"):
        chosen(file, PlantedConfig(num_pairs=1, num_controls=1, kind="colour"))


def test_planted__languages_of_the_kinds_in_training(file: str) -> None:
    planted = PlantedConfig(num_pairs=2, num_controls=3, kind="kind")
    names = {one.pair.ko: one for one in chosen(file, planted) if one.planted}
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for record in records(opened(settings(file, planted=planted))):
        word = f"낱말{int(record.key.split('/')[1].split('-')[0])}"
        seen[word][record.language].add(KINDS[int(record.key[-1])])
    assert len(names) == 2
    for word in names:
        assert sorted(map(sorted, seen[word].values())) == [["animal"], ["food", "sign"]]


def test_choose_pairs__too_few(file: str) -> None:
    with pytest.raises(DataError, match="needs 12 word pairs without a common concept, and finds 10; lower num_pairs"):
        chosen(file, PlantedConfig(num_pairs=6, num_controls=6))
    with pytest.raises(DataError, match="finds 0"):
        chosen(file, PlantedConfig(num_pairs=1, num_controls=1, min_concepts=7))


def test_read_concepts__a_missing_column(file: str) -> None:
    with pytest.raises(DataError, match="no column 'family'"):
        chosen(file, PlantedConfig(num_pairs=1, num_controls=1, column="family"))


def test_config__refuses_what_planted_cannot_be_combined_with(file: str) -> None:
    with pytest.raises(ValueError, match="planted gives pairs a language, and so does languages = by_image"):
        settings(file, planted=PLANTED, languages=LanguageRule.by_image)
    with pytest.raises(ValueError, match=r"planted.kind = 'colour' is no column that the records of source 'all' keep"):
        settings(file, planted=PlantedConfig(kind="colour"))
    with pytest.raises(ValueError, match="single_language_batches have no languages to go by"):
        settings(file, planted=PLANTED, order=OrderConfig(single_language_batches=True))
    bare = SourceConfig(files=[file], captions=CAPTIONS)
    with pytest.raises(ValueError, match="source 'all' is none"):
        ImageTextDataConfig(sources={"all": bare}, planted=PLANTED)
    with pytest.raises(ValueError, match="max_concepts = 3 is below min_concepts = 4"):
        PlantedConfig(min_concepts=4, max_concepts=3)
