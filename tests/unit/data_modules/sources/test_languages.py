"""Languages of pairs: rows by language against a plain search, and the rules that give an image one language."""

import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.config import ImageTextDataConfig, OrderConfig
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.image_text import ImageTextDataModule
from data_modules.images.config import MultiCropConfig
from data_modules.languages import LANGUAGES
from data_modules.order.mixture import build_order
from data_modules.records import PairRecord
from data_modules.sources.config import LanguageRule, SourceConfig
from data_modules.sources.languages import OneLanguageSource, apply_language_rule, hashed_language, marked_rows
from data_modules.sources.opening import open_source
from data_modules.sources.tar_index import ShardIndex
from data_modules.sources.tar_source import TarSource
from data_modules.text.config import TokenizerConfig
from tests.unit.data_modules.corpora import FakeSource, samples, write_shards
from tests.unit.data_modules.one_by_one import records_alone, records_together

Rows = list[dict[str, Any]]
BOTH = {"ko": "name_ko", "en": "name_en"}


@pytest.fixture
def open_data(rows: Rows, write_table: Callable[[Rows, str], str]) -> Callable[..., ImageTextDataModule]:
    file = write_table(rows, "a.parquet")

    def build(languages: str, captions: dict[str, str] | None = None, **sources: dict[str, str]) -> ImageTextDataModule:
        named = {"all": captions or BOTH} | sources
        configs = {name: SourceConfig(files=[file], captions=one) for name, one in named.items()}
        config = ImageTextDataConfig(sources=configs, languages=LanguageRule[languages], global_batch_size=4)
        return ImageTextDataModule(config, MultiCropConfig(), TokenizerConfig(vocab_size=300), seed=0, max_steps=1)

    return build


def _records(data: ImageTextDataModule) -> list[PairRecord]:
    return [source[index] for source in data.sources for index in range(len(source))]


def _seen(data: ImageTextDataModule, identity: Callable[[PairRecord], str]) -> dict[str, set[str]]:
    seen: dict[str, set[str]] = defaultdict(set)
    for record in _records(data):
        seen[identity(record)].add(record.language)
    return seen


IDENTITIES: dict[str, Callable[[PairRecord], str]] = {
    "by_image": lambda record: record.key,
    "by_concept": lambda record: record.attributes["concept"],
    "by_design": lambda record: record.attributes["design"],
}


@pytest.mark.parametrize("rule", list(IDENTITIES))
def test_rule__each_has_one_language_and_both_occur(rule: str, open_data: Callable[..., ImageTextDataModule]) -> None:
    seen = _seen(open_data(rule), IDENTITIES[rule])
    assert {len(languages) for languages in seen.values()} == {1}
    expected = {value: {hashed_language(value)} for value in seen}
    assert seen == expected


@pytest.mark.parametrize("rule", ["by_image", "by_concept", "ko", "en"])
def test_rule__same_images_in_the_same_order(rule: str, open_data: Callable[..., ImageTextDataModule]) -> None:
    plain, ruled = open_data("both"), open_data(rule)
    assert [record.key for record in _records(ruled)] == [record.key for record in _records(plain)]
    assert [record.image for record in _records(ruled)] == [record.image for record in _records(plain)]
    assert ruled.order.batch(0).tolist() == plain.order.batch(0).tolist()


def test_rule__one_language_alone(open_data: Callable[..., ImageTextDataModule]) -> None:
    assert {record.language for record in _records(open_data("ko"))} == {"ko"}
    both = _seen(open_data("both"), IDENTITIES["by_image"])
    assert all(languages == {"ko", "en"} for languages in both.values())


def test_rule__one_language_leaves_out_sources_that_lack_it(open_data: Callable[..., ImageTextDataModule]) -> None:
    data = open_data("en", {"ko": "name_ko"}, english={"en": "name_en"})
    assert [source.name for source in data.sources] == ["english"]
    with pytest.raises(DataError, match="no source has captions in 'en'"):
        open_data("en", {"ko": "name_ko"})


def test_rule__by_image_keeps_sources_of_one_language(open_data: Callable[..., ImageTextDataModule]) -> None:
    assert {record.language for record in _records(open_data("by_image", {"ko": "name_ko"}))} == {"ko"}


def test_rule__by_concept_refuses_a_source_of_one_language(open_data: Callable[..., ImageTextDataModule]) -> None:
    with pytest.raises(DataError, match="source 'all' has captions in one language only"):
        open_data("by_concept", {"ko": "name_ko"})


def test_rule__tokenizer_is_the_same_under_every_rule(open_data: Callable[..., ImageTextDataModule]) -> None:
    captions = ["이름 3", "name 4"]
    expected = open_data("both").tokenizer.encode(captions).tolist()
    assert open_data("by_image").tokenizer.encode(captions).tolist() == expected
    assert open_data("ko").tokenizer.encode(captions).tolist() == expected


