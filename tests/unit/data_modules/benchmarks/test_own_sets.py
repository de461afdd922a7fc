"""Evaluation sets of a lab's own tables: rows of one image, classes that are misspelt or unnamed, missing images."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from data_modules.benchmarks.config import ClassificationSetConfig, RetrievalSetConfig, TableConfig
from data_modules.benchmarks.evaluation_sets import (
    ClassificationSet,
    RetrievalSet,
    build_classification_set,
    build_retrieval_set,
)
from data_modules.errors import DataError

Rows = list[dict[str, Any]]
KO = {"apple": "사과", "pear": "배", "plum": "자두"}
CLASSES = {"templates": {"ko": "{} 사진", "en": "a {}"}, "classes": {one: {"ko": KO[one], "en": one} for one in KO}}


def table_rows(picture: bytes, folder: Path) -> Rows:
    """Two images of each class, in images/, beside the tables."""
    (folder / "images").mkdir()
    rows = []
    for number in range(6):
        fruit = list(KO)[number // 2]
        (folder / "images" / f"{number}.png").write_bytes(picture + bytes([number]))  # bytes after a PNG are ignored
        rows.append({"image": f"images/{number}.png", "ko": f"{KO[fruit]} {number}", "en": f"{fruit} {number}"})
        rows[-1]["fruit"] = fruit
    return rows


@pytest.fixture
def rows(picture: bytes, tmp_path: Path) -> Rows:
    return table_rows(picture, tmp_path)


@pytest.fixture
def csv(tmp_path: Path) -> Callable[..., TableConfig]:
    def write(rows: Rows, encoding: str = "utf-8", **settings: Any) -> TableConfig:
        lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
        (tmp_path / "val.csv").write_text("\n".join(lines) + "\n", encoding=encoding)
        return TableConfig(files=[str(tmp_path / "val.csv")], captions={"ko": "ko", "en": "en"}, **settings)

    return write


def retrieval(table: TableConfig, **settings: Any) -> RetrievalSet:
    return build_retrieval_set("r", RetrievalSetConfig(table=table, **settings))


@pytest.fixture
def classify(tmp_path: Path) -> Callable[..., ClassificationSet]:
    def build(table: TableConfig, classes: object = CLASSES, **settings: Any) -> ClassificationSet:
        (tmp_path / "classes.yaml").write_text(yaml.safe_dump(classes, allow_unicode=True, sort_keys=False), "utf-8")
        config = {"label": "fruit", "classes_file": str(tmp_path / "classes.yaml")} | settings
        return build_classification_set("k", ClassificationSetConfig(table=table, **config))

    return build


def notes_of(built: ClassificationSet | RetrievalSet) -> list[str]:
    return [note.partition(": ")[2] for note in built.notes]


def second_captions(rows: Rows) -> Rows:
    """Each image in two rows, the second ones at the end."""
    return [*rows, *(row | {"ko": f"또 {row['ko']}", "en": f"another {row['en']}"} for row in rows)]


@pytest.mark.parametrize("by_key", [False, True])
def test_retrieval__rows_of_one_image_are_one_item(rows: Rows, csv: Callable[..., TableConfig], by_key: bool) -> None:
    twice = second_captions(rows)
    key = {"key": "image"} if by_key else {}
    built = retrieval(csv(twice, **key))
    assert (len(built.images), len(built.captions["ko"])) == (6, 12)
    for language in ("ko", "en"):
        found = {(image, built.captions[language][one]) for image, one in built.positives[language].tolist()}
        assert found == {(place % 6, row[language]) for place, row in enumerate(twice)}
    built = retrieval(csv([*rows, rows[0]], **key))
    assert built.positives["ko"].tolist() == [[number, number] for number in range(6)], "an equal row adds nothing"


def test_retrieval__an_image_in_parquet_is_known_by_its_key_alone(rows: Rows, tmp_path: Path) -> None:
    stored = [row | {"image": (tmp_path / row["image"]).read_bytes()} for row in second_captions(rows)]
    pq.write_table(pa.Table.from_pylist(stored), tmp_path / "a.parquet")
    table = TableConfig(files=[str(tmp_path / "a.parquet")], captions={"ko": "ko"})
    assert len(retrieval(table).images) == 12
    named = [row | {"key": f"k{place % 6}"} for place, row in enumerate(stored)]
    pq.write_table(pa.Table.from_pylist(named), tmp_path / "a.parquet")
    assert len(retrieval(table).images) == 6
    named[7]["key"] = "k0"
    pq.write_table(pa.Table.from_pylist(named), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="the key 'k0' is that of two images, in rows 0 and 7; give each image a key"):
        retrieval(table)


def test_retrieval__a_column_of_concepts_need_not_be_one(rows: Rows, csv: Callable[..., TableConfig]) -> None:
    named = [row | {"concept": row["fruit"]} for row in rows]
    built = retrieval(csv(named))
    assert built.captions["en"] == ["apple 0", "pear 2", "plum 4"]
    assert notes_of(built) == [
        "the captions of 3 of 6 rows are not used, as the first row of their 'concept' has others; set concept = null "
        "to use the captions of every image"
    ]
    built = retrieval(csv(named, concept=None))
    assert (built.captions["en"], built.notes) == ([row["en"] for row in rows], [])


def test_table__encoding_separator_and_image_root(rows: Rows, csv: Callable[..., TableConfig], tmp_path: Path) -> None:
    table = csv(rows, "cp949")
    with pytest.raises(DataError, match=r"evaluation\.retrieval\.r: .*val\.csv is not UTF-8.*cp949"):
        retrieval(table)
    table.encoding = "cp949"
    assert retrieval(table).captions["ko"] == [row["ko"] for row in rows]
    bare = [row | {"image": Path(row["image"]).name} for row in rows]
    file = tmp_path / "val.csv"
    with pytest.raises(DataError, match=r"6 of 6 images are missing \(row 0: .*/0\.png does not exist; row 1: "):
        retrieval(csv(bare))
    built = retrieval(csv(bare, image_root=str(tmp_path / "images")))
    assert built.images.table.image(3) == (tmp_path / rows[3]["image"]).read_bytes()
    file.write_text(file.read_text(encoding="utf-8").replace(",", ";"), encoding="utf-8")
    settings: dict[str, Any] = {"captions": {"ko": "ko"}, "image_root": str(tmp_path / "images"), "separator": ";"}
    assert retrieval(TableConfig(files=[str(file)], **settings)).captions["ko"] == built.captions["ko"]
    with pytest.raises(DataError, match=r"image_root = .*nowhere is no folder"):
        retrieval(csv(bare, image_root=str(tmp_path / "nowhere")))
    with pytest.raises(ValueError, match="separator = ';' is about CSV files, and files names none"):
        TableConfig(files=["a.parquet"], separator=";")


def test_table__absolute_paths_are_allowed_by_a_setting(
    rows: Rows, csv: Callable[..., TableConfig], tmp_path: Path
) -> None:
    absolute = [row | {"image": str(tmp_path / row["image"])} for row in rows]
    with pytest.raises(DataError, match=r"6 of 6 images .*row 0: .*is absolute.*set allow_absolute_paths: true"):
        retrieval(csv(absolute))
    built = retrieval(csv(absolute, allow_absolute_paths=True))
    assert built.images.table.image(5) == (tmp_path / rows[5]["image"]).read_bytes()


@pytest.mark.parametrize("value", [None, {"bytes": None, "path": None}, {"bytes": b"", "path": " "}])
def test_parquet__an_image_that_is_not_there(value: object, rows: Rows, tmp_path: Path) -> None:
    stored = [row | {"image": {"bytes": b"x", "path": row["image"]}} for row in rows]
    stored[4]["image"] = value  # type: ignore[assignment]
    pq.write_table(pa.Table.from_pylist(stored), tmp_path / "a.parquet")
    table = TableConfig(files=[str(tmp_path / "a.parquet")], captions={"ko": "ko"})
    with pytest.raises(DataError, match=r"r: 1 of 6 images are missing \(row 4: the row has no image\); restore"):
        retrieval(table)
    assert len(retrieval(table, where={"fruit": ["apple", "pear"]}).images) == 4, "row 4 is not evaluated"


def test_classification__misspelt_labels_are_left_out_and_told(
    rows: Rows, csv: Callable[..., TableConfig], classify: Callable[..., ClassificationSet]
) -> None:
    rows[0]["fruit"] = "aple"
    rows[1]["fruit"] = ""
    built = classify(csv(rows))
    assert built.labels.tolist() == [1, 1, 2, 2]
    assert notes_of(built) == [
        "2 of 6 images are left out, as the classes file does not name their class: 'aple' (1; did you mean 'apple'?), "
        "'' (1)",
        "1 of 3 classes have no image (apple, did you mean 'aple'?); their recall does not count",
    ]


def test_classification__of_no_image_a_class_is_known(
    rows: Rows, csv: Callable[..., TableConfig], classify: Callable[..., ClassificationSet]
) -> None:
    upper = [row | {"fruit": row["fruit"].upper()} for row in rows]
    with pytest.raises(DataError) as caught:
        classify(csv(upper))
    assert str(caught.value) == (
        "evaluation.classification.k: no image has one of the 3 classes of the classes file: 'fruit' holds 'APPLE' (2; "
        "did you mean 'apple'?), 'PEAR' (2; did you mean 'pear'?), 'PLUM' (2; did you mean 'plum'?); name the column "
        "of classes in label, or correct the ids of the classes file"
    )


def test_classification__rows_of_one_image_count_once(
    rows: Rows, csv: Callable[..., TableConfig], classify: Callable[..., ClassificationSet]
) -> None:
    built = classify(csv(second_captions(rows)))
    assert built.labels.tolist() == [0, 0, 1, 1, 2, 2]
    rows.append(rows[0] | {"fruit": "plum"})
    with pytest.raises(DataError, match=r"images/0\.png' has two classes, in rows 0 and 6; keep the right one"):
        classify(csv(rows))


def test_classification__numbers_that_a_dataset_names(
    rows: Rows, tmp_path: Path, classify: Callable[..., ClassificationSet]
) -> None:
    """`imagefolder` numbers classes by their alphabet, a classes file in any order."""
    names = ["plum", "apple", "pear"]
    columns = {
        "image": [{"bytes": (tmp_path / row["image"]).read_bytes(), "path": None} for row in rows],
        "fruit": [names.index(row["fruit"]) for row in rows],
    }
    features = datasets.Features(image=datasets.Image(), fruit=datasets.ClassLabel(names=names))
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(tmp_path / "saved"))
    built = classify(TableConfig(files=[str(tmp_path / "saved")]))
    assert built.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert built.notes == []


@pytest.mark.parametrize(("language", "other"), [("ko", "en"), ("en", "ko")])
def test_classification__names_in_one_language(
    language: str, other: str, rows: Rows, csv: Callable[..., TableConfig], classify: Callable[..., ClassificationSet]
) -> None:
    names = {one: {language: entry[language]} for one, entry in CLASSES["classes"].items()}  # type: ignore[index]
    built = classify(csv(rows), CLASSES | {"classes": names})
    assert list(built.classes.names) == list(built.classes.templates) == [language]
    assert notes_of(built) == [f"no class of an image has a name in {other}; there are no metrics in {other}"]
    alone = classify(csv(rows), {"templates": {language: "{}"}, "classes": names})
    assert (list(alone.classes.names), alone.notes) == ([language], [])
    assert torch.equal(alone.labels, built.labels)


def test_classification__a_folder_without_a_label(tmp_path: Path, classify: Callable[..., ClassificationSet]) -> None:
    with pytest.raises(DataError, match=r"label is missing: .* set table\.layout = image_folder instead"):
        classify(TableConfig(files=[str(tmp_path)]), label=None)
