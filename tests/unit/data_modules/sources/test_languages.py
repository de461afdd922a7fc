"""The language rules: which captions an image, a concept and a design are seen with."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from data_modules.errors import DataError
from data_modules.faults import FaultReport, SampleFault
from data_modules.image_text import ImageTextDataConfig, ImageTextDataModule
from data_modules.images.transforms.multi_crop import MultiCropConfig
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.languages import (
    LanguageRule,
    OneLanguageSource,
    apply_language_rule,
    hashed_language,
)
from data_modules.sources.opening import open_source
from data_modules.sources.rows import EveryNth
from data_modules.sources.rows import Rows as RowsOfSource
from data_modules.text.tokenizer import TokenizerConfig

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


def test_rule__captions_are_the_images_own(open_data: Callable[..., ImageTextDataModule]) -> None:
    for record in _records(open_data("by_image")):
        number = record.attributes["number"]
        assert record.caption == {"ko": f"이름 {number}", "en": f"name {number}"}[record.language]


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
        if row[BOTH[wanted]] is None:
            with pytest.raises(SampleFault, match="caption_missing"):
                source[index]
        else:
            assert (source[index].language, source[index].caption) == (wanted, row[BOTH[wanted]])
            used += 1
    assert 0 < used < len(source)


class BareSource:
    """One pair without the columns of the corpus."""

    name = "bare"

    def __len__(self) -> int:
        return 1

    def __getitem__(self, _: int) -> PairRecord:
        return PairRecord(key="k", image=b"", language="ko", caption="c", attributes={"number": "1"})

    def rows_of(self, language: str) -> RowsOfSource:
        return EveryNth(0, 1, int(language == "ko"))

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        return iter([("ko", "c")])

    def opening_faults(self) -> list[FaultReport]:
        return []


def test_rule__names_a_missing_column() -> None:
    with pytest.raises(DataError, match="source 'bare' has no column 'concept'; its columns are number"):
        OneLanguageSource(BareSource(), SourceConfig(files=["x"], captions=BOTH), LanguageRule.by_concept)


def test_rule__one_language_reads_sources_of_single_captions() -> None:
    def opened(**settings: Any) -> int:
        configs = {"bare": SourceConfig(files=["x"], caption_fields=["c"], **settings)}
        return len(apply_language_rule([BareSource()], configs, LanguageRule.ko))

    assert opened(language="ko") == 1
    with pytest.raises(DataError, match="no source has captions in 'ko'"):
        opened(language="en")
    with pytest.raises(DataError, match="the language of source 'bare' is known only from its rows"):
        opened(language="detect")


def test_rule__decided_pair_by_pair_leaves_no_batches_by_language() -> None:
    configs = SourceConfig(files=["x"], captions=BOTH)
    with pytest.raises(DataError, match="by_image decides the language pair by pair"):
        OneLanguageSource(BareSource(), configs, LanguageRule.by_image).rows_of("ko")
    korean = OneLanguageSource(BareSource(), configs, LanguageRule.ko)
    assert (len(korean.rows_of("ko")), len(korean.rows_of("en"))) == (1, 0)


def test_hashed_language__halves_and_the_designs_of_the_corpus() -> None:
    drawn = [hashed_language(f"image {number}") for number in range(2000)]
    assert 900 < drawn.count("ko") < 1100
    designs = {name: hashed_language(name) for name in ("twemoji", "fluent", "fluent_flat", "emojione")}
    assert designs == {"twemoji": "ko", "fluent": "ko", "fluent_flat": "en", "emojione": "en"}
