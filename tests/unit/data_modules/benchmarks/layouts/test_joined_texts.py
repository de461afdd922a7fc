"""Captions in files of their own: joined by key or file name, in every format, and what is refused."""

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.benchmarks.config import TableConfig, TextTableConfig
from data_modules.benchmarks.layouts.fingerprints import sample_fingerprints
from data_modules.benchmarks.layouts.joined_texts import joined_captions
from data_modules.errors import DataError

ROWS = [
    {"file_path": "val2014/COCO_1.jpg", "id": 1, "caption_ko": ["고양이", "개"]},
    {"file_path": "train2014/COCO_2.jpg", "id": 2, "caption_ko": ["새"]},
    {"file_path": "train2014/COCO_2.jpg", "id": 2, "caption_ko": ["새"]},
]
KEYS = ["COCO_2.jpg", "missing.jpg", "other/COCO_1.jpg"]


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    if file.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif file.suffix == ".json":
        file.write_text(json.dumps(rows))
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="," if file.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return file


def joined(file: Path, keys: list[str], key: str = "file_path", captions: str = "caption_ko") -> list[list[str]]:
    config = TextTableConfig(files=[file.name], key=key, captions=captions)
    return joined_captions(config, keys, "evaluation.x.texts.ko", str(file.parent))


@pytest.mark.parametrize("ending", ["parquet", "jsonl", "json", "csv", "tsv"])
def test_joined_captions__by_file_name_and_by_equal_key(ending: str, tmp_path: Path) -> None:
    is_list = ending not in ("csv", "tsv")
    rows = ROWS if is_list else [row | {"caption_ko": row["caption_ko"][0]} for row in ROWS]
    first = ["고양이", "개"] if is_list else ["고양이"]
    file = write(tmp_path / f"texts.{ending}", rows)
    assert joined(file, KEYS) == [["새"], [], first]
    assert joined(file, ["2", "1", "3"], key="id") == [["새"], first, []]


def test_joined_captions__an_equal_path_counts_before_the_file_name(tmp_path: Path) -> None:
    file = write(tmp_path / "a.json", [{"k": "a/1", "t": "one"}, {"k": "b/1", "t": "two"}, {"k": "c/2", "t": None}])
    assert joined(file, ["b/1", "a/1", "2"], "k", "t") == [["two"], ["one"], []]
    with pytest.raises(DataError, match="the file name of 'c/1' is that of the keys 'a/1' and 'b/1', whose captions"):
        joined(file, ["c/1"], "k", "t")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"k": "a", "t": "x"}, {"k": "a", "t": "y"}],
            "the key 'a' has different captions in .*row 0 and .*row 1",
        ),
        ([{"k": "other", "t": "x"}], "no key of the 2 samples is in .*such as 'a', the column 'k' such as 'other'"),
        ([{"k": "a", "title": "x"}], "has no column 't'; its columns are k, title"),
        ([{"k": None, "t": "x"}], "row 0: the key column 'k' holds None; fill it"),
        ([{"k": "a", "t": 3}], "'t' holds .*(3|int64)"),
        ([{"k": "a", "t": [["x"]]}], "'t' holds .*lists? of texts"),
    ],
)
@pytest.mark.parametrize("ending", ["json", "parquet"])
def test_joined_captions__unusable_rows(ending: str, rows: list[dict[str, Any]], message: str, tmp_path: Path) -> None:
    file = write(tmp_path / f"texts.{ending}", rows)
    with pytest.raises(DataError, match=f"^evaluation.x.texts.ko: .*{message}"):
        joined(file, ["a", "b"], "k", "t")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b"{", r"a\.json is no JSON .*restore"),
        ("a.json", b'{"k": 1}', r"a\.json holds a dict, and must hold a list of objects"),
        ("a.json", b"[1]", r"a\.json, row 0: a int, and each row is an object"),
        ("a.parquet", b"PAR1", r"a\.parquet is damaged"),
        ("a.txt", b"text", r"a\.txt holds no captions: its ending must be one of \.parquet"),
    ],
)
def test_joined_captions__unusable_files(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        joined(tmp_path / name, ["a"])
    with pytest.raises(DataError, match="no file matches"):
        joined(tmp_path / "nowhere.json", ["a"])


def test_sample_fingerprints__hold_the_files_of_texts(tmp_path: Path) -> None:
    write(tmp_path / "a.csv", [{"image": "1.jpg"}])
    texts = {"ko": TextTableConfig(files=["t.json"], captions="caption_ko")}
    config = TableConfig(files=["a.csv"], texts=texts)
    found = []
    for rows in (ROWS, ROWS[:2]):
        write(tmp_path / "t.json", rows)
        found.append(sample_fingerprints(config, str(tmp_path)))
    assert found[0][0] == found[1][0] and found[0][1] != found[1][1]
