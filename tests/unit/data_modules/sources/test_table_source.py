"""Pairs of tables against the rows they were written from."""

from collections.abc import Callable
from typing import Any

import pytest

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from data_modules.sources.tables import TableSource

Rows = list[dict[str, Any]]
WriteTable = Callable[[Rows, str], str]
BOTH = {"en": "name_en", "ko": "name_ko"}


def _source(file: str, **options: Any) -> TableSource:
    source = open_source("emoji", SourceConfig(**{"files": [file], "captions": BOTH} | options))
    assert isinstance(source, TableSource)
    return source


def test_table_source__one_pair_per_row_and_language(rows: Rows, write_table: WriteTable) -> None:
    source = _source(write_table(rows, "a.parquet"), keywords={"ko": "words_ko", "en": "words_en"})
    assert len(source) == 24
    for index in range(24):
        record, row = source[index], rows[index // 2]
        language = ("ko", "en")[index % 2]
        assert record.language == language, "the order of LANGUAGES, not of the configuration"
        assert (record.key, record.image) == (row["key"], row["image"]["bytes"])
        assert record.caption == row[f"name_{language}"]
        assert record.keywords == tuple(row[f"words_{language}"])
        assert record.attributes["design"] == row["design"]
        assert record.attributes["even"] == ("true" if row["even"] else "false")
        assert not {"image", "name_ko", "words_en"} & set(record.attributes)


def test_table_source__one_language_without_keywords(rows: Rows, write_table: WriteTable) -> None:
    source = _source(write_table(rows, "a.parquet"), captions={"en": "name_en"})
    assert [source[index].caption for index in range(len(source))] == [row["name_en"] for row in rows]
    assert source[0].keywords == ()


def test_table_source__where(rows: Rows, write_table: WriteTable) -> None:
    source = _source(write_table(rows, "a.parquet"), where={"design": ["flat"], "even": ["false"]})
    keys = [source[index].key for index in range(len(source))]
    assert keys == ["flat/1", "flat/1", "flat/3", "flat/3", "flat/5", "flat/5"]


def test_table_source__captions_are_those_of_its_records(rows: Rows, write_table: WriteTable) -> None:
    source = _source(write_table(rows, "a.parquet"), keywords={"ko": "words_ko"}, where={"design": ["round"]})
    expected = []
    for index in range(len(source)):
        record = source[index]
        expected += [(record.language, text) for text in (record.caption, *record.keywords)]
    assert list(source.captions()) == expected


def test_table_source__nothing_selected(rows: Rows, write_table: WriteTable) -> None:
    with pytest.raises(DataError, match=r"source 'emoji' has no row with .*oil.*loosen its `where`"):
        _source(write_table(rows, "a.parquet"), where={"design": ["oil"]})


@pytest.mark.parametrize(
    "options",
    [{"captions": {"ko": "titel"}}, {"keywords": {"ko": "titel"}}, {"where": {"titel": ["a"]}}, {"key": "titel"}],
)
def test_table_source__missing_column(rows: Rows, write_table: WriteTable, options: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="no column 'titel'"):
        _source(write_table(rows, "a.parquet"), **options)


def test_table_source__missing_file() -> None:
    with pytest.raises(DataError, match=r"no file matches 'nowhere\.parquet'"):
        _source("nowhere.parquet")


def test_table_source__row_without_caption_or_keywords(rows: Rows, write_table: WriteTable) -> None:
    rows[0] |= {"words_ko": None}
    source = _source(write_table(rows, "a.parquet"), keywords={"ko": "words_ko"})
    assert source[0].keywords == ()
    rows[1] |= {"name_ko": None}
    source = _source(write_table(rows, "b.parquet"))
    assert source[3].caption == rows[1]["name_en"]
    with pytest.raises(SampleFault) as raised:
        source[2]
    assert (raised.value.kind, raised.value.key) == ("caption_missing", rows[1]["key"])
    assert len(list(source.captions())) == 23, "the other captions are there"
