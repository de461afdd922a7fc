"""Every evaluation file loads, publishes only metrics of its own sets, and the paper's tables come out as printed."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import clip_benchmark
import pytest
import torch
import yaml
from rich.table import Table

from data_modules.benchmarks.class_names import read_class_names
from data_modules.benchmarks.evaluation_sets import build_evaluation_sets
from data_modules.errors import DataError
from data_modules.paths import resolve_path
from kelip_lightning.cli.evaluation_tables import print_evaluations, result_table
from kelip_lightning.config.evaluation import EvaluationExperiment, published_rows
from kelip_lightning.config.experiment import SCHEMAS
from kelip_lightning.config.load import find_schema, load_experiment
from kelip_lightning.errors import ConfigError
from kelip_lightning.evaluation.suite import Evaluation
from kelip_lightning.inference.evaluate import Results, evaluate_models
from kelip_lightning.inference.evaluation_file import available_part, set_names, with_included
from tests.experiments.miniature_sets import NUM_IMAGES, write_miniature
from tests.paths import ROOT

FOLDER = ROOT / "experiments" / "evaluation"
PAPER = FOLDER / "paper.yaml"
SET_FILES = sorted(set(FOLDER.glob("*.yaml")) - {PAPER})
CLASSIFICATION = [
    *("imagenet", "webkorean", "cifar10", "cifar100", "clevr_counts", "dtd", "eurosat"),
    *("fer2013", "food101", "gtsrb", "mnist", "resisc45", "cars", "stl10"),
]
"""The columns of the paper's Table 2, in its order."""
WRITTEN_BY_THE_USER = {"webkorean_classes.yaml", "babel_imagenet_ko.yaml"}
"""Classes files that are private or may not be shipped."""
KOREAN_ONLY = {"webkorean", "babel_imagenet"}
DOCUMENT = ROOT / "docs" / "evaluation.md"
CLASSES = resolve_path("package:assets/classes")
AVERAGES = {
    ("CLIP ViT-B/32", "English"): (57.6, 13),
    ("KELIP ViT-B/32", "English"): (60.9, 13),
    ("CLIP ViT-B/32", "Korean"): (8.7, 14),
    ("KELIP ViT-B/32", "Korean"): (44.7, 14),
}
"""The last column of the paper's Table 2, and the number of sets that the mean is over."""


def _load_file(file: Path, *overrides: str) -> EvaluationExperiment:
    return load_experiment(file, overrides, EvaluationExperiment, on_this_machine=False).experiment


@pytest.fixture(scope="module")
def paper() -> EvaluationExperiment:
    """paper.yaml with the files that it includes; do not modify."""
    return with_included(_load_file(PAPER), PAPER)


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes an evaluation file with a retrieval set."""

    def write_file(name: str = "file.yaml", set_name: str = "flowers", **sections: object) -> Path:
        table = {"files": [f"{set_name}.parquet"], "captions": {"ko": "caption"}}
        tree = {"evaluation": {"retrieval": {set_name: {"table": table}}}, **sections}
        (tmp_path / name).write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")
        return tmp_path / name

    return write_file


def _row(metrics: Mapping[str, float], source: str = "a paper") -> dict[str, object]:
    return {"model": "a model", "source": source, "metrics": dict(metrics)}


@pytest.mark.parametrize("file", SET_FILES, ids=lambda file: file.stem)
def test_set_file__loads_and_is_named_after_its_first_set(file: Path) -> None:
    assert find_schema(file, SCHEMAS) is EvaluationExperiment
    experiment = _load_file(file)
    assert set_names(experiment.evaluation)[0] == file.stem
    assert experiment.about is not None
    assert all((experiment.about.title, experiment.about.download, experiment.about.licence))
    assert experiment.evaluation.data_folder is None, "the including file gives it"


def _metrics_of(experiment: EvaluationExperiment) -> set[str]:
    """The names of all metrics of a file's sets, as `metric_names` documents them."""
    evaluation, found = experiment.evaluation, set()
    for name, one in evaluation.retrieval.items():
        for language in {**one.table.captions, **one.table.texts}:
            at = f"eval/{name}_{language}"
            found |= {f"{at}/{way}_R@{k}" for way in ("image_to_text", "text_to_image") for k in (1, 5, 10)}
    for name in evaluation.classification:
        for language in ["ko"] if name in KOREAN_ONLY else ["ko", "en"]:
            rests = ("zero_shot_top1", "zero_shot_top5", "mean_per_class_recall")
            found |= {f"eval/{name}_{language}/{rest}" for rest in rests}
    for name, choice in evaluation.choices.items():
        found.add(f"eval/{name}_{choice.language}/choice_top1")
    return found


