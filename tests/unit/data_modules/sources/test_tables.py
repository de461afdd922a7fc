"""Tables: rows, conditions, damaged files, and pairs against the rows that they were written from."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from data_modules.sources.tables import (
    TableSource,
    as_text,
    identities,
    matching_rows,
    open_paths_table,
    open_table,
    read_rows,
)
from tests.unit.data_modules.one_by_one import records_alone, records_together

Rows = list[dict[str, Any]]
WriteTable = Callable[[Rows, str], str]
COLUMNS = ["key", "name_ko"]


def test_open_table__files_follow_one_another(rows: Rows, write_table: WriteTable) -> None:
    files = [write_table(rows[6:], "a.parquet"), write_table(rows[:6], "b.parquet")]
    table = open_table(files, "image", COLUMNS)
    assert list(table["key"]) == [row["key"] for row in rows[6:] + rows[:6]]
    assert table[0]["image"]["bytes"] == rows[6]["image"]["bytes"], "left encoded"


def test_open_table__progress_bars_stay_as_they_were(rows: Rows, write_table: WriteTable) -> None:
    before = datasets.are_progress_bars_disabled()
    open_table([write_table(rows, "a.parquet")], "image", COLUMNS)
    assert datasets.are_progress_bars_disabled() == before


def test_open_table__a_rewritten_file_is_read_anew(rows: Rows, write_table: WriteTable) -> None:
    file = write_table(rows, "a.parquet")
    assert len(open_table([file], "image", COLUMNS)) == 12
    write_table(rows[:4], "a.parquet")
    assert len(open_table([file], "image", COLUMNS)) == 4


def test_open_table__names_a_missing_column_and_those_present(rows: Rows, write_table: WriteTable) -> None:
    file = write_table(rows, "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet has no column 'titel'; its columns are concept, design, even"):
        open_table([file], "image", ["key", "titel"])


@pytest.mark.parametrize(
    "damage",
    [
        lambda _: b"",
        lambda _: b"PAR1",
        lambda _: b"not a table at all",
        lambda content: content[:-100],
        lambda content: content[:4] + b"\xff" * (len(content) // 3 - 4) + content[len(content) // 3 :],
    ],
)
def test_open_table__damaged_file(rows: Rows, write_table: WriteTable, damage: Callable[[bytes], bytes]) -> None:
    file = Path(write_table(rows, "a.parquet"))
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DataError, match=r"(?s)a\.parquet is damaged.*; restore it"):
        open_table([str(file)], "image", COLUMNS)


def test_open_table__files_whose_columns_differ_in_type(rows: Rows, write_table: WriteTable) -> None:
    other = [row | {"name_ko": {"text": row["name_ko"]}} for row in rows]
    files = [write_table(rows, "a.parquet"), write_table(other, "b.parquet")]
    with pytest.raises(DataError, match=r"b\.parquet.*columns"):
        open_table(files, "image", COLUMNS)


def test_open_table__manifest_beside_the_file(rows: Rows, write_table: WriteTable) -> None:
    file = Path(write_table(rows, "a.parquet"))
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    (file.parent / "manifest.json").write_text(json.dumps({"files": {"a.parquet": {"sha256": digest}}}))
    assert len(open_table([str(file)], "image", COLUMNS)) == 12
    other = write_table(rows[:2], "b.parquet")
    assert len(open_table([other], "image", COLUMNS)) == 2, "not in the manifest"
    write_table(rows[:4], "a.parquet")
    with pytest.raises(DataError, match=r"a\.parquet is damaged \(its SHA-256 .* restore it"):
        open_table([str(file)], "image", COLUMNS)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"files": []}', '{"files": {"a.parquet": {}}}', '{"files": {"a.parquet": 1}}']
)
def test_open_table__damaged_manifest(rows: Rows, write_table: WriteTable, content: str) -> None:
    file = Path(write_table(rows, "a.parquet"))
    (file.parent / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest\.json is damaged"):
        open_table([str(file)], "image", COLUMNS)


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ({}, list(range(12))),
        ({"design": ["flat"]}, [1, 3, 5, 7, 9, 11]),
        ({"design": ["flat", "round"], "even": ["true"]}, [0, 1, 4, 5, 8, 9]),
        ({"even": ["false"], "number": ["1", "4", "5"]}, [2, 3, 10, 11]),
        ({"design": []}, []),
        ({"design": ["oil"]}, []),
        ({"name_ko": ["이름 3"]}, [6, 7]),
    ],
)
def test_matching_rows__satisfy_every_condition(
    rows: Rows, write_table: WriteTable, where: dict[str, list[str]], expected: list[int]
) -> None:
    found = matching_rows(open_table([write_table(rows, "a.parquet")], "image", COLUMNS), where)
    assert found.dtype == np.int64
    assert found.tolist() == expected


def test_matching_rows__texts_are_compared_whole(rows: Rows, write_table: WriteTable) -> None:
    for number, row in enumerate(rows):
        row["name_ko"] = ("a", "a\0", "a ", "x" * 3_000_000)[number % 4]
    table = open_table([write_table(rows, "a.parquet")], "image", COLUMNS)
    assert matching_rows(table, {"name_ko": ["a"]}).tolist() == [0, 4, 8]


def test_read_rows__an_unreadable_row_is_empty_and_kept_by_conditions(tmp_path: Path) -> None:
    cells = pa.array([b"cat", b"\xff\xfe", b"dog"])
    broken = pa.Array.from_buffers(pa.string(), 3, cells.buffers())
    pq.write_table(pa.table({"text": broken, "number": [1, 2, 3]}), tmp_path / "a.parquet")
    table = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"))
    assert isinstance(table, datasets.Dataset)
    found = list(read_rows(table, ["number", "text"], np.array([2, 1, 0])))
    assert found == [{"number": 3, "text": "dog"}, {}, {"number": 1, "text": "cat"}]
    assert matching_rows(table, {"text": ["dog"]}).tolist() == [1, 2]


def test_identities__null_is_named(rows: Rows, write_table: WriteTable) -> None:
    rows[3]["name_ko"] = None
    table = open_table([write_table(rows, "a.parquet")], "image", COLUMNS)
    assert identities(table, "number", np.array([4, 2]), "s") == [str(rows[4]["number"]), str(rows[2]["number"])]
    with pytest.raises(DataError, match="s: row 3 has nothing in the column 'name_ko'"):
        identities(table, "name_ko", np.arange(5), "s")


def test_matching_rows__unknown_column(rows: Rows, write_table: WriteTable) -> None:
    table = open_table([write_table(rows, "a.parquet")], "image", COLUMNS)
    with pytest.raises(DataError, match="`where` names a column 'desing'"):
        matching_rows(table, {"desing": ["flat"]})


@pytest.mark.parametrize(
    ("value", "text"), [(True, "true"), (False, "false"), (3, "3"), ("No", "No"), (None, "None"), (1.5, "1.5")]
)
def test_as_text(value: object, text: str) -> None:
    assert as_text(value) == text


def test_open_paths_table__json_lines_end_at_line_feeds_alone_and_the_last_one_needs_none(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    rows = [{"path": "a\u2028b\x85c.jpg", "ko": "사\u2029과\x1c"}, {"path": "d.jpg", "ko": "\u2028"}]
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    assert open_paths_table(file).to_list() == rows


def test_open_paths_table__an_unfinished_json_line_is_refused(tmp_path: Path) -> None:
    """Unlike in our own JSON Lines files, an unfinished line of a user's data is an error."""
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"path": "a.jpg", "ko": "사과"}\n{"path": "b.jpg", "ko": ', encoding="utf-8")
    with pytest.raises(DataError, match=r"pairs\.jsonl is damaged"):
        open_paths_table(file)


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
        named = {"key": row["key"], "concept": row["concept"], "design": row["design"]}
        assert record.attributes == named, "the key, and what a language rule may ask for"


def test_table_source__the_columns_of_conditions_are_attributes(rows: Rows, write_table: WriteTable) -> None:
    source = _source(write_table(rows, "a.parquet"), where={"even": ["true", "false"]})
    assert [source[2 * row].attributes["even"] for row in range(12)] == ["true", "true", "false", "false"] * 3


def test_table_source__captions_are_those_of_its_records(rows: Rows, write_table: WriteTable) -> None:
    source = _source(write_table(rows, "a.parquet"), keywords={"ko": "words_ko"}, where={"design": ["round"]})
    records = [source[index] for index in range(len(source))]
    expected = [(one.language, text) for one in records for text in (one.caption, *one.keywords)]
    assert list(source.captions()) == expected


def test_records__are_those_read_alone_in_any_order(rows: Rows, write_table: WriteTable) -> None:
    source = _source(write_table(rows, "a.parquet"), keywords={"ko": "words_ko"}, where={"design": ["round"]})
    indices = [11, 0, 3, 3, 10, 1]
    found = records_together(source, indices)
    assert found == records_alone(source, indices)
    assert [one.key for one in found] == [rows[2 * (index // 2)]["key"] for index in indices]


def test_records__a_row_that_is_not_utf_8_is_a_fault_of_its_own(rows: Rows, tmp_path: Path) -> None:
    """Arrow cannot convert a block of rows that holds one."""
    names = pa.array([row["name_en"].encode() if number != 4 else b"\xff\xfe" for number, row in enumerate(rows)])
    broken = pa.Array.from_buffers(pa.string(), len(rows), names.buffers())
    table = pa.table({"image": [row["image"]["bytes"] for row in rows], "name_en": broken})
    pq.write_table(table, tmp_path / "a.parquet")
    source = _source(str(tmp_path / "a.parquet"), captions={"en": "name_en"})
    found = records_together(source, [5, 4, 0])
    assert found == records_alone(source, [5, 4, 0])
    kind, detail, key = found[1]
    assert (kind, key) == ("unexpected_error", "4") and detail.startswith("UnicodeDecodeError")
    assert [found[0].caption, found[2].caption] == [rows[5]["name_en"], rows[0]["name_en"]]


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


def test_table_source__row_without_caption_or_keywords(rows: Rows, write_table: WriteTable) -> None:
    rows[0] |= {"words_ko": None}
    source = _source(write_table(rows, "a.parquet"), keywords={"ko": "words_ko"})
    assert source[0].keywords == ()
    rows[1] |= {"name_ko": None}
    source = _source(write_table(rows, "b.parquet"))
    assert source[3].caption == rows[1]["name_en"]
    with pytest.raises(SampleFault) as raised:
        source[2]
    assert (raised.value.kind, raised.value.key) == ("other_language_only", rows[1]["key"])
    assert len(list(source.captions())) == 23, "the other captions are there"
