"""Evaluation sets and galleries: targets, classes, unusable selections and cells, fingerprints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data_modules.benchmarks.evaluation_sets import (
    CaptionSetConfig,
    ClassificationSetConfig,
    EvaluationConfig,
    GalleryConfig,
    RetrievalSetConfig,
    TableConfig,
    build_caption_set,
    build_classification_set,
    build_evaluation_sets,
    build_image_gallery,
    build_retrieval_set,
    evaluation_fingerprints,
)
from data_modules.errors import DataError
from data_modules.images.transforms.evaluation import evaluation_image

Rows = list[dict[str, Any]]
BOTH = {"ko": "name_ko", "en": "name_en"}
CLASSES = {
    "classes": {
        "flat": {"ko": ["납작한"], "en": ["flat", "even"]},
        "round": {"ko": ["둥근"], "en": ["round"]},
        "oil": {"ko": ["유화"], "en": ["oil"]},
    },
    "templates": {"ko": ["{} 그림"], "en": ["a {} drawing", "{}"]},
}


@pytest.fixture
def write(write_table: Callable[[Rows, str], str]) -> Callable[..., TableConfig]:
    return lambda rows, name="a.parquet": TableConfig(files=[write_table(rows, name)], captions=BOTH)


@pytest.fixture
def table(rows: Rows, write: Callable[..., TableConfig]) -> TableConfig:
    """The rows in an order that mixes concepts and designs."""
    return write([rows[i] for i in np.random.default_rng(3).permutation(len(rows))])


@pytest.fixture
def classes_file(tmp_path: Path) -> str:
    return _write_classes(tmp_path, CLASSES)


def _write_classes(folder: Path, description: object) -> str:
    file = folder / "classes.yaml"
    file.write_text(yaml.safe_dump(description, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return str(file)


def test_build_retrieval_set__targets_point_at_the_own_caption(table: TableConfig, rows: Rows) -> None:
    built = build_retrieval_set("r", RetrievalSetConfig(table=table, where={"design": ["flat"]}), 8)
    by_key = {row["key"]: row for row in rows}
    assert sorted(built.image_keys) == [f"flat/{concept}" for concept in range(6)]
    assert built.target.dtype == torch.int64
    for key, image, target in zip(built.image_keys, built.images, built.target, strict=True):
        for language in ("ko", "en"):
            assert built.captions[language][target] == by_key[key][f"name_{language}"]
        assert np.array_equal(image, evaluation_image(by_key[key]["image"]["bytes"], 8))


def test_build_retrieval_set__each_concept_is_once_in_the_gallery(table: TableConfig) -> None:
    built = build_retrieval_set("r", RetrievalSetConfig(table=table), 8)
    assert built.images.shape == (12, 3, 8, 8)
    assert built.images.dtype == torch.uint8
    assert sorted(built.captions["ko"]) == [f"이름 {concept}" for concept in range(6)]
    assert torch.bincount(built.target).tolist() == [2] * 6
    pairs = zip(built.captions["ko"], built.captions["en"], strict=True)
    assert all(korean.split()[1] == english.split()[1] for korean, english in pairs), "same order in both languages"


def test_build_retrieval_set__gallery_conditions(table: TableConfig) -> None:
    where = {"design": ["flat"], "number": ["2", "4"]}
    built = build_retrieval_set("r", RetrievalSetConfig(table=table, where=where, gallery={"even": ["true"]}), 8)
    assert sorted(built.captions["en"]) == ["name 0", "name 2", "name 4"]
    assert sorted(built.captions["en"][target] for target in built.target) == ["name 2", "name 4"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"where": {"number": ["1"]}, "gallery": {"even": ["true"]}},
            r"evaluation\.retrieval\.r: the caption of 'c1' is not in its gallery",
        ),
        ({"where": {"design": ["oil"]}}, r"evaluation\.retrieval\.r: no image satisfies `where`"),
        ({"where": {"desing": ["flat"]}}, "'desing'"),
    ],
)
def test_build_retrieval_set__unusable(table: TableConfig, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_retrieval_set("r", RetrievalSetConfig(table=table, **options), 8)
    table.concept = "thing"
    with pytest.raises(DataError, match="no column 'thing'"):
        build_retrieval_set("r", RetrievalSetConfig(table=table), 8)


def test_build_caption_set__aligned_by_concept(table: TableConfig) -> None:
    built = build_caption_set("c", CaptionSetConfig(table=table, where={"even": ["false"]}))
    assert sorted(built.captions["ko"]) == ["이름 1", "이름 3", "이름 5"]
    assert [name.split()[1] for name in built.captions["ko"]] == [name.split()[1] for name in built.captions["en"]]


@pytest.mark.parametrize(("captions", "where"), [({"ko": "name_ko"}, {}), (BOTH, {"design": ["oil"]})])
def test_build_caption_set__unusable(table: TableConfig, captions: dict[str, str], where: dict[str, list[str]]) -> None:
    table.captions = captions
    with pytest.raises(DataError, match=r"evaluation\.captions\.c needs two rows or more with captions in ko and en"):
        build_caption_set("c", CaptionSetConfig(table=table, where=where))


def _classification(table: TableConfig, file: str, **options: Any) -> ClassificationSetConfig:
    return ClassificationSetConfig(**{"table": table, "label": "design", "classes_file": file} | options)


def test_build_classification_set__labels_and_names(table: TableConfig, classes_file: str) -> None:
    built = build_classification_set("k", _classification(table, classes_file), 8)
    assert built.labels.dtype == torch.int64
    assert torch.bincount(built.labels, minlength=3).tolist() == [6, 6, 0]
    # The second channel is full in flat pictures and empty in round ones.
    assert torch.equal(built.images[:, 1, 0, 0] == 255, built.labels == 0)
    assert built.class_names == {"ko": [["납작한"], ["둥근"], ["유화"]], "en": [["flat", "even"], ["round"], ["oil"]]}
    assert built.templates == CLASSES["templates"]


def test_build_classification_set__rows_of_unnamed_classes_are_left_out(table: TableConfig, tmp_path: Path) -> None:
    only_flat = CLASSES | {"classes": {"flat": CLASSES["classes"]["flat"]}}  # type: ignore[index]
    built = build_classification_set("k", _classification(table, _write_classes(tmp_path, only_flat)), 8)
    assert built.labels.tolist() == [0] * 6


def test_build_classification_set__a_condition_on_the_label_holds(table: TableConfig, classes_file: str) -> None:
    built = build_classification_set("k", _classification(table, classes_file, where={"design": ["round"]}), 8)
    assert built.labels.tolist() == [1] * 6


def test_build_classification_set__numbers_as_class_ids(table: TableConfig, tmp_path: Path) -> None:
    named = CLASSES | {"classes": {1: {"ko": ["하나"], "en": ["one"]}, 4: {"ko": ["넷"], "en": ["four"]}}}
    config = _classification(table, _write_classes(tmp_path, named), label="number", where={"design": ["flat"]})
    assert sorted(build_classification_set("k", config, 8).labels.tolist()) == [0, 1]


def test_build_classification_set__no_image_or_no_classes_file(table: TableConfig, classes_file: str) -> None:
    with pytest.raises(DataError, match=r"evaluation\.classification\.k: no image has one of the 3 classes"):
        build_classification_set("k", _classification(table, classes_file, label="concept"), 8)
    with pytest.raises(DataError, match=r"classification\.k\.classes_file: nowhere\.yaml does not exist"):
        build_classification_set("k", _classification(table, "nowhere.yaml"), 8)


@pytest.mark.parametrize(
    "description",
    [
        None,
        {"classes": {}},
        CLASSES | {"templates": {"ko": ["{}"]}},
        CLASSES | {"templates": {"ko": ["{} 그림"], "en": ["a drawing"]}},
        CLASSES | {"templates": {"ko": ["{} 그림"], "en": ["{} and {}"]}},
        CLASSES | {"classes": ["flat"]},
        CLASSES | {"classes": {"flat": "flat"}},
        CLASSES | {"classes": {"flat": {"ko": ["납작한"]}}},
        *(
            CLASSES | {"classes": {"flat": {"ko": ["납작한"], "en": names}}}
            for names in ([3], ["flat", None], [["flat"]], {"name": "flat"}, [" "])
        ),
    ],
)
def test_build_classification_set__malformed_classes_file(
    table: TableConfig, tmp_path: Path, description: object
) -> None:
    with pytest.raises(DataError, match=r"evaluation\.classification\.k\.classes_file: .*classes\.yaml"):
        build_classification_set("k", _classification(table, _write_classes(tmp_path, description)), 8)


@pytest.mark.parametrize(
    ("description", "problem"),
    [
        (CLASSES | {"classes": {"flat": {"ko": "납작한"}}}, "the class 'flat' has no name in en"),
        ({"classes": {"flat": {"ko": "납작한"}}, "templates": {"ko": "{}"}}, "has no templates in en"),
    ],
)
def test_build_classification_set__needs_both_languages(
    table: TableConfig, tmp_path: Path, description: object, problem: str
) -> None:
    with pytest.raises(DataError, match=problem):
        build_classification_set("k", _classification(table, _write_classes(tmp_path, description)), 8)


def test_build_classification_set__a_text_is_one_name_and_one_template(table: TableConfig, tmp_path: Path) -> None:
    single = {
        "classes": {"flat": {"ko": "납작한", "en": "flat"}, "round": {"ko": ["둥근"], "en": "round"}},
        "templates": {"ko": "{} 그림", "en": "a {} drawing"},
    }
    built = build_classification_set("k", _classification(table, _write_classes(tmp_path, single)), 8)
    assert built.class_names == {"ko": [["납작한"], ["둥근"]], "en": [["flat"], ["round"]]}
    assert built.templates == {"ko": ["{} 그림"], "en": ["a {} drawing"]}


def test_build_evaluation_sets__names_and_digests_of_shared_rows(table: TableConfig, classes_file: str) -> None:
    config = EvaluationConfig(
        retrieval={
            "r": RetrievalSetConfig(table=table),
            "f": RetrievalSetConfig(table=table, where={"design": ["flat"]}),
        },
        captions={"c": CaptionSetConfig(table=table)},
        classification={"k": _classification(table, classes_file)},
    )
    sets = build_evaluation_sets(config, 8)
    assert [one.name for one in (*sets.retrieval, *sets.captions, *sets.classification)] == ["r", "f", "c", "k"]
    (whole, flat), (classes,) = sets.retrieval, sets.classification
    assert len(set(whole.digests)) == len(whole.images)
    by_digest = dict(zip(whole.digests, whole.images, strict=True))
    for part in (flat, classes):
        assert all(torch.equal(by_digest[one], image) for one, image in zip(part.digests, part.images, strict=True))


def test_evaluation_config__bad_interval() -> None:
    with pytest.raises(ValueError, match="every_n_steps = 0 must be at least 1"):
        EvaluationConfig(every_n_steps=0)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a cat", "the cat"], "holds 2 texts"),
        ([], "holds 0 texts"),
        (None, "holds 0 texts"),
        ("  ", "holds 0 texts"),
        ([None], "holds 0 texts"),
        (7, "int is no text"),
        ({"a": 1}, "dict is no text"),
    ],
)
def test_captions__a_cell_that_is_not_one_text_is_an_error_that_names_it(
    rows: Rows, write: Callable[..., TableConfig], value: object, message: str
) -> None:
    for row in rows:
        row["name_en"] = value if isinstance(value, list | dict | int) else row["name_en"]
    rows[4]["name_en"] = value
    table = write(rows)
    with pytest.raises(DataError, match=rf"evaluation\.retrieval\.s: .*'name_en'.*{message}"):
        build_retrieval_set("s", RetrievalSetConfig(table=table), 8)
    with pytest.raises(DataError, match=rf"evaluation\.captions\.s: .*'name_en'.*{message}"):
        build_caption_set("s", CaptionSetConfig(table=table))


def test_captions__a_list_of_one_text_is_that_text(rows: Rows, write: Callable[..., TableConfig]) -> None:
    for row in rows:
        row["name_en"] = [row["name_en"], None]
    built = build_retrieval_set("r", RetrievalSetConfig(table=write(rows)), 8)
    assert built.captions["en"] == [f"name {concept}" for concept in range(6)]


@pytest.mark.parametrize("column", ["concept", "key"])
def test_identities__a_row_without_one_is_an_error(rows: Rows, write: Callable[..., TableConfig], column: str) -> None:
    rows[4][column] = None
    table = write(rows)
    with pytest.raises(DataError, match=rf"evaluation\.retrieval\.r: row 4 has nothing in the column '{column}'"):
        build_retrieval_set("r", RetrievalSetConfig(table=table), 8)
    with pytest.raises(DataError, match=rf"a\.parquet: row 4 has nothing in the column '{column}'"):
        build_image_gallery(GalleryConfig(files=table.files, key=column), 8)


@pytest.mark.parametrize("image", [None, {"bytes": None}, {"bytes": b""}, {"bytes": b"no image"}])
def test_images__an_unusable_one_is_named(
    rows: Rows, write: Callable[..., TableConfig], classes_file: str, image: object
) -> None:
    rows[4]["image"] = image
    table = write(rows)
    with pytest.raises(DataError, match=r"evaluation\.retrieval\.r: image 'round/2'"):
        build_retrieval_set("r", RetrievalSetConfig(table=table), 8)
    with pytest.raises(DataError, match=r"evaluation\.classification\.k: image 'round/2'"):
        build_classification_set("k", _classification(table, classes_file), 8)
    with pytest.raises(DataError, match=r"a\.parquet: image 'round/2'"):
        build_image_gallery(GalleryConfig(files=table.files), 8)


def test_build_image_gallery__rows_images_and_columns(rows: Rows, write: Callable[..., TableConfig]) -> None:
    config = GalleryConfig(files=write(rows).files, where={"design": ["flat"], "even": ["true"]})
    gallery = build_image_gallery(config, 8, ["number"])
    assert gallery.keys == ["flat/0", "flat/2", "flat/4"]
    assert gallery.columns == {"number": ["0", "2", "4"]}
    assert (gallery.images.shape, gallery.images.dtype) == ((3, 3, 8, 8), torch.uint8)
    assert gallery.images[1, :, 4, 4].tolist() == [14, 255, 99]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"where": {"design": ["oil"]}}, "satisfies `where`"),
        ({"key": "design"}, "'flat' is not unique in the column 'design'"),
        ({"key": "nothing"}, "no column 'nothing'"),
    ],
)
def test_build_image_gallery__unusable(table: TableConfig, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_image_gallery(GalleryConfig(files=table.files, **options), 8)


def test_evaluation_fingerprints__change_with_the_files_of_a_set(
    rows: Rows, write: Callable[..., TableConfig], tmp_path: Path
) -> None:
    table, other, classes = write(rows), write(rows, "other.parquet"), _write_classes(tmp_path, CLASSES)
    config = EvaluationConfig(
        retrieval={"known": RetrievalSetConfig(table=table)},
        captions={"captions": CaptionSetConfig(table=other)},
        classification={"groups": _classification(table, classes)},
    )
    before = evaluation_fingerprints(config)
    assert {name: [file.name for file in files] for name, files in before.items()} == {
        "retrieval.known": ["a.parquet"],
        "captions.captions": ["other.parquet"],
        "classification.groups": ["a.parquet", "classes.yaml"],
    }

    def changed() -> list[str]:
        return [name for name, files in evaluation_fingerprints(config).items() if before[name] != files]

    assert changed() == []
    write([*rows, rows[0]], "other.parquet")
    assert changed() == ["captions.captions"]
    write(rows, "other.parquet")
    _write_classes(tmp_path, CLASSES | {"templates": {"ko": ["{}"], "en": ["{}"]}})
    assert changed() == ["classification.groups"]
