"""What a survey finds out about small data sets whose contents are known."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.errors import DataError
from data_modules.preparation.survey.files import Kind
from data_modules.preparation.survey.held_out import HeldOutBy, is_held_out, write_parts
from data_modules.preparation.survey.survey import survey_data
from tests.unit.data_modules.corpora import picture, write_tar

KOREAN, ENGLISH = "붉은 사과 {} 개", "a basket of {} red apples"


def write_pictures(folder: Path, number: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"{index:03d}.jpg" for index in range(number)]
    for index, name in enumerate(names):
        (folder / name).write_bytes(picture(index))
    return names


def write_csv(file: Path, columns: dict[str, Sequence[Any]], *, encoding: str = "utf-8", separator: str = ",") -> Path:
    with file.open("w", encoding=encoding, newline="") as stream:
        writer = csv.writer(stream, delimiter=separator)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return file


def titles(number: int) -> dict[str, list[str]]:
    return {
        "상품명": [KOREAN.format(index) for index in range(number)],
        "title_en": [ENGLISH.format(index) for index in range(number)],
    }


@pytest.mark.parametrize(
    ("encoding", "separator", "found"),
    [("utf-8", ",", "utf-8"), ("utf-8-sig", "\t", "utf-8"), ("cp949", ";", "cp949"), ("utf-16", "|", "utf-16")],
)
def test_csv__encoding_separator_columns_and_root(tmp_path: Path, encoding: str, separator: str, found: str) -> None:
    names = write_pictures(tmp_path / "data" / "photos", 10)
    columns = {"사진": names, **titles(10), "price": range(10)}
    file = write_csv(tmp_path / "data" / "pairs.csv", columns, encoding=encoding, separator=separator)
    survey = survey_data([file])
    assert (survey.rows.encoding, survey.rows.separator) == (found, separator)
    assert (survey.image, survey.image_root) == ("사진", tmp_path / "data" / "photos")
    assert survey.captions.by_language == {"ko": "상품명", "en": "title_en"}
    assert (survey.rows.num_rows, survey.num_images, survey.num_pairs) == (10, 10, 20)
    assert survey.held_out.by is HeldOutBy.nothing
    assert not survey.has_absolute_paths


def test_a_table_beside_a_folder_of_images_elsewhere(tmp_path: Path) -> None:
    names = write_pictures(tmp_path / "disk" / "images", 6)
    (tmp_path / "tables").mkdir()
    file = write_csv(tmp_path / "tables" / "pairs.csv", {"image": names, **titles(6)})
    with pytest.raises(DataError, match=r"'image' names images such as '000.jpg'.*further argument"):
        survey_data([file])
    assert survey_data([file, tmp_path / "disk"]).image_root == tmp_path / "disk" / "images"


def test_absolute_paths(tmp_path: Path) -> None:
    names = write_pictures(tmp_path / "photos", 6)
    columns = {"image": [str(tmp_path / "photos" / name) for name in names], **titles(6)}
    survey = survey_data([write_csv(tmp_path / "pairs.csv", columns)])
    assert survey.has_absolute_paths
    assert survey.image_root is None
    assert survey.sizes.num_images == 6


def test_one_column_in_both_languages(tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 8)
    text = [(KOREAN if index % 2 else ENGLISH).format(index) for index in range(8)]
    language = ["ko-KR" if index % 2 else "English" for index in range(8)]
    survey = survey_data([write_csv(tmp_path / "a.csv", {"image": names, "text": text, "lang": language})])
    assert (survey.captions.mixed, survey.captions.language_field) == ("text", "lang")
    assert survey.captions.language_values == {"ko": ["ko-KR"], "en": ["English"]}
    (column,) = survey.captions.chosen
    assert column.shares == {"ko": 0.5, "en": 0.5, "other": 0.0}
    assert survey.num_pairs == 8


def test_columns_that_are_no_captions(tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 8)
    columns = {
        "image": names,
        "url": [f"https://example.org/{name}" for name in names],
        "sku": [f"A{index}" for index in range(8)],
        "colour": ["red", "blue"] * 4,
        "japanese_title": ["りんごの写真"] * 8,
        "title": [ENGLISH.format(index) for index in range(8)],
        "memo": [""] * 8,
    }
    survey = survey_data([write_csv(tmp_path / "a.csv", columns)])
    assert survey.captions.by_language == {"en": "title"}
    assert [one.name for one in survey.captions.others] == []
    assert survey.key == "sku"
    assert survey.notes == ["column memo is empty in the sample"]


def test_broken_images_are_counted_by_kind(tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 10)
    (tmp_path / names[0]).unlink()
    (tmp_path / names[1]).write_bytes(b"<html>not found</html>")
    (tmp_path / names[2]).write_bytes(picture(2, file_format="PNG"))
    survey = survey_data([write_csv(tmp_path / "a.csv", {"image": names, **titles(10)})])
    assert survey.faults == {"image_missing": 1, "image_undecodable": 1}
    assert survey.sizes.repairs == {"wrong_extension": 1}
    assert (survey.sizes.num_images, survey.num_images) == (8, 8)


def test_tars__the_last_one_is_held_out(tmp_path: Path) -> None:
    for shard in range(5):
        content: list[tuple[str, bytes]] = []
        for index in range(10):
            metadata = {"caption_ko": KOREAN.format(index), "sha256": "ab12", "width": 30}
            content += [
                (f"{shard}{index}.jpg", picture(index)),
                (f"{shard}{index}.txt", ENGLISH.format(index).encode()),
                (f"{shard}{index}.json", json.dumps(metadata).encode()),
            ]
        write_tar(tmp_path / f"{shard:05d}.tar", content)
    (tmp_path / "00000.parquet").write_bytes(b"statistics of img2dataset, which are not read")
    survey = survey_data([tmp_path])
    assert survey.files.kind is Kind.shards
    assert survey.captions.by_language == {"ko": "caption_ko", "en": "txt"}
    assert survey.rows.num_rows == 50
    assert [file.name for file in survey.held_out.train] == [f"{shard:05d}.tar" for shard in range(4)]
    assert [file.name for file in survey.held_out.files] == ["00004.tar"]
    assert survey.held_out.share == pytest.approx(0.2, abs=0.01)
    assert "not used: 00000.parquet" in survey.notes[0]


def test_parquet_bytes__files_by_name(tmp_path: Path) -> None:
    for name, number in (("train-0", 6), ("train-1", 4), ("validation", 3), ("test", 3)):
        rows = [
            {"image": {"bytes": picture(index), "path": None}, "ko": [KOREAN.format(index), "사과"]}
            for index in range(number)
        ]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    survey = survey_data([tmp_path])
    assert [file.name for file in survey.held_out.train] == ["train-0.parquet", "train-1.parquet"]
    assert [file.name for file in survey.held_out.files] == ["validation.parquet"]
    assert survey.captions.by_language == {"ko": "ko"}
    assert (survey.rows.num_rows, survey.num_pairs) == (10, 10)
    assert survey.notes == ["1 file(s) called test are not used: test.parquet"]


def test_a_column_of_splits(tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 20)
    split = ["train"] * 15 + ["val"] * 3 + ["test"] * 2
    survey = survey_data([write_csv(tmp_path / "a.csv", {"image": names, **titles(20), "split": split})])
    assert survey.held_out.by is HeldOutBy.column
    assert (survey.held_out.where_train, survey.held_out.where) == ({"split": ["train"]}, {"split": ["val"]})
    assert survey.held_out.share == 0.25


def test_a_saved_dataset(tmp_path: Path) -> None:
    columns = {"photo": [picture(index) for index in range(6)], "caption": [ENGLISH.format(0)] * 6}
    part = datasets.Dataset.from_dict(columns)
    datasets.DatasetDict({"train": part, "test": part.select([0])}).save_to_disk(str(tmp_path / "saved"))
    survey = survey_data([tmp_path / "saved"])
    assert (survey.files.kind, survey.image, survey.held_out.split) == (Kind.dataset, "photo", "test")
    assert survey.captions.by_language == {"en": "caption"}


def test_pictures_alone(tmp_path: Path) -> None:
    write_pictures(tmp_path / "a" / "b", 3)
    survey = survey_data([tmp_path])
    assert (survey.files.kind, survey.rows.num_rows, survey.captions.columns) == (Kind.pictures, 3, [])


def test_a_table_without_images_beside_pictures_is_told(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    write_csv(tmp_path / "prices.csv", {"name": ["a b", "c d"], "price": [1, 2]})
    survey = survey_data([tmp_path])
    assert survey.files.kind is Kind.pictures
    assert "no column holds images, neither bytes nor paths, among name, price" in survey.notes[-1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"image,title\na.jpg,x,y\n", r"a.csv, line 2: 3 cells, and the first line names 2 columns; quote"),
        ("a.csv", b"image,title\n", r"a.csv holds no usable row"),
        ("a.csv", b"image,title\na.jpg,\xff\x81\n", r"a.csv is not UTF-8"),
        ("a.parquet", b"PAR1", r"a.parquet cannot be read"),
        ("a.xlsx", b"PK", r"a.xlsx is a spreadsheet: save it as CSV"),
        ("a.docx", b"PK", r"a.docx is no data that is known here"),
        ("a.csv", b"link,title\nhttp://a/b.jpg,an apple\n", r"column 'link' holds addresses: download .* img2dataset"),
        ("a.csv", b"image,title\nnone.jpg,an apple\n", r"none.jpg', which are in none of the folders"),
    ],
)
def test_refused__one_sentence(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        survey_data([tmp_path / name])


def test_refused__nothing_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing does not exist"):
        survey_data([tmp_path / "missing"])
    with pytest.raises(DataError, match="holds no data: neither tar files, nor tables"):
        survey_data([tmp_path])
    names = write_pictures(tmp_path, 2)
    for name in names:
        (tmp_path / name).write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"none of 2 images looked at .* can be used \(2 image_undecodable\)"):
        survey_data([tmp_path])


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "parquet"])
def test_write_parts__every_row_once_and_images_stay_together(tmp_path: Path, ending: str) -> None:
    names = write_pictures(tmp_path, 50)
    columns: dict[str, Sequence[Any]] = {"image": names * 2, "title": [ENGLISH.format(index) for index in range(100)]}
    file = tmp_path / f"pairs.{ending}"
    rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    if ending == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), file)
    elif ending == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        write_csv(file, columns, separator="," if ending == "csv" else "\t")
    survey = survey_data([file])
    assert survey.held_out.by is HeldOutBy.hash
    parts = write_parts(survey.held_out, survey.rows, image="image", root=None, mixed=None, folder=tmp_path)
    read = [survey_data([part]).rows.rows for part in (parts.train, parts.evaluation[""])]
    assert sorted(map(str, read[0] + read[1])) == sorted(map(str, rows))
    held_out = {row["image"] for row in read[1]}
    assert held_out == {name for name in names if is_held_out(name, survey.held_out.share)}
    assert held_out.isdisjoint(row["image"] for row in read[0])
    assert 5 <= len(held_out) <= 17
    assert survey.held_out.share == 0.2


def test_write_parts__a_column_of_both_languages_gives_a_table_for_each(tmp_path: Path) -> None:
    names = write_pictures(tmp_path, 60)
    text = [(KOREAN if index % 2 else ENGLISH).format(index) for index in range(60)]
    survey = survey_data([write_csv(tmp_path / "a.csv", {"image": names, "text": text}, encoding="cp949")])
    broken = next(name for name in names if is_held_out(name, survey.held_out.share))
    (tmp_path / broken).write_bytes(b"no picture")
    parts = write_parts(survey.held_out, survey.rows, image="image", root=None, mixed="text", folder=tmp_path)
    assert broken in parts.train.read_text(encoding="utf-8")
    assert set(parts.evaluation) == {"ko", "en"}
    for language, marker in (("ko", "사과"), ("en", "apples")):
        lines = parts.evaluation[language].read_text(encoding="utf-8").splitlines()
        assert len(lines) > 1
        assert all(marker in line for line in lines[1:])
