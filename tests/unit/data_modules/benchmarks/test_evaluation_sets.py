"""Evaluation sets: positives, classes, choices, what is left out, unusable selections and cells, fingerprints."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from data_modules.benchmarks.config import (
    CaptionChoice,
    CaptionSetConfig,
    ChoiceSetConfig,
    ClassificationSetConfig,
    DuplicateRule,
    EvaluationConfig,
    Layout,
    RetrievalSetConfig,
    TableConfig,
    TextTableConfig,
)
from data_modules.benchmarks.evaluation_sets import (
    RetrievalSet,
    build_caption_set,
    build_choice_set,
    build_classification_set,
    build_evaluation_sets,
    build_retrieval_set,
    evaluation_fingerprints,
    shared_positives,
)
from data_modules.benchmarks.image_stream import SelectedImages
from data_modules.errors import DataError

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


def keys_of(images: SelectedImages) -> list[str]:
    return images.table.keys(images.rows)


def pairs_of(built: RetrievalSet, language: str) -> set[tuple[str, str]]:
    """(key of the image, caption) of all positives."""
    keys, captions = keys_of(built.images), built.captions[language]
    return {(keys[image], captions[caption]) for image, caption in built.positives[language].tolist()}


def test_build_retrieval_set__positives_are_the_images_with_their_own_captions(table: TableConfig, rows: Rows) -> None:
    built = build_retrieval_set("r", RetrievalSetConfig(table=table, where={"design": ["flat"]}))
    by_key, keys = {row["key"]: row for row in rows}, keys_of(built.images)
    assert sorted(keys) == [f"flat/{concept}" for concept in range(6)]
    for language in ("ko", "en"):
        assert pairs_of(built, language) == {(key, by_key[key][f"name_{language}"]) for key in keys}
    for key, row in zip(keys, built.images.rows, strict=True):
        assert built.images.table.image(int(row)) == by_key[key]["image"]["bytes"]
    assert (built.notes, built.tie_rule) == ([], "pessimistic")


def test_build_retrieval_set__each_concept_is_once_in_the_gallery(table: TableConfig) -> None:
    built = build_retrieval_set("r", RetrievalSetConfig(table=table))
    assert len(built.images) == 12
    assert sorted(built.captions["ko"]) == [f"이름 {concept}" for concept in range(6)]
    assert torch.bincount(built.positives["ko"][:, 1]).tolist() == [2] * 6
    assert torch.equal(built.image_concepts, built.positives["en"][:, 1])
    pairs = zip(built.captions["ko"], built.captions["en"], strict=True)
    assert all(korean.split()[1] == english.split()[1] for korean, english in pairs), "same order in both languages"


def test_build_retrieval_set__gallery_conditions(table: TableConfig) -> None:
    where = {"design": ["flat"], "number": ["2", "4"]}
    built = build_retrieval_set("r", RetrievalSetConfig(table=table, where=where, gallery={"even": ["true"]}))
    assert sorted(built.captions["en"]) == ["name 0", "name 2", "name 4"]
    assert pairs_of(built, "en") == {("flat/2", "name 2"), ("flat/4", "name 4")}


@pytest.fixture
def captioned(write_table: Callable[[Rows, str], str], rows: Rows) -> TableConfig:
    """Five images without concepts: 2, 1, 3, 1 and 0 English captions, two of them equal."""
    captions = [["a", "b"], ["b"], ["c", "d", "e"], "f", []]
    table = [
        {"key": f"image {number}", "image": row["image"], "captions": own if isinstance(own, list) else [own]}
        for number, (row, own) in enumerate(zip(rows, captions, strict=False))
    ]
    return TableConfig(files=[write_table(table, "captioned.parquet")], captions={"en": "captions"})


def test_build_retrieval_set__several_captions_of_an_image(captioned: TableConfig) -> None:
    built = build_retrieval_set("r", RetrievalSetConfig(table=captioned))
    assert built.captions == {"en": ["a", "b", "b", "c", "d", "e", "f"]}
    assert built.positives["en"].tolist() == [[0, 0], [0, 1], [1, 2], [2, 3], [2, 4], [2, 5], [3, 6]]
    assert built.caption_concepts["en"].tolist() == [0, 0, 1, 2, 2, 2, 3]
    assert built.notes == ["evaluation.retrieval.r: 1 of 5 images without a caption in every language are left out"]


def test_build_retrieval_set__protocols(captioned: TableConfig) -> None:
    first = build_retrieval_set("r", RetrievalSetConfig(table=captioned, use_captions=CaptionChoice.first))
    assert first.captions == {"en": ["a", "b", "c", "f"]}
    assert first.positives["en"].tolist() == [[0, 0], [1, 1], [2, 2], [3, 3]]
    shared = build_retrieval_set("r", RetrievalSetConfig(table=captioned, duplicates=DuplicateRule.shared))
    assert shared.positives["en"].tolist() == [
        [0, 0], [0, 1], [0, 2], [1, 1], [1, 2], [2, 3], [2, 4], [2, 5], [3, 6],
    ]  # fmt: skip


def test_shared_positives__against_sets() -> None:
    """Image i and caption c are a pair if the text of c is the text of a caption of i."""
    generator = torch.Generator().manual_seed(0)
    captions = [f"text {number}" for number in torch.randint(0, 12, (40,), generator=generator).tolist()]
    owners = torch.randint(0, 15, (40,), generator=generator)
    pairs = torch.stack([owners, torch.arange(40)], dim=1)
    own_texts = {image: {captions[c] for i, c in pairs.tolist() if i == image} for image in set(owners.tolist())}
    expected = sorted([image, c] for image, texts in own_texts.items() for c in range(40) if captions[c] in texts)
    assert shared_positives(pairs, captions).tolist() == expected


def test_build_retrieval_set__captions_in_a_file_of_their_own(captioned: TableConfig, tmp_path: Path) -> None:
    korean = tmp_path / "korean.jsonl"
    lines = [{"key": f"image {number}", "ko": [f"가 {number}"]} for number in (0, 1, 3)]
    korean.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    captioned.texts = {"ko": TextTableConfig(files=[str(korean)], captions="ko")}
    built = build_retrieval_set("r", RetrievalSetConfig(table=captioned))
    assert built.captions["ko"] == ["가 0", "가 1", "가 3"]
    assert pairs_of(built, "en") == {("image 0", "a"), ("image 0", "b"), ("image 1", "b"), ("image 3", "f")}
    assert built.notes == ["evaluation.retrieval.r: 2 of 5 images without a caption in every language are left out"]


def test_build_retrieval_set__an_image_listed_twice(rows: Rows, write: Callable[..., TableConfig]) -> None:
    rows[3]["key"] = rows[1]["key"]
    with pytest.raises(DataError, match=r"evaluation\.retrieval\.r.*'flat/0'.*(twice|several)"):
        build_retrieval_set("r", RetrievalSetConfig(table=write(rows)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"where": {"number": ["1"]}, "gallery": {"even": ["true"]}},
            r"evaluation\.retrieval\.r: the caption of 'c1' is not in its gallery",
        ),
        (
            {"where": {"design": ["oil"]}},
            r"evaluation\.retrieval\.r: no row has {'design': \['oil'\]}; correct `where`",
        ),
        ({"where": {"desing": ["flat"]}}, "'desing'"),
    ],
)
def test_build_retrieval_set__unusable(table: TableConfig, options: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build_retrieval_set("r", RetrievalSetConfig(table=table, **options))
    table.concept = "thing"
    with pytest.raises(DataError, match="no column 'thing'"):
        build_retrieval_set("r", RetrievalSetConfig(table=table))


def test_build_caption_set__aligned_by_concept(table: TableConfig) -> None:
    built = build_caption_set("c", CaptionSetConfig(table=table, where={"even": ["false"]}))
    assert sorted(built.captions["ko"]) == ["이름 1", "이름 3", "이름 5"]
    assert [name.split()[1] for name in built.captions["ko"]] == [name.split()[1] for name in built.captions["en"]]


@pytest.mark.parametrize(("captions", "where"), [({"ko": "name_ko"}, {}), (BOTH, {"number": ["3"]})])
def test_build_caption_set__unusable(table: TableConfig, captions: dict[str, str], where: dict[str, list[str]]) -> None:
    table.captions = captions
    with pytest.raises(DataError, match=r"evaluation\.captions\.c needs two rows or more with captions in ko and en"):
        build_caption_set("c", CaptionSetConfig(table=table, where=where))


def _classification(table: TableConfig, file: str, **options: Any) -> ClassificationSetConfig:
    return ClassificationSetConfig(**{"table": table, "label": "design", "classes_file": file} | options)


def test_build_classification_set__labels_and_names(table: TableConfig, classes_file: str) -> None:
    built = build_classification_set("k", _classification(table, classes_file))
    assert built.labels.dtype == torch.int64
    assert torch.bincount(built.labels, minlength=3).tolist() == [6, 6, 0]
    assert [key.startswith("flat") for key in keys_of(built.images)] == (built.labels == 0).tolist()
    assert built.classes.names == {"ko": [["납작한"], ["둥근"], ["유화"]], "en": [["flat", "even"], ["round"], ["oil"]]}
    assert built.classes.templates == CLASSES["templates"]
    assert built.notes == [
        "evaluation.classification.k: 1 of 3 classes have no image (oil); their recall does not count"
    ]


def test_build_classification_set__rows_of_unnamed_classes_are_left_out(table: TableConfig, tmp_path: Path) -> None:
    only_flat = CLASSES | {"classes": {"flat": CLASSES["classes"]["flat"]}}  # type: ignore[index]
    built = build_classification_set("k", _classification(table, _write_classes(tmp_path, only_flat)))
    assert built.labels.tolist() == [0] * 6
    (note,) = built.notes
    assert note.endswith("6 of 12 images are left out, as the classes file does not name their class: 'round' (6)")


def test_build_classification_set__numbers_are_places_in_the_classes_file(
    table: TableConfig, classes_file: str
) -> None:
    config = _classification(table, classes_file, label="number", where={"number": ["0", "2", "5"]})
    built = build_classification_set("k", config)
    assert sorted(built.labels.tolist()) == [0, 0, 2, 2]
    assert [note.removeprefix("evaluation.classification.k: ") for note in built.notes] == [
        "'number' holds numbers, read in the order of the classes file: 0 is 'flat', 1 is 'round', 2 is 'oil'",
        "2 of 6 images are left out, as the classes file does not name their class: '5' (2)",
        "1 of 3 classes have no image (round); their recall does not count",
    ]


def test_build_classification_set__one_language_is_enough(table: TableConfig, tmp_path: Path) -> None:
    korean = {
        "classes": {"flat": {"ko": "납작한"}, "round": {"ko": "둥근"}},
        "templates": {"ko": ["{} 그림"]},
    }
    built = build_classification_set("k", _classification(table, _write_classes(tmp_path, korean)))
    assert built.classes.names == {"ko": [["납작한"], ["둥근"]]}


def test_build_classification_set__a_condition_on_the_label_holds(table: TableConfig, classes_file: str) -> None:
    built = build_classification_set("k", _classification(table, classes_file, where={"design": ["round"]}))
    assert built.labels.tolist() == [1] * 6


def test_build_classification_set__numbers_as_class_ids(table: TableConfig, tmp_path: Path) -> None:
    named = CLASSES | {"classes": {1: {"ko": ["하나"], "en": ["one"]}, 4: {"ko": ["넷"], "en": ["four"]}}}
    config = _classification(table, _write_classes(tmp_path, named), label="number", where={"design": ["flat"]})
    assert sorted(build_classification_set("k", config).labels.tolist()) == [0, 1]


def test_build_classification_set__no_image_or_no_classes_file(table: TableConfig, classes_file: str) -> None:
    with pytest.raises(DataError, match=r"evaluation\.classification\.k: no image has one of the 3 classes"):
        build_classification_set("k", _classification(table, classes_file, label="concept"))
    with pytest.raises(DataError, match=r"classification\.k\.classes_file: nowhere\.yaml does not exist"):
        build_classification_set("k", _classification(table, "nowhere.yaml"))


def test_build_classification_set__a_text_is_one_name_and_one_template(table: TableConfig, tmp_path: Path) -> None:
    single = {
        "classes": {"flat": {"ko": "납작한", "en": "flat"}, "round": {"ko": ["둥근"], "en": "round"}},
        "templates": {"ko": "{} 그림", "en": "a {} drawing"},
    }
    built = build_classification_set("k", _classification(table, _write_classes(tmp_path, single)))
    assert built.classes.names == {"ko": [["납작한"], ["둥근"]], "en": [["flat"], ["round"]]}
    assert built.classes.templates == {"ko": ["{} 그림"], "en": ["a {} drawing"]}


def test_build_classification_set__of_clip_benchmark_s_folder_by_its_own_class_files(
    tmp_path: Path, rows: Rows
) -> None:
    write_tar(tmp_path / "cb" / "test", [(row["image"]["bytes"], str(number % 2)) for number, row in enumerate(rows)])
    (tmp_path / "cb" / "classnames.txt").write_text("round\nflat\n", encoding="utf-8")
    (tmp_path / "cb" / "zeroshot_classification_templates.txt").write_text("a {c} thing\n", encoding="utf-8")
    table = TableConfig(files=["cb"], layout=Layout.clip_benchmark)
    built = build_classification_set("k", ClassificationSetConfig(table=table), str(tmp_path))
    assert built.labels.tolist() == [0, 1] * 6
    assert built.classes.names == {"en": [["round"], ["flat"]]}
    assert built.classes.templates == {"en": ["a {c} thing"]}
    (tmp_path / "cb" / "classnames.txt").unlink()
    with pytest.raises(
        DataError, match=r"evaluation\.classification\.k: .*classnames\.txt does not exist.*classes_file"
    ):
        build_classification_set("k", ClassificationSetConfig(table=table), str(tmp_path))


def write_tar(folder: Path, samples: list[tuple[bytes, str]]) -> None:
    """A split of CLIP_benchmark's layout: one tar of pictures with labels."""
    folder.mkdir(parents=True)
    with tarfile.open(folder / "0.tar", "w") as tar:
        for number, (picture, label) in enumerate(samples):
            for ending, content in (("png", picture), ("cls", label.encode())):
                member = tarfile.TarInfo(f"{number:04d}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    (folder / "nshards.txt").write_text("1", encoding="utf-8")


def test_build_classification_set__of_a_table_needs_a_label_and_a_classes_file(
    table: TableConfig, classes_file: str
) -> None:
    with pytest.raises(DataError, match=r"evaluation\.classification\.k\.label is missing: name the column"):
        build_classification_set("k", _classification(table, classes_file, label=None))
    with pytest.raises(DataError, match=r"evaluation\.classification\.k\.classes_file is missing"):
        build_classification_set("k", _classification(table, None))


@pytest.fixture
def questions(write_table: Callable[[Rows, str], str], rows: Rows) -> list[str]:
    table = [
        {"image": row["image"], "question": f"무엇 {number}?", "options": ["가", "나", "다"][: 2 + number % 2],
         "answer": ["B", "가", "1"][number % 3], "country": "ko" if number < 4 else "en"}
        for number, row in enumerate(rows[:6])
    ]  # fmt: skip
    return [write_table(table, "questions.parquet")]


def test_build_choice_set__texts_and_answers(questions: list[str]) -> None:
    config = ChoiceSetConfig(
        table=TableConfig(files=questions), language="ko", options=["options"], where={"country": ["ko"]}
    )
    built = build_choice_set("q", config)
    assert built.texts == [
        ["무엇 0? 가", "무엇 0? 나"],
        ["무엇 1? 가", "무엇 1? 나", "무엇 1? 다"],
        ["무엇 2? 가", "무엇 2? 나"],
        ["무엇 3? 가", "무엇 3? 나", "무엇 3? 다"],
    ]
    assert built.answers.tolist() == [1, 0, 1, 1]
    with pytest.raises(DataError, match=r"evaluation\.choices\.q: row 0: the answer '무엇 0\?' is none of the options"):
        build_choice_set(
            "q", ChoiceSetConfig(table=config.table, language="ko", options=["options"], answer="question")
        )


def test_build_evaluation_sets__order_and_tables(table: TableConfig, classes_file: str) -> None:
    config = EvaluationConfig(
        classification={"k": _classification(table, classes_file)},
        captions={"c": CaptionSetConfig(table=table)},
        retrieval={
            "r": RetrievalSetConfig(table=table),
            "f": RetrievalSetConfig(table=table, where={"design": ["flat"]}),
        },
    )
    sets = list(build_evaluation_sets(config))
    assert [one.name for one in sets] == ["r", "f", "c", "k"]
    assert len({one.identity for one in sets}) == 1, "sets of one table are evaluated together"


@pytest.mark.parametrize(("value", "message"), [(7, "int64"), ({"a": 1}, "struct"), ([["a"]], "list")])
def test_captions__a_column_without_texts_is_an_error_that_names_it(
    rows: Rows, write: Callable[..., TableConfig], value: object, message: str
) -> None:
    for row in rows:
        row["name_en"] = value
    table = write(rows)
    with pytest.raises(DataError, match=rf"evaluation\.retrieval\.s: .*'name_en'.*{message}"):
        build_retrieval_set("s", RetrievalSetConfig(table=table))
    with pytest.raises(DataError, match=rf"evaluation\.captions\.s: .*'name_en'.*{message}"):
        build_caption_set("s", CaptionSetConfig(table=table))


@pytest.mark.parametrize("value", [None, "  "])
def test_captions__an_empty_one_leaves_its_concept_out_and_is_told(
    rows: Rows, write: Callable[..., TableConfig], value: object
) -> None:
    rows[4]["name_en"] = rows[5]["name_en"] = value  # both designs of concept 2
    table = write(rows)
    built = build_retrieval_set("s", RetrievalSetConfig(table=table))
    assert len(built.images) == 10
    assert built.notes == ["evaluation.retrieval.s: 2 of 12 images without a caption in every language are left out"]
    captions = build_caption_set("s", CaptionSetConfig(table=table))
    assert [name.split()[1] for name in captions.captions["ko"]] == ["0", "1", "3", "4", "5"]
    assert captions.notes == ["evaluation.captions.s: 1 of 6 rows without a caption in both languages are left out"]


def test_captions__a_list_of_one_text_is_that_text(rows: Rows, write: Callable[..., TableConfig]) -> None:
    for row in rows:
        row["name_en"] = [row["name_en"], None]
    built = build_retrieval_set("r", RetrievalSetConfig(table=write(rows)))
    assert built.captions["en"] == [f"name {concept}" for concept in range(6)]


def test_concepts__a_row_without_one_is_an_error(rows: Rows, write: Callable[..., TableConfig]) -> None:
    rows[4]["concept"] = None
    with pytest.raises(DataError, match=r"evaluation\.retrieval\.r: row 4 has nothing in the column 'concept'"):
        build_retrieval_set("r", RetrievalSetConfig(table=write(rows)))


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
