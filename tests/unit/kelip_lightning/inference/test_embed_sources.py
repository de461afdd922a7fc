"""DATA of `kelip embed`: every form, and what is refused."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.errors import DataError
from kelip_lightning.inference.embed_sources import DataChoice, open_items
from tests.unit.kelip_lightning.stand_in_encoders import png

SETS = """
evaluation:
  retrieval:
    mine: {table: {files: [TABLE], captions: {ko: ko, en: en}}}
  captions:
    words: {table: {files: [TABLE], captions: {ko: ko, en: en}}}
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Three pictures with captions."""
    file = tmp_path / "pictures.parquet"
    columns: dict[str, Any] = {
        "key": ["a", "b", "c"],
        "image": [png((number, 0, 0)) for number in range(3)],
        "ko": ["사과", "배", "집"],
        "en": [["apple", "red apple"], ["pear"], ["house"]],
    }
    pq.write_table(pa.table(columns), file)
    return file


def test_lines_of_a_text_file(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes("\ufeff사과\n\n a pear \r\n".encode())
    items = open_items(DataChoice(data=str(file)))
    assert (items.kind, items.keys, items.content) == ("texts", ["1", "3"], ["사과", "a pear"])


def test_text_file__not_utf_8(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes("사과".encode("cp949"))
    with pytest.raises(DataError, match=r"not UTF-8 text.*iconv -f CP949 -t UTF-8 words\.txt"):
        open_items(DataChoice(data=str(file)))


def test_images_of_a_table(table: Path) -> None:
    items = open_items(DataChoice(data=str(table)))
    assert (items.kind, items.keys) == ("images", ["a", "b", "c"])
    assert items.images is not None
    assert items.images.read(1) == png((1, 0, 0))
    assert len(set(items.content)) == 1


def test_version_of_a_table__differs_once_it_has_changed(table: Path) -> None:
    before = open_items(DataChoice(data=str(table))).content[0]
    pq.write_table(pq.read_table(table).slice(0, 2), table)
    assert open_items(DataChoice(data=str(table))).content[0] != before


def test_texts_of_a_table(table: Path) -> None:
    items = open_items(DataChoice(data=str(table), texts="en", key="ko"))
    assert items.keys == ["사과", "사과#2", "배", "집"]
    assert items.content == ["apple", "red apple", "pear", "house"]


def test_sets_of_a_file(table: Path, tmp_path: Path) -> None:
    file = tmp_path / "sets.yaml"
    file.write_text(SETS.replace("TABLE", str(table)), encoding="utf-8")
    images = open_items(DataChoice(data=str(file), set_name="mine"))
    assert (images.kind, images.keys) == ("images", ["a", "b", "c"])
    captions = open_items(DataChoice(data=str(file), set_name="evaluation.retrieval.mine", texts="en"))
    assert captions.content == ["apple", "red apple", "pear", "house"]
    assert open_items(DataChoice(data=str(file), set_name="words", texts="ko")).content == ["사과", "배", "집"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {},
            "has several sets and sources; choose one with --set: evaluation.retrieval.mine, evaluation.captions.words",
        ),
        ({"set_name": "other"}, "has no set or source 'other'; --set may be evaluation.retrieval.mine"),
        ({"set_name": "words"}, "evaluation.captions.words of .* has no images; give --texts ko or --texts en"),
        ({"set_name": "mine", "texts": "fr"}, "--texts fr is no language"),
        ({"set_name": "mine", "key": "id"}, "--key has no effect on a YAML file"),
    ],
)
def test_sets_of_a_file__refused(table: Path, tmp_path: Path, options: dict[str, str], message: str) -> None:
    file = tmp_path / "sets.yaml"
    file.write_text(SETS.replace("TABLE", str(table)), encoding="utf-8")
    with pytest.raises(DataError, match=message):
        open_items(DataChoice(data=str(file), **options))


def test_a_data_source(table: Path, experiments: Path) -> None:
    pq.write_table(pq.read_table(table), experiments / "pairs.parquet")
    file = experiments / "contrastive.yaml"
    images = open_items(DataChoice(data=str(file), set_name="one"))
    assert (images.kind, images.keys) == ("images", ["a", "b", "c"])
    assert images.images is not None
    assert images.images.read(2) == png((2, 0, 0))
    assert open_items(DataChoice(data=str(file), set_name="data.sources.one", texts="ko")).content == [
        "사과",
        "배",
        "집",
    ]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nowhere", {}, "nowhere does not exist; give a folder of images"),
        ("empty", {}, "empty holds no image"),
        ("empty", {"texts": "ko"}, "--texts has no effect on a folder of images"),
        ("pictures.parquet", {"set_name": "x"}, "--set has no effect on"),
        ("pictures.parquet", {"texts": "ko", "image": "image"}, "--image has no effect on texts"),
        ("words.csv", {}, "has no column 'image'.*--texts"),
        ("words.csv", {"texts": "wrod"}, "has no column 'wrod'; its columns are id, word"),
    ],
)
@pytest.mark.usefixtures("table")
def test_refused(tmp_path: Path, name: str, options: dict[str, str], message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "words.csv").write_text("id,word\n1,a\n", encoding="utf-8")
    with pytest.raises(DataError, match=message):
        open_items(DataChoice(data=str(tmp_path / name), **options))
