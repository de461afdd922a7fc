"""Captions from text files."""

import gzip
from pathlib import Path

import pytest

from data_modules.errors import DataError
from data_modules.text.cleaning import read_caption_lines


def test_read__one_file_after_the_other_without_empty_lines(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("사과\n\n  red apple \n", encoding="utf-8")
    with gzip.open(tmp_path / "b.txt.gz", "wt", encoding="utf-8") as file:
        file.write("포도\n")
    assert list(read_caption_lines([tmp_path / "a.txt", tmp_path / "b.txt.gz"])) == ["사과", "red apple", "포도"]


def test_read__is_a_stream(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("사과\n", encoding="utf-8")
    captions = read_caption_lines([tmp_path / "a.txt", tmp_path / "missing.txt"])
    assert next(captions) == "사과"
    with pytest.raises(DataError, match=r"missing\.txt does not exist"):
        next(captions)


@pytest.mark.parametrize("name", ["a.txt", "a.txt.gz"])
def test_read__no_text(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(DataError, match="is not UTF-8 text"):
        list(read_caption_lines([tmp_path / name]))
