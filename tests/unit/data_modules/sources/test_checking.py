"""What is refused, and what is told, when the sources of a run are opened."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data_modules.errors import DataError
from data_modules.loading import open_sources
from data_modules.order.mixture import build_order
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from tests.unit.data_modules.conftest import Rows
from tests.unit.data_modules.corpora import FakeSource, members, picture, samples, write_tar

WriteTable = Callable[[Rows, str], str]
BOTH = {"ko": "ko", "en": "en"}


def rows(number: int, **changes: Any) -> Rows:
    """Pairs with a caption in both languages, unless changed: column -> a function of the row's number."""
    made = [
        {"key": f"k{i}", "image": {"bytes": picture(0)}, "ko": f"고양이 사진 {i}", "en": f"a cat {i}"}
        for i in range(number)
    ]
    return [row | {column: change(i) for column, change in changes.items()} for i, row in enumerate(made)]


def opened(file: str, **settings: Any) -> Any:
    config = SourceConfig(files=[file], **({"captions": BOTH} | settings))
    return open_sources({"s": config})[0]


def test_captions__swapped_columns_are_refused_with_their_shares(write_table: WriteTable) -> None:
    file = write_table(rows(9), "a.parquet")
    with pytest.raises(DataError) as error:
        opened(file, captions={"ko": "en", "en": "ko"})
    message = str(error.value)
    assert "by the letters of 9 evenly spaced rows" in message
    assert "'en', named as Korean, is 0% Hangul and 'ko', named as English, is 100% Hangul" in message
    assert "swap them (captions: {ko: ko, en: en}), or set check_languages: false" in message
    assert "\n" not in message
    assert len(opened(file, captions={"ko": "en", "en": "ko"}, check_languages=False)) == 18
    opened(file)


def test_captions__one_wrong_column_and_one_wrong_language(write_table: WriteTable) -> None:
    file = write_table(rows(9, ko=lambda i: f"a photo {i}"), "a.parquet")
    with pytest.raises(DataError, match=r"'ko', named as Korean, is 0% .*: correct captions for 'ko', or set"):
        opened(file)
    with pytest.raises(DataError, match="correct language for 'ko'"):
        opened(file, captions={}, caption_fields=["ko"], language="ko")
    opened(file, captions={}, caption_fields=["ko"])  # detected


def test_captions__brand_names_among_korean_and_a_few_korean_words_among_english_pass(write_table: WriteTable) -> None:
    mixed = rows(9, ko=lambda i: f"Samsung Galaxy S{i} 케이스", en=lambda i: f"a bowl of bibimbap 비빔밥 {i}")
    opened(write_table(mixed, "a.parquet"))


def test_captions__swapped_in_shards(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "a.tar", members(samples(20)))
    korean = [one for one in members(samples(20)) if int(one[0][:9]) % 2 == 0]
    with pytest.raises(DataError, match=r"10 evenly spaced rows, 'txt', named as English, is 100% Hangul"):
        opened(str(write_tar(tmp_path / "b.tar", korean)), captions={"en": "txt"})
    with pytest.raises(DataError, match=r"no text in 'titel' in any of 20 .*; their fields are caption, lang, width"):
        opened(str(file), captions={"en": "titel"})


@pytest.mark.parametrize("empty", [None, "", " \u3000"])
def test_captions__a_wholly_empty_column_is_refused(write_table: WriteTable, empty: str | None) -> None:
    file = write_table(rows(5, en=lambda _: empty), "a.parquet")
    with pytest.raises(DataError, match="source 's': the caption column 'en' is empty in all 5 rows; remove it from c"):
        opened(file)


def test_captions__half_translated_rows_are_used_for_their_language(
    write_table: WriteTable, caplog: pytest.LogCaptureFixture
) -> None:
    table = rows(20, ko=lambda i: None if i % 4 == 0 else "고양이", en=lambda i: " " if i % 5 == 1 else "a cat")
    with caplog.at_level(logging.INFO):
        source = opened(write_table(table, "a.parquet"))
    assert "5 of 20 rows have no Korean caption" in caplog.text
    assert "4 of 20 rows have no English caption" in caplog.text
    expected = [2 * i + pair for i in range(20) for pair, blank in ((0, i % 4 == 0), (1, i % 5 == 1)) if not blank]
    assert source.pairs().take(np.arange(len(source.pairs()))).tolist() == expected
    assert len(source.rows_of("ko")) == 15 and len(source.rows_of("en")) == 16
    order = build_order([source], {"s": source.config}, 31, 0)
    assert order.epoch_length == 31
    assert sorted(order.batch(0).tolist()) == expected
    assert all(isinstance(one, PairRecord) for one in source.records(order.batch(1).tolist()))


def test_captions__empty_lists_and_fields_of_one_language(write_table: WriteTable) -> None:
    lists: list[list[str | None] | None] = [["a"], [], None, [None, ""], ["b", None]]
    file = write_table(rows(5, en=lambda i: lists[i], ko=lambda i: None if i != 1 else "고양이"), "a.parquet")
    source = open_source("s", SourceConfig(files=[file], captions={"en": "en"}))
    assert source.pairs().take(np.arange(len(source.pairs()))).tolist() == [0, 4]
    source = open_source("s", SourceConfig(files=[file], caption_fields=["en", "ko"]))
    assert source.pairs().take(np.arange(len(source.pairs()))).tolist() == [0, 1, 4]


def test_order__of_a_table_without_empty_cells_is_that_of_its_length(write_table: WriteTable) -> None:
    source = opened(write_table(rows(20), "a.parquet"))
    fake = FakeSource("s", ["ko", "en"] * 20)
    orders = [build_order([one], {"s": source.config}, 7, 5) for one in (source, fake)]
    assert [orders[0].batch(step).tolist() for step in range(9)] == [
        orders[1].batch(step).tolist() for step in range(9)
    ]


def test_paths__that_lead_nowhere_are_refused_at_the_start(tmp_path: Path) -> None:
    def table(path: str) -> str:
        lines = ["image,ko,en", *(f"{path}{i}.jpg,고양이 {i},cat {i}" for i in range(9))]
        (tmp_path / "a.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(tmp_path / "a.csv")

    (tmp_path / "photos").mkdir()
    for number in range(9):
        (tmp_path / "photos" / f"{number}.jpg").write_bytes(picture(number))
    with pytest.raises(DataError, match=r"none of 9 evenly spaced rows .*/0\.jpg.*; name the folder .* image_root"):
        opened(table(""))
    assert opened(table(""), image_root=str(tmp_path / "photos"))[0].image == picture(0)
    with pytest.raises(DataError, match="image_root = nowhere is no folder; correct the path"):
        opened(table(""), image_root="nowhere")
    for path in (f"{tmp_path}/photos/", f"../{tmp_path.name}/photos/"):
        with pytest.raises(DataError, match=r"is absolute or leaves .*, or set allow_absolute_paths: true"):
            opened(table(path))
        assert opened(table(path), allow_absolute_paths=True)[2].image == picture(1)