@pytest.mark.parametrize("rule", ["by_image", "by_concept", "ko", "en"])
def test_rule__a_pair_without_its_caption_still_gives_its_twin(
    rule: str, rows: Rows, write_table: Callable[[Rows, str], str]
) -> None:
    for number, row in enumerate(rows):
        row["name_ko" if number % 2 else "name_en"] = None
    config = SourceConfig(files=[write_table(rows, "a.parquet")], captions=BOTH)
    opened = open_source("all", config)
    source = apply_language_rule([opened], {"all": config}, LanguageRule[rule])[0]
    used = 0
    for index in range(len(source)):
        row = rows[index // 2]
        wanted = rule if rule in BOTH else hashed_language(row["key" if rule == "by_image" else "concept"])
        if row[BOTH[wanted]] is None and rule in BOTH:
            with pytest.raises(SampleFault, match="other_language_only"):
                source[index]
        elif row[BOTH[wanted]] is None:  # the image has captions in the other language only
            other = "en" if wanted == "ko" else "ko"
            assert (source[index].language, source[index].caption) == (other, row[BOTH[other]])
        else:
            assert (source[index].language, source[index].caption) == (wanted, row[BOTH[wanted]])
            used += 1
    assert 0 < used < len(source)
    drawn = source.pairs().take(np.arange(len(source.pairs()))).tolist()
    assert len(drawn) == len(rows)
    assert {index // 2 for index in drawn} == {i for i, row in enumerate(rows) if rule not in BOTH or row[BOTH[rule]]}
    assert all(isinstance(one, PairRecord) for one in source.records(drawn))


@pytest.mark.parametrize("rule", ["by_image", "by_concept", "ko", "en"])
@pytest.mark.parametrize("damaged", [False, True])
def test_rule__records_together_are_those_read_alone(
    rule: str, damaged: bool, rows: Rows, write_table: Callable[[Rows, str], str]
) -> None:
    for number, row in enumerate(rows if damaged else []):
        row[("name_ko", "name_en", "number")[number % 3]] = None
        row["image"] = {"bytes": None} if number == 5 else row["image"]
    config = SourceConfig(files=[write_table(rows, "a.parquet")], captions=BOTH)
    (source,) = apply_language_rule([open_source("all", config)], {"all": config}, LanguageRule[rule])
    indices = [*range(len(source)), 4, 4, 0][::-1]
    assert records_together(source, indices) == records_alone(source, indices)


BARE = FakeSource("bare", ["ko"], {"number": "1"})


def test_rule__names_a_missing_column() -> None:
    with pytest.raises(DataError, match="source 'bare' has no column 'concept'; its records have number; add it, or"):
        OneLanguageSource(BARE, SourceConfig(files=["x"], captions=BOTH), LanguageRule.by_concept)


def test_rule__one_language_reads_sources_of_single_captions() -> None:
    def opened(**settings: Any) -> int:
        configs = {"bare": SourceConfig(files=["x"], caption_fields=["c"], **settings)}
        return len(apply_language_rule([BARE], configs, LanguageRule.ko))

    assert opened(language="ko") == 1
    with pytest.raises(DataError, match="no source has captions in 'ko'"):
        opened(language="en")
    with pytest.raises(DataError, match="the language of source 'bare' is known only from its rows"):
        opened(language="detect")


def test_rule__decided_pair_by_pair_leaves_no_batches_by_language() -> None:
    configs = SourceConfig(files=["x"], captions=BOTH)
    with pytest.raises(DataError, match="by_image decides the language pair by pair"):
        OneLanguageSource(BARE, configs, LanguageRule.by_image).rows_of("ko")
    korean = OneLanguageSource(FakeSource("two", ["ko", "en"]), configs, LanguageRule.ko)
    assert (len(korean.rows_of("ko")), len(korean.rows_of("en"))) == (2, 0)


def test_hashed_language__an_overlap_takes_from_both_and_changes_no_other() -> None:
    values = [f"image {number}" for number in range(4000)]
    alone = [hashed_language(value) for value in values]
    kept: set[str] = set()
    for overlap in (0.1, 0.5, 0.9):
        found = [hashed_language(value, overlap) for value in values]
        both = {value for value, language in zip(values, found, strict=True) if language is None}
        assert abs(len(both) / len(values) - overlap) < 3 * 0.5 / len(values) ** 0.5
        assert kept < both, "a larger overlap only adds"
        assert all(new in (None, old) for new, old in zip(found, alone, strict=True))
        assert abs(alone_share(alone, found) - 0.5) < 0.05, "of those that it takes half were Korean"
        kept = both
    assert {hashed_language(value, 1.0) for value in values} == {None}


def alone_share(alone: list[str | None], found: list[str | None]) -> float:
    """Share of Korean among the values that an overlap gave both languages."""
    taken = [old for old, new in zip(alone, found, strict=True) if new is None]
    return taken.count("ko") / len(taken)


@pytest.mark.parametrize("overlap", [0.0, 0.5, 1.0])
def test_rule__an_overlap_leaves_some_images_in_both_languages(
    overlap: float, rows: Rows, write_table: Callable[[Rows, str], str]
) -> None:
    config = SourceConfig(files=[write_table(rows, "a.parquet")], captions=BOTH)
    opened = open_source("all", config)
    (source,) = apply_language_rule([opened], {"all": config}, LanguageRule.by_image, overlap)
    for index in range(len(source)):
        language = hashed_language(rows[index // 2]["key"], overlap) or ("ko", "en")[index % 2]
        assert (source[index].language, source[index].caption) == (language, rows[index // 2][BOTH[language]])


def test_overlap__is_refused_without_a_hash() -> None:
    sources = {"a": SourceConfig(files=["x"], captions=BOTH)}
    ImageTextDataConfig(sources=sources, languages=LanguageRule.by_concept, language_overlap=0.1)
    with pytest.raises(ValueError, match=r"language_overlap = 0\.1 has no effect with languages = both"):
        ImageTextDataConfig(sources=sources, language_overlap=0.1)


def test_hashed_language__halves_and_the_designs_of_the_corpus() -> None:
    languages = [hashed_language(f"image {number}") for number in range(2000)]
    assert 900 < languages.count("ko") < 1100
    designs = {name: hashed_language(name) for name in ("twemoji", "fluent", "fluent_flat", "emojione")}
    assert designs == {"twemoji": "ko", "fluent": "ko", "fluent_flat": "en", "emojione": "en"}


KINDS = {
    "mixed": np.random.default_rng(0).choice(3, p=[0.3, 0.6, 0.1], size=70_001).astype(np.int8),
    "long runs and empty blocks": np.repeat(np.arange(12) % 3, 6_000).astype(np.int8),
    "around a block": np.repeat([0, 1, 0, 2, 1, 0], [511, 1, 512, 513, 1023, 7]).astype(np.int8),
    "one row": np.array([1], dtype=np.int8),
    "one language": np.zeros(1024, dtype=np.int8),
    "none": np.empty(0, dtype=np.int8),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_marked_rows__are_those_of_a_plain_search_in_any_order(name: str, language: str) -> None:
    marks = KINDS[name]
    rows = marked_rows(lambda start, stop: marks[start:stop], len(marks))[language]
    expected = np.flatnonzero(marks == LANGUAGES.index(language))
    assert len(rows) == len(expected)
    positions = np.random.default_rng(1).permutation(len(expected))
    assert rows.take(positions).tolist() == expected[positions].tolist()
    assert rows.take(positions).dtype == np.int64
    with pytest.raises(IndexError):
        rows.take(np.array([len(expected)]))


def test_marked_rows__100_million_pairs_are_read_once_and_indexed_fast() -> None:
    """Marks repeat every 2^20 rows, so that the expected indices follow from one period."""
    length, period = 100_000_000, 1 << 20
    pattern = np.random.default_rng(2).choice(3, p=[0.3, 0.69, 0.01], size=period).astype(np.int8)
    asked = [0]

    def marks(start: int, stop: int) -> Any:
        asked[0] += stop - start
        assert start % period + stop - start <= period, "runs divide the period"
        return pattern[start % period : start % period + stop - start]

    by_language = marked_rows(marks, length)
    assert asked[0] == length
    for mark, language in enumerate(LANGUAGES):
        rows, once = by_language[language], np.flatnonzero(pattern == mark)
        assert rows.nbytes < 0.15 * length
        positions = np.random.default_rng(3).integers(0, len(rows), 8192)
        started = time.perf_counter()
        found = rows.take(positions)
        assert time.perf_counter() - started < 0.5, "about 0.01 s on an idle core"
        assert found.tolist() == (positions // len(once) * period + once[positions % len(once)]).tolist()
    assert asked[0] == length


def test_tar_source__languages_are_read_once_and_never_for_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TarSource("s", SourceConfig(files=[write_shards(tmp_path, samples(31), 6)], caption_fields=["txt"]))
    read: list[int] = []
    rows = ShardIndex.rows

    def counted(index: ShardIndex, start: int, stop: int) -> Any:
        read.extend(range(start, stop))
        return rows(index, start, stop)

    monkeypatch.setattr(ShardIndex, "rows", counted)
    configs = {"s": source.config}
    for single in (True, False):
        config = OrderConfig(single_language_batches=single, language_weights={"ko": 2.0})
        orders = [build_order([source], configs, batch, 0, config) for batch in (1, 8)]
    assert read == list(range(31))
    for step in range(20):
        orders[1].batch(step)
    assert len(read) == 31
