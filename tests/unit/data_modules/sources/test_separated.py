"""Encodings and separators of CSV and TSV files: detected, told, set, or refused with the remedy."""

import logging
from pathlib import Path

import pytest

from data_modules.errors import DataError
from data_modules.sources.config import SourceConfig
from data_modules.sources.encodings import fitting_encodings
from data_modules.sources.opening import open_source
from tests.unit.data_modules.corpora import picture

ROWS = [["image", "ko", "en"], ["a.jpg", "고양이 사진, 둘", "two cats"], ["b.jpg", "강아지 | 산책", "a dog; outside"]]


def write(
    folder: Path, separator: str = ",", encoding: str = "utf-8", name: str = "pairs.csv", rows: list[list[str]] = ROWS
) -> str:
    """A table in which every cell is quoted, beside its images."""
    for number, one in enumerate(("a.jpg", "b.jpg")):
        (folder / one).write_bytes(picture(number))
    text = "\r\n".join(separator.join(f'"{cell}"' for cell in row) for row in rows) + "\r\n"
    (folder / name).write_bytes(text.encode(encoding))
    return str(folder / name)


def captions(file: str, **settings: str) -> list[tuple[str, str]]:
    source = open_source("s", SourceConfig(files=[file], captions={"ko": "ko", "en": "en"}, **settings))
    return [(one.language, one.caption) for one in map(source.__getitem__, range(len(source)))]


WRITTEN = [pair for _, ko, en in ROWS[1:] for pair in (("ko", ko), ("en", en))]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separator__is_detected_by_the_header_and_told(
    tmp_path: Path, separator: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert captions(write(tmp_path, separator)) == WRITTEN
    name = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}[separator]
    assert f"pairs.csv: separated by {name}, columns image, ko, en" in caplog.text


def test_separator__is_the_one_with_rows_as_long_as_the_header(tmp_path: Path) -> None:
    rows = ["image,name;ko;en", "a.jpg;고양이;a cat", "b.jpg;개;a dog, outside"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    source = open_source(
        "s", SourceConfig(files=[str(tmp_path / "pairs.csv")], image="image,name", captions={"en": "en"})
    )
    write(tmp_path, name="other.csv")
    assert [source[i].caption for i in range(2)] == ["a cat", "a dog, outside"]


def test_separator__that_is_not_certain_is_refused_in_one_sentence_and_can_be_set(tmp_path: Path) -> None:
    file = write(tmp_path)
    Path(file).write_text("image,ko;en,x\na.jpg,고양이;a,b\n", encoding="utf-8")
    settings = {"image": "image", "captions": {"ko": "ko;en"}}
    with pytest.raises(
        DataError, match=r"may be separated by comma \(','\) and semicolon .*: name the .*separator"
    ) as e:
        open_source("s", SourceConfig(files=[file], **settings))
    assert "\n" not in str(e.value)
    assert open_source("s", SourceConfig(files=[file], separator=",", **settings))[0].caption == "고양이;a"


def test_encoding__with_and_without_a_byte_order_mark(tmp_path: Path) -> None:
    assert captions(write(tmp_path, encoding="utf-8-sig")) == WRITTEN
    assert captions(write(tmp_path, encoding="utf-8", name="b.csv")) == WRITTEN


@pytest.mark.parametrize(("ending", "separator"), [("csv", ","), ("csv", ";"), ("tsv", "\t")])
@pytest.mark.parametrize(("encoding", "named"), [("cp949", "cp949"), ("euc-kr", "cp949"), ("utf-16", "utf-16")])
def test_encoding__another_one_is_refused_with_the_one_to_set(
    tmp_path: Path, ending: str, separator: str, encoding: str, named: str
) -> None:
    file = write(tmp_path, separator, encoding, f"pairs.{ending}")
    with pytest.raises(DataError, match=rf"pairs\.{ending} is not UTF-8 .*: set encoding: {named} for this") as error:
        captions(file)
    assert "\n" not in str(error.value)
    assert captions(file, encoding=named) == WRITTEN


def test_encoding__utf8_is_not_read_as_korean_characters_of_another_encoding(tmp_path: Path) -> None:
    for encoding, problem in (("cp949", "is not CP949"), ("latin-1", "is UTF-8, and encoding = latin-1 would read")):
        with pytest.raises(DataError, match=rf"pairs\.csv {problem}.*: set encoding: utf-8 for this source"):
            captions(write(tmp_path), encoding=encoding)


def test_encoding__a_file_in_two_encodings_is_refused(tmp_path: Path) -> None:
    file = Path(write(tmp_path))
    file.write_bytes(file.read_bytes() + "c.jpg,똠방각하,x\n".encode("cp949"))
    with pytest.raises(DataError, match=r"is not UTF-8 \(byte \d+ .*, and no encoding of Korean .*save it as UTF-8"):
        captions(str(file))


def test_encoding__json_lines_are_utf8(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_bytes('{"image": "a.jpg", "ko": "고양이", "en": "cat"}\n'.encode("cp949"))
    with pytest.raises(DataError, match=r"pairs\.jsonl is not UTF-8 .* reads well as cp949: save it as UTF-8"):
        captions(str(file))


def test_fitting_encodings__western_texts_and_bytes_that_are_no_text(tmp_path: Path) -> None:
    file = tmp_path / "a.csv"
    file.write_bytes("image,en\na.jpg,caf\xe9 au lait\n".encode("latin-1"))
    assert fitting_encodings(file, "utf-8") == ["cp1252"]
    file.write_bytes(bytes(range(256)) * 9)
    assert fitting_encodings(file, "utf-8") == []