@pytest.mark.parametrize("file", SET_FILES, ids=lambda file: file.stem)
def test_published_metrics__are_metrics_of_the_files_own_sets(file: Path) -> None:
    experiment = _load_file(file)
    published = {metric for one in experiment.published for metric in one.metrics}
    assert published <= _metrics_of(experiment)


@pytest.mark.parametrize("file", SET_FILES, ids=lambda file: file.stem)
def test_set_file__follows_the_protocol_of_clip_benchmark(file: Path) -> None:
    evaluation = _load_file(file).evaluation
    for one in [*evaluation.retrieval.values(), *evaluation.classification.values()]:
        assert one.tie_rule.value == "topk"
    for name, retrieval in evaluation.retrieval.items():
        assert retrieval.duplicates.value == "separate"
        assert retrieval.use_captions.value == ("first" if name == "xm3600" else "all")


@pytest.mark.parametrize("file", SET_FILES, ids=lambda file: file.stem)
def test_classes_file__is_shipped_or_written_by_the_user(file: Path) -> None:
    for name, one in _load_file(file, "evaluation.data_folder=data").evaluation.classification.items():
        if name in KOREAN_ONLY:
            assert one.classes_file in WRITTEN_BY_THE_USER
        else:
            assert name in CLASSIFICATION
            assert one.classes_file == f"package:assets/classes/{name}.yaml"


@pytest.mark.skipif(not CLASSES.is_dir(), reason="the package has no classes files")
@pytest.mark.parametrize("name", sorted(set(CLASSIFICATION) - KOREAN_ONLY))
def test_shipped_classes_file__has_both_languages(name: str) -> None:
    assert set(read_class_names(f"package:assets/classes/{name}.yaml", name).templates) == {"ko", "en"}


