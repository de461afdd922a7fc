"""A lab's own evaluation sets: the files of docs/evaluation.md on one corpus in each format, from any folder."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from data_modules.images.transforms.evaluation import evaluation_image
from kelip_lightning.cli import main
from kelip_lightning.inference.encoders import load_encoders
from kelip_lightning.training import stages
from tests.faults.experiment import write_contrastive, write_experiment
from tests.paths import FIXTURES, ROOT
from tests.unit.data_modules.corpora import picture, write_tar

RUN = FIXTURES / "run_of_e16296c" / "runs" / "finished"
FRUITS = {"apple": "사과", "pear": "배"}
NUM_IMAGES = 8
KINDS = ("table", "parquet", "saved", "imagefolder", "shards", "image_folder")
"""The blocks of the page after that of the classes, in order."""


def page_blocks() -> list[str]:
    """The YAML of the section "Your own sets"."""
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    section = page.split("## Your own sets")[1].split("\n## ")[0]
    return re.findall(r"```yaml\n(.*?)```", section, flags=re.DOTALL)


def corpus() -> list[dict[str, Any]]:
    rows = []
    for number in range(NUM_IMAGES):
        fruit = list(FRUITS)[number % 2]
        texts = {"caption_ko": f"{FRUITS[fruit]} {number}", "caption_en": f"{fruit} {number}", "fruit": fruit}
        rows.append({"name": f"{number}.png", "bytes": picture(number, file_format="PNG"), **texts})
    return rows


def write_csv(file: Path, rows: list[dict[str, Any]], name: str) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow([name, "caption_ko", "caption_en", "fruit"])
        writer.writerows([row["name"], row["caption_ko"], row["caption_en"], row["fruit"]] for row in rows)


def write_corpus(folder: Path) -> None:
    """The rows in every format that the page shows, under its names."""
    rows = corpus()
    for name in ("images", "pictures", *(f"by_class/{fruit}" for fruit in FRUITS)):
        (folder / name).mkdir(parents=True)
    for row in rows:
        for place in ("images", "pictures", f"by_class/{row['fruit']}"):
            (folder / place / row["name"]).write_bytes(row["bytes"])
    write_csv(folder / "val.csv", rows, "image")
    write_csv(folder / "pictures" / "metadata.csv", rows, "file_name")
    texts = ("caption_ko", "caption_en", "fruit")
    stored = [{"image": row["bytes"], **{name: row[name] for name in texts}} for row in rows]
    pq.write_table(pa.Table.from_pylist(stored), folder / "val.parquet")
    images = [one | {"image": {"bytes": one["image"], "path": None}} for one in stored]
    saved = datasets.Dataset.from_list(images).cast_column("image", datasets.Image())
    saved.save_to_disk(str(folder / "saved"))
    for shard in range(2):
        members = []
        for row in rows[shard::2]:
            key, described = row["name"][:-4], {name: row[name] for name in texts}
            members += [
                (f"{key}.png", row["bytes"]),
                (f"{key}.txt", row["caption_en"].encode()),
                (f"{key}.json", json.dumps(described, ensure_ascii=False).encode()),
            ]
        write_tar(folder / f"val-{shard}.tar", members)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab") / "data"
    write_corpus(folder)
    classes, *sets = page_blocks()
    (folder / "classes.yaml").write_text(classes, encoding="utf-8")
    for kind, block in zip(KINDS, sets, strict=True):
        (folder / f"{kind}.yaml").write_text(block, encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory has no data, and `datasets` its own cache."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")


def metrics(file: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, float]:
    assert main(["evaluate", str(RUN), str(file), "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["notes"], found["missing"]) == ([], {})
    values: dict[str, float] = found["models"][str(RUN)]["metrics"]
    return values


def unit(rows: torch.Tensor) -> np.ndarray:
    found = rows.float().numpy().astype(np.float64)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def expected_metrics() -> dict[str, float]:
    """Of the same model by numpy: an image is found at k if fewer than k others score as high as its own text."""
    encoders, rows = load_encoders(str(RUN), torch.device("cpu"), None), corpus()
    images = unit(encoders.encode_images(torch.stack([encoders.preprocess(row["bytes"]) for row in rows])))
    found = {}
    for language in ("ko", "en"):
        scores = images @ unit(encoders.encode_texts([row[f"caption_{language}"] for row in rows])).T
        for direction, table in (("image_to_text", scores), ("text_to_image", scores.T)):
            ranks = (table >= np.diag(table)[:, None]).sum(axis=1)
            for k in (1, 5):
                found[f"eval/fruits_{language}/{direction}_R@{k}"] = float((ranks <= k).mean())
    prompts = [[f"{word} 사진", f"{word}{particle} 찍은 사진"] for word, particle in (("사과", "를"), ("배", "를"))]
    for language, texts in (("ko", prompts), ("en", [["a photo of a apple"], ["a photo of a pear"]])):
        classes = np.stack([unit(encoders.encode_texts(own)).mean(axis=0) for own in texts])
        classes /= np.linalg.norm(classes, axis=1, keepdims=True)
        labels = np.array([list(FRUITS).index(row["fruit"]) for row in rows])
        scores = images @ classes.T
        right = scores[np.arange(len(rows)), labels] > scores[np.arange(len(rows)), 1 - labels]
        found[f"eval/kinds_{language}/zero_shot_top1"] = float(right.mean())
    return found


def test_page__every_format_of_the_same_pictures_gives_numpy_s_metrics(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = expected_metrics()
    first = metrics(data / "table.yaml", capsys)
    assert {name: first[name] for name in expected} == pytest.approx(expected, abs=1e-9)
    for kind in KINDS[1:-1]:
        assert metrics(data / f"{kind}.yaml", capsys) == pytest.approx(first, abs=1e-9), kind
    classes = {name: value for name, value in first.items() if name.startswith("eval/kinds_")}
    assert len(classes) == 4
    assert metrics(data / "image_folder.yaml", capsys) == pytest.approx(classes, abs=1e-9)


def test_evaluation_image__differs_between_the_pictures() -> None:
    """Equal metrics of the formats would say nothing of equal pictures."""
    assert len({evaluation_image(row["bytes"], 16).tobytes() for row in corpus()}) == NUM_IMAGES


def test_contrastive__paths_beside_the_file_from_another_folder(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    captions = {"ko": "caption_ko", "en": "caption_en"}
    source = {"files": ["val.csv"], "captions": captions, "image_root": "images"}
    evaluation = yaml.safe_load((data / "table.yaml").read_text(encoding="utf-8"))["evaluation"]
    file = write_contrastive(data, {"global_batch_size": 4, "sources": {"own": source}}, 2, evaluation=evaluation)
    assert main(["contrastive", str(file), f"output_dir={tmp_path / 'runs'}"]) == 0
    stored = yaml.safe_load((tmp_path / "runs" / "tiny" / "config.yaml").read_text(encoding="utf-8"))
    assert stored["data"]["sources"]["own"]["files"] == [str(data / "val.csv")]
    assert stored["evaluation"]["classification"]["kinds"]["classes_file"] == str(data / "classes.yaml")
    report = json.loads((tmp_path / "runs" / "tiny" / "report.json").read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    assert main(["evaluate", "runs/tiny", "--device", "cpu", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"]["runs/tiny"]["metrics"] == pytest.approx(report["metrics"])


WRONG = {
    "best_metric": (
        ["contrastive.checkpoint.best_metric=eval/all_ko/image_to_text_R1"],
        "contrastive.checkpoint.best_metric = 'eval/all_ko/image_to_text_R1' is no metric of this evaluation; those "
        "are eval/all_ko/image_to_text_R@1, ",
    ),
    "missing_file": (
        ["contrastive.evaluation.retrieval.all.table.files=[nowhere.csv]"],
        "contrastive.evaluation.retrieval.all: no file matches '",
    ),
    "missing_image": (
        ["contrastive.evaluation.retrieval.all.table={files: [FOLDER/broken.csv], captions: {ko: ko}}"],
        "evaluation.retrieval.all: 1 of 2 images are missing (row 1: ",
    ),
    "language": (
        ["contrastive.evaluation.retrieval.all.table.captions={ko: nothing}"],
        "has no column 'nothing'",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_pretrain__what_the_second_stage_needs_is_checked_before_the_first(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    began: list[str] = []
    monkeypatch.setattr(stages, "run_masked_pretrain", lambda *_: began.append("mae"))
    (tmp_path / "a.png").write_bytes(picture(0))
    (tmp_path / "broken.csv").write_text("image,ko,en\na.png,그림,one\nb.png,그림 둘,two\n", encoding="utf-8")
    overrides, message = WRONG[case]
    given = [one.replace("FOLDER", str(tmp_path)) for one in overrides]
    assert main(["pretrain", str(write_experiment(tmp_path)), f"output_dir={tmp_path / 'runs'}", *given]) == 2
    error = capsys.readouterr().err
    assert message in error, error
    assert began == []
    assert not (tmp_path / "runs").exists()
