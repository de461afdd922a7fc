"""Classes files of the package: counts, languages, Korean spelling, and the English of CLIP_benchmark 1.6.2."""

import importlib
import json
import re
from importlib import resources

import pytest
import yaml

from data_modules.benchmarks.class_names import ClassNames, read_class_names
from data_modules.paths import resolve_path
from data_modules.text.particles import fill_template

COUNTS = {
    "cifar10": 10,
    "cifar100": 100,
    "stl10": 10,
    "food101": 101,
    "eurosat": 10,
    "mnist": 10,
    "fer2013": 7,
    "gtsrb": 43,
    "dtd": 47,
    "resisc45": 45,
    "clevr_counts": 8,
    "cars": 196,
}
KEYS = {"clevr_counts": "clevr_count_all"}
"""Names of CLIP_benchmark where they are others than the file's."""


def _read(name: str) -> ClassNames:
    return read_class_names(f"package:assets/classes/{name}.yaml", name)


def test_classes__every_file_is_tested() -> None:
    files = {file.stem for file in resolve_path("package:assets/classes").iterdir()}
    assert files == {*COUNTS, "emoji_subgroups", "imagenet"}


@pytest.mark.parametrize(("name", "count"), COUNTS.items())
def test_classes__both_languages_and_the_number_of_the_test_set(name: str, count: int) -> None:
    classes = _read(name)
    assert set(classes.names) == set(classes.templates) == {"ko", "en"}
    assert len(classes.ids) == count == len(set(classes.ids))
    assert all(re.fullmatch("[a-z0-9]+(_[a-z0-9]+)*", one) for one in classes.ids)
    for names in classes.names.values():
        assert [len(one) > 0 for one in names] == [True] * count
        flat = [one for own in names for one in own]
        assert len(set(flat)) == len(flat) and all(one == " ".join(one.split()) for one in flat)
    assert all(re.search("[가-힣]", own[-1]) for own in classes.names["ko"])
    assert not any(re.search("[가-힣]", one) for own in classes.names["en"] for one in own)
    about = yaml.safe_load(resolve_path(f"package:assets/classes/{name}.yaml").read_text(encoding="utf-8"))["about"]
    assert set(about) == {"en", "en_templates", "ko"} and "MIT" in about["en_templates"]


@pytest.mark.parametrize("name", COUNTS)
def test_classes__korean_templates_call_for_particles(name: str) -> None:
    classes = _read(name)
    templates = classes.templates["ko"]
    assert 2 <= len(templates) <= 8 and len(set(templates)) == len(templates)
    prompts = [fill_template(template, own[0]) for template in templates for own in classes.names["ko"]]
    assert len(set(prompts)) == len(prompts) and not any(re.search(r"\{.*\}", prompt) for prompt in prompts)
    particles = any("/" in template for template in templates)
    assert particles != (name == "dtd")  # names of textures are attributive: a noun follows them


@pytest.mark.parametrize(
    ("name", "template", "label", "prompt"),
    [
        ("cifar10", 1, 3, "고양이를 찍은 사진"),
        ("cifar10", 2, 7, "이것은 말이다."),
        ("mnist", 3, 7, "이 숫자는 7이다."),
        ("mnist", 2, 5, '숫자 "5"를 찍은 사진'),
        ("gtsrb", 2, 14, '"정지"를 나타내는 교통 표지판'),
        ("eurosat", 3, 8, "이 위성 사진에 보이는 것은 강이다."),
        ("fer2013", 0, 5, "슬픔이 보이는 얼굴 사진"),
        ("clevr_counts", 0, 0, "물체 세 개가 있는 그림"),
        ("cars", 3, 131, "나는 내 현대 투싼 SUV 2012년식을 정말 좋아한다!"),
        ("food101", 4, 7, "이 음식은 비빔밥이다."),
    ],
)
def test_classes__korean_prompts(name: str, template: int, label: int, prompt: str) -> None:
    classes = _read(name)
    assert fill_template(classes.templates["ko"][template], classes.names["ko"][label][0]) == prompt


def test_classes__order_of_data_sets_whose_labels_clip_benchmark_reads_from_the_data() -> None:
    """Positions of labels in torchvision and TensorFlow Datasets."""
    expected = {
        "cifar10": {0: "airplane", 9: "truck"},
        "cifar100": {1: "aquarium fish", 41: "lawn mower", 58: "pickup truck", 99: "worm"},
        "stl10": {2: "car", 7: "monkey"},
        "food101": {0: "apple pie", 7: "bibimbap", 53: "hamburger", 100: "waffles"},
        "dtd": {0: "banded", 23: "marbled", 46: "zigzagged"},
        "resisc45": {0: "airplane", 22: "meadow", 44: "wetland"},
        "cars": {0: "AM General Hummer SUV 2000", 5: "Acura Integra Type R 2001", 195: "smart fortwo Convertible 2012"},
    }
    for name, labels in expected.items():
        names = _read(name).names["en"]
        assert {label: names[label] for label in labels} == {label: [one] for label, one in labels.items()}
    for name in ("cifar100", "food101", "dtd", "resisc45"):  # sorted by label
        labels = [own[0].replace(" ", "_") for own in _read(name).names["en"]]
        assert labels == sorted(labels)


@pytest.mark.parametrize("name", COUNTS)
def test_classes__english_equals_clip_benchmark(name: str) -> None:
    folder = resources.files(importlib.import_module("clip_benchmark.datasets"))
    theirs = json.loads((folder / "en_classnames.json").read_text(encoding="utf-8"))
    templates = json.loads((folder / "en_zeroshot_classification_templates.json").read_text(encoding="utf-8"))
    classes, key = _read(name), KEYS.get(name, name)
    assert classes.templates["en"] == templates[key]
    if key in theirs:  # the others have the labels of their data set
        assert classes.names["en"] == [[one] for one in theirs[key]]