@pytest.mark.parametrize("file", SET_FILES, ids=lambda file: file.stem)
def test_set_file__opens_data_in_the_layout_that_it_describes(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_miniature(file.stem, tmp_path / "data")
    evaluation = _load_file(file, "evaluation.data_folder=data").evaluation
    assert evaluation.data_folder == str(tmp_path / "data")
    available, missing = available_part(evaluation)
    assert not missing
    sets = build_evaluation_sets(available)
    assert [one.name for one in sets] == set_names(evaluation)
    for one in (*sets.retrieval, *sets.classification, *sets.choices):
        assert one.images.table.image(int(one.images.rows[0])).startswith(b"\xff\xd8"), "a JPEG file"
    for retrieval in sets.retrieval:
        single = retrieval.name in ("xm3600", "xtd10", "flickr30k_200")
        for captions in retrieval.captions.values():
            assert len(captions) == (1 if single else 2) * NUM_IMAGES
    for classification in sets.classification:
        assert classification.labels.tolist() == [0, 1]
    if file.stem == "xm3600":
        assert sets.retrieval[0].captions == {"ko": ["개", "고양이"], "en": ["a dog", "a cat"]}
    if file.stem == "cvqa":
        assert [(one.texts, one.answers.tolist()) for one in sets.choices] == [
            ([[f"이것은 무엇입니까? {option}" for option in ("떡", "국", "밥", "김치")]], [3]),
            ([[f"What is this? {option}" for option in ("rice cake", "soup", "rice", "kimchi")]], [3]),
        ]


def test_babel_script__writes_the_classes_of_clip_benchmark(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scripts = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(next(script for script in scripts if "babel_imagenet" in script), {})
    classes = read_class_names("babel_imagenet_ko.yaml", "babel_imagenet")
    folder = Path(clip_benchmark.__file__).parent / "datasets"
    numbers, names = json.loads((folder / "babel_imagenet.json").read_text(encoding="utf-8"))["KO"]
    assert classes.ids == [str(number) for number in numbers]
    assert classes.names == {"ko": [[name] for name in names]}
    assert len(classes.ids) == 648
    assert len(classes.templates["ko"]) == 80


def test_flickr30k_200_script__writes_a_row_per_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("filenames.txt").write_text("1.jpg\n2.jpg\n", encoding="utf-8")
    Path("kor_Hang.txt").write_text("개 한 마리\n두 사람\n", encoding="utf-8")
    scripts = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(next(script for script in scripts if "kor_Hang" in script), {})
    table = [json.loads(line) for line in Path("captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert table == [
        {"image": "images/1.jpg", "caption": "개 한 마리"},
        {"image": "images/2.jpg", "caption": "두 사람"},
    ]


def test_paper__includes_its_17_sets(paper: EvaluationExperiment) -> None:
    assert list(paper.evaluation.classification) == CLASSIFICATION
    assert list(paper.evaluation.retrieval) == ["flickr30k", "coco", "coco_aihub"]
    assert len(set_names(paper.evaluation)) == 17
    metrics = list(paper.tables["table2"].columns.values())
    assert metrics == [f"eval/{name}_{{language}}/zero_shot_top1" for name in CLASSIFICATION]


def _cells(table: Table) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in zip(*(column.cells for column in table.columns), strict=True)]


def test_table2__has_the_papers_averages(paper: EvaluationExperiment) -> None:
    rows = _cells(result_table(paper.tables["table2"], published_rows(paper.published)))
    of_paper = [row for row in rows if row[0].endswith("[Ko & Gu 2022, Table 2]")]
    assert len(of_paper) == 4
    for model, language, *values, mean in of_paper:
        average, number = AVERAGES[model.split(" [")[0], language]
        share, _, count = mean.partition(" % ")
        assert float(share) == pytest.approx(average, abs=0.05)
        assert count == f"({number})"
        assert len([value for value in values if value != "–"]) == number
    assert of_paper[0][:5] == ["KELIP ViT-B/32 [Ko & Gu 2022, Table 2]", "Korean", "38.30 %", "57.70 %", "91.40 %"]


def test_table3__has_the_papers_recalls(paper: EvaluationExperiment) -> None:
    rows = published_rows(paper.published)
    kelip = {
        "table3_image_to_text": [77.4, 93.9, 97.2, 55.9, 78.7, 86.7, 21.7, 46.3, 59.0],
        "table3_text_to_image": [61.6, 85.7, 91.5, 36.8, 63.3, 73.9, 5.5, 19.0, 28.7],
    }
    for name, expected in kelip.items():
        cells = {row[0]: row[1:] for row in _cells(result_table(paper.tables[name], rows))}
        assert cells["KELIP ViT-B/32 [Ko & Gu 2022, Table 3]"] == [f"{value:.2f} %" for value in expected]
        assert cells["UNITER [Ko & Gu 2022, Table 3]"][3:] == ["–"] * 6


def test_mean__is_over_the_columns_that_a_row_has(paper: EvaluationExperiment) -> None:
    half = {"eval/cifar10_ko/zero_shot_top1": 0.5, "eval/mnist_ko/zero_shot_top1": 0.25}
    ((*_, mean),) = _cells(result_table(paper.tables["table2"], {"run": half}))
    assert mean == "37.50 % (2)"


def test_print_evaluations__names_missing_sets_sources_and_protocols(
    paper: EvaluationExperiment, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results(models={}, chance={}, notes=[], missing={"imagenet": "imagenet/test/nshards.txt"})
    print_evaluations(results, paper)
    lines = capsys.readouterr().out.splitlines()
    assert "not evaluated: imagenet, as imagenet/test/nshards.txt does not exist" in lines
    # One protocol for the 13 files whose Korean names are not the paper's.
    assert len([line for line in lines if line.startswith("KELIP ViT-B/32 [Ko & Gu 2022, Table 2]: ")]) == 1
    assert any("57.63 % (13)" in line and "CLIP ViT-B/32 [Ko & Gu 2022, Table 2]" in line for line in lines)


def test_print_evaluations__published_rows_stand_below_the_evaluated_model(
    write: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    metric, unpublished = "eval/flowers_ko/image_to_text_R@1", "eval/flowers_ko/mean_recall"
    # `[open_clip]` would be a style in rich's markup.
    published = [_row({metric: 0.5}, "open_clip"), _row({"eval/other_ko/image_to_text_R@1": 0.25}, "elsewhere")]
    experiment = _load_file(write(published=published))
    run = Evaluation(metrics={metric: 0.4, unpublished: 0.3})
    chance = {metric: 0.1, unpublished: 0.1}
    print_evaluations(Results(models={"runs/a": run}, chance=chance, notes=[], missing={}), experiment)
    printed = capsys.readouterr().out.splitlines()
    below = printed[printed.index(next(line for line in printed if "flowers, with published results" in line)) :]
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in below if line.startswith("│")]
    assert cells == [["runs/a", "Korean", "40.00 %"], ["a model [open_clip]", "Korean", "50.00 %"]]
    assert not any("elsewhere" in line for line in printed)


def test_paper__without_data_is_one_clear_sentence(tmp_path: Path) -> None:
    overrides = [f"evaluation.data_folder={tmp_path}"]
    loaded = load_experiment(PAPER, overrides, EvaluationExperiment, on_this_machine=False).experiment
    experiment = with_included(loaded, PAPER)
    with pytest.raises(DataError) as raised:
        evaluate_models(["no_model"], experiment.evaluation, torch.device("cpu"))
    message = str(raised.value)
    assert message.startswith("no evaluation set has its files here: 17 are missing, ")
    assert message.endswith("set evaluation.data_folder to the folder that holds them")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"eval/flowers_ko/image_to_text_R@1": 43.5}, r"published\.0\.metrics\.eval/flowers_ko.* must be a share in"),
        (
            {"eval/flowers_ko/image_to_text_recall": 0.4},
            r"published\.0\.metrics names 'eval/flowers_ko/image_to_text_rec",
        ),
        ({"flowers_ko/image_to_text_R@1": 0.4}, r"a metric reads like eval/SET_ko/zero_shot_top1"),
        ({"eval/flowers_ko/image_to_text_R@1": "high"}, r"published\.0\.metrics = .* must be a mapping"),
    ],
)
def test_published__wrong_metric_is_refused(
    write: Callable[..., Path], metrics: dict[str, float], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _load_file(write(published=[_row(metrics)]))


def test_published__entry_without_source_is_refused(write: Callable[..., Path]) -> None:
    entry = {"model": "a model", "metrics": {}, "protocol": "", "year": 2022}
    with pytest.raises(
        ConfigError, match=r"published\.0\.year is not a known key(.|\n)*published\.0\.source is missing"
    ):
        _load_file(write(published=[entry]))


def test_published__two_values_of_one_metric_are_refused(write: Callable[..., Path]) -> None:
    first, second = ([_row({"eval/flowers_ko/image_to_text_R@1": value})] for value in (0.4, 0.5))
    with pytest.raises(ConfigError, match=r"R@1 = 0\.4 and 0\.5 for a model \[a paper\]; remove one"):
        _load_file(write(published=first + second))
    write("part.yaml", "birds", published=second)
    file = write(published=first, include=["part.yaml"])
    with pytest.raises(ValueError, match=r"R@1 = 0\.4 and 0\.5 for a model"):
        with_included(_load_file(file), file)


def test_include__missing_file_is_refused(write: Callable[..., Path]) -> None:
    file = write(include=["absent.yaml"])
    with pytest.raises(ConfigError, match=r"file\.yaml: include names absent\.yaml, which does not exist"):
        with_included(_load_file(file), file)


def test_include__two_files_with_the_same_set_are_refused(write: Callable[..., Path]) -> None:
    write("part.yaml")
    file = write(include=["part.yaml"])
    with pytest.raises(ConfigError, match=r"part\.yaml and .*file\.yaml both have a set named flowers; rename one"):
        with_included(_load_file(file), file)


def test_include__published_results_of_one_model_are_one_row(write: Callable[..., Path]) -> None:
    write("part.yaml", "birds", published=[_row({"eval/birds_ko/image_to_text_R@1": 0.5})])
    file = write(include=["part.yaml"], published=[_row({"eval/flowers_ko/image_to_text_R@1": 0.4})])
    whole = with_included(_load_file(file), file)
    assert published_rows(whole.published) == {
        "a model [a paper]": {"eval/flowers_ko/image_to_text_R@1": 0.4, "eval/birds_ko/image_to_text_R@1": 0.5}
    }
    assert replace(whole).published == whole.published
