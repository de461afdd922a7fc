"""`clip_benchmark eval` on an exported run prints the metrics that `kelip evaluate` prints for its folder."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from kelip_lightning.cli import main
from tests.clip_benchmark_folders import TEMPLATES, read_drawings, write_classification_folder, write_retrieval_folder
from tests.paths import ROOT

GROUPS = (
    "animal-mammal", "transport-ground", "sky & weather", "heart", "clothing", "person-sport", "food-prepared",
    "geometric", "time", "person-gesture", "face-smiling",
)  # fmt: skip
NO_IMAGES = "heart"
EXPERIMENT = str(ROOT / "experiments" / "emoji" / "contrastive.yaml")
SMALL = [
    "data.global_batch_size=128",
    "data.num_workers=0",
    "data.sources.plain.files=[package:emoji/noto.parquet]",
    "data.sources.plain.where.split=[unseen_design]",
    "data.sources.skin_tones=null",
    "transform.image_size=32",
    "transform.num_global_crops=1",
    "transform.num_local_crops=0",
    "image_encoder.image_size=32",
    "image_encoder.patch_size=8",
    "image_encoder.patch_drop_rate=0.0",
    "image_encoder.width=64",
    "image_encoder.depth=2",
    "image_encoder.num_heads=1",
    "text_encoder.width=48",
    "text_encoder.depth=1",
    "dual_encoder.embed_dim=32",
    "tokenizer.vocab_size=600",
    "optimizer.learning_rate=5.0e-3",
    "schedule.max_steps=70",
    "data.allow_partial_epoch=true",
    "schedule.warmup_steps=5",
    "trainer.precision=32",
    "trainer.accelerator=cpu",
    "evaluation.captions.captions=null",
    "evaluation.classification.subgroups=null",
    *(
        f"evaluation.retrieval.{name}=null"
        for name in ("unseen_design", "unseen_combinations", "unseen_concepts", "flags")
    ),
]
CLASSIFICATION = {"acc1": "zero_shot_top1", "acc5": "zero_shot_top5", "mean_per_class_recall": "mean_per_class_recall"}
RETRIEVAL = {
    f"{theirs}_retrieval_recall@{k}": f"{ours}_R@{k}"
    for theirs, ours in (("image", "text_to_image"), ("text", "image_to_text"))
    for k in (1, 5, 10)
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that is better than chance, in the layout of open_clip."""
    folder = tmp_path_factory.mktemp("runs")
    assert main(["contrastive", EXPERIMENT, f"output_dir={folder}", "name=emoji", *SMALL]) == 0
    output = folder / "exported"
    assert main(["export", str(folder / "emoji"), "--format", "open_clip", "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def class_names() -> dict[str, list[str]]:
    """Language -> a name of each group, one of which has no image."""
    file = ROOT / "data_modules" / "assets" / "classes" / "emoji_subgroups.yaml"
    classes = yaml.safe_load(file.read_text(encoding="utf-8"))["classes"]
    return {language: [classes[group][language][0] for group in GROUPS] for language in TEMPLATES}


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory, class_names: dict[str, list[str]]) -> Path:
    """A folder with the sets `classes_LANGUAGE` and `captions_LANGUAGE`."""
    folder = tmp_path_factory.mktemp("sets")
    drawings = read_drawings(GROUPS, per_class=21)
    labelled = [one for one in drawings if one.label != GROUPS.index(NO_IMAGES)]
    assert len(labelled) > 190
    for language, names in class_names.items():
        write_classification_folder(folder / f"classes_{language}", labelled, names, language)
        write_retrieval_folder(folder / f"captions_{language}", drawings, language)
    return folder


def _clip_benchmark(task: str, kind: str, model: Path, sets: Path, output: Path) -> dict[str, dict[str, float]]:
    """Language -> metrics that the command writes."""
    options: dict[str, list[str]] = {
        "--dataset": [f"wds/{kind}_{language}" for language in TEMPLATES],
        "--dataset_root": [f"{sets}/{{dataset}}"],
        "--task": [task],
        "--model_type": ["open_clip"],
        "--model": [f"local-dir:{model}"],
        "--pretrained": [""],
        "--recall_k": ["1", "5", "10"],
        "--batch_size": ["37"],
        "--num_workers": ["0"],
        "--output": [f"{output}/{{dataset}}.json"],
    }
    words = [word for option, values in options.items() for word in (option, *values)]
    # Embeddings and metrics on the CPU in float32, as `--device cpu` below.
    environment = os.environ | {"CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-m", "tests.clip_benchmark_command", "eval", *words, "--no_amp", "--quiet"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return {
        language: json.loads((output / f"{kind}_{language}.json").read_text(encoding="utf-8"))["metrics"]
        for language in TEMPLATES
    }


@pytest.fixture
def evaluate(exported: Path, sets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """What `kelip evaluate --json` prints for some sets."""

    def run(**kinds: Mapping[str, Any]) -> Any:
        file = tmp_path / "sets.yaml"
        file.write_text(yaml.safe_dump({"evaluation": {"data_folder": str(sets), **kinds}}), encoding="utf-8")
        capsys.readouterr()
        assert main(["evaluate", str(exported), str(file), "--device", "cpu", "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    return run


def _table(folder: str, **captions: str) -> dict[str, Any]:
    return {"table": {"files": [folder], "layout": "clip_benchmark", "captions": captions}, "tie_rule": "topk"}


def _check_equal(metrics: Mapping[str, float], data_set: str, names: Mapping[str, str], theirs: dict[str, Any]) -> None:
    assert theirs.keys() == names.keys()
    ours = {name: metrics[f"eval/{data_set}/{rest}"] for name, rest in names.items()}
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_classification__equals_the_command(
    exported: Path, sets: Path, class_names: dict[str, list[str]], evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    classes_file = tmp_path / "classes.yaml"
    classes = {
        str(label): {language: names[label] for language, names in class_names.items()} for label in range(len(GROUPS))
    }
    classes_file.write_text(yaml.safe_dump({"templates": TEMPLATES, "classes": classes}), encoding="utf-8")
    found = evaluate(
        classification={
            "folder": _table("classes_en"),
            "korean_folder": _table("classes_ko"),
            "file": _table("classes_en") | {"classes_file": str(classes_file)},
        }
    )
    theirs = _clip_benchmark("zeroshot_classification", "classes", exported, sets, tmp_path)
    (metrics,) = (one["metrics"] for one in found["models"].values())
    _check_equal(metrics, "folder_en", CLASSIFICATION, theirs["en"])
    # The names in a folder count as English, whatever they are.
    _check_equal(metrics, "korean_folder_en", CLASSIFICATION, theirs["ko"])
    _check_equal(metrics, "file_en", CLASSIFICATION, theirs["en"])
    _check_equal(metrics, "file_ko", CLASSIFICATION, theirs["ko"])
    # A model that is always or never right would not show much.
    assert all(0 < one["acc1"] < 1 for one in theirs.values())
    assert theirs["ko"] != theirs["en"]
    note = f"1 of {len(GROUPS)} classes have no image ({GROUPS.index(NO_IMAGES)}); their recall does not count"
    assert f"evaluation.classification.folder: {note}" in found["notes"]


def test_retrieval__equals_the_command(
    exported: Path, sets: Path, evaluate: Callable[..., Any], tmp_path: Path
) -> None:
    found = evaluate(retrieval={f"in_{one}": _table(f"captions_{one}", **{one: "captions"}) for one in TEMPLATES})
    theirs = _clip_benchmark("zeroshot_retrieval", "captions", exported, sets, tmp_path)
    (metrics,) = (one["metrics"] for one in found["models"].values())
    for language in TEMPLATES:
        _check_equal(metrics, f"in_{language}_{language}", RETRIEVAL, theirs[language])
        assert 0 < theirs[language]["image_retrieval_recall@10"] < 1
        assert not math.isclose(
            theirs[language]["image_retrieval_recall@10"], theirs[language]["text_retrieval_recall@10"], abs_tol=1e-6
        )
