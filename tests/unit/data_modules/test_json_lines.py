"""JSON Lines: separators inside of values, and what an interrupted writer leaves."""

import json
from pathlib import Path

import pytest

from data_modules.errors import DataError
from data_modules.json_lines import append_json_lines, complete_lines, read_json_lines, replace_json_lines

SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"
"""Line ends of `str.splitlines`, without the line feed."""


def test_json_lines__records_hold_every_separator(tmp_path: Path) -> None:
    assert len(f"x{'x'.join(SEPARATORS)}x".splitlines()) == len(SEPARATORS) + 1
    file = tmp_path / "new" / "records.jsonl"
    records = [{"key": f"a{one}b.jpg", "n": i} for i, one in enumerate([*SEPARATORS, SEPARATORS, "\n"])]
    append_json_lines(file, records[:4])
    append_json_lines(file, records[4:])
    assert list(read_json_lines(file)) == records
    assert file.read_bytes().count(b"\n") == len(records)


@pytest.mark.parametrize("before", [[], [{"n": 0}, {"n": 1}]])
@pytest.mark.parametrize("tail", [b'{"n": 2', b'{"n": 2}', b"\0\0\0", '{"n": "é'.encode()[:-1]])
def test_json_lines__an_unfinished_last_line_is_ignored_and_replaced(
    tmp_path: Path, before: list[dict[str, int]], tail: bytes
) -> None:
    file = tmp_path / "records.jsonl"
    append_json_lines(file, before)
    file.write_bytes(file.read_bytes() + tail)
    assert list(read_json_lines(file)) == before
    append_json_lines(file, [{"n": 3}])
    assert file.read_text(encoding="utf-8") == "".join(f"{json.dumps(one)}\n" for one in [*before, {"n": 3}])


def test_json_lines__a_lone_surrogate_is_written_as_its_json_escape(tmp_path: Path) -> None:
    key = json.loads('"\\ud83d.jpg"')  # UTF-8 cannot represent it
    append_json_lines(tmp_path / "records.jsonl", [{"key": key}])
    assert list(read_json_lines(tmp_path / "records.jsonl")) == [{"key": key}]


def test_json_lines__korean_stays_readable(tmp_path: Path) -> None:
    append_json_lines(tmp_path / "records.jsonl", [{"key": "사과"}])
    assert (tmp_path / "records.jsonl").read_text(encoding="utf-8") == '{"key": "사과"}\n'


def test_replace_json_lines__is_atomic(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    append_json_lines(file, [{"n": 0}, {"n": 1}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace_json_lines(file, [{"n": 2}, {"n": float("nan")}])
    assert list(read_json_lines(file)) == [{"n": 0}, {"n": 1}]
    replace_json_lines(file, [{"n": "\u2028"}])
    assert list(read_json_lines(file)) == [{"n": "\u2028"}]
    assert [one.name for one in tmp_path.iterdir()] == ["records.jsonl"]


def test_read_json_lines__a_damaged_line_in_the_middle_is_named(tmp_path: Path) -> None:
    file = tmp_path / "records.jsonl"
    file.write_bytes(b'{"n": 0}\n{"n": \n{"n": 2}\n')
    records = read_json_lines(file)
    assert next(records) == {"n": 0}
    with pytest.raises(DataError, match=r"records\.jsonl is damaged: line 2 is no JSON"):
        next(records)


def test_complete_lines__end_in_a_line_feed_alone() -> None:
    assert complete_lines(b"a\r\nb\x0cc\n\nd") == [b"a\r", b"b\x0cc", b""]
    assert complete_lines(b"") == []
