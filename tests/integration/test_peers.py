"""Models of other libraries have the metrics that their own code and CLIP_benchmark's functions give.

The official KELIP has no package: `build_model` stands for its code, whose features are those of the fixture
(`tests/unit/kelip_lightning/inference/test_build_model.py`).
"""

import io
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
from PIL import Image
from sklearn.metrics import balanced_accuracy_score
from torch import Tensor
from torchvision import transforms
from transformers import AutoModel, AutoProcessor

from data_modules.text.tokenizer import train_tokenizer
from kelip_lightning import build_model
from kelip_lightning.cli import main
from kelip_lightning.models.preprocessing import CLIP_MEAN, CLIP_STD
from tests.clip_benchmark_command import accept_arrays_of_one
from tests.clip_benchmark_folders import Drawing, read_drawings
from tests.peer_models import save_clip, save_official_kelip, save_open_clip_siglip, save_siglip

GROUPS = ("animal-mammal", "clothing", "food-prepared", "time", "person-gesture", "face-smiling")
NAMES = ("animal", "clothes", "food", "clock", "gesture", "smiling face")
TEMPLATES = ("{c}", "a drawing of {c}", "emoji: {c}")
NUM_CAPTIONS, KS = 5, (1, 5, 10)
MODELS = {
    "official": "official",
    "clip": "transformers:clip",
    "siglip": "transformers:siglip",
    "open_clip": "open_clip:local-dir:open_clip",
}
"""Folder -> MODEL."""


@dataclass(frozen=True, slots=True)
class Peer:
    """A model as CLIP_benchmark's functions take it."""

    model: Any
    """With `encode_image` and `encode_text`."""
    preprocess: Callable[[Image.Image], Tensor]
    tokenizer: Callable[[Sequence[str]], Any]


@pytest.fixture(scope="module")
def drawings() -> list[Drawing]:
    found = [one for one in read_drawings(GROUPS, 12, NUM_CAPTIONS) if len(one.captions["en"]) == NUM_CAPTIONS]
    assert len(found) > 50
    return found


@pytest.fixture
def folder(drawings: list[Drawing], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: the models, the samples, their classes and the evaluation file."""
    monkeypatch.chdir(tmp_path)
    texts = [text for one in drawings for text in one.captions["en"]] + [*NAMES, "a drawing of emoji:"]
    words = re.findall(r"\w+|[^\w\s]+", " ".join(texts))
    save_clip(tmp_path / "clip", words)
    save_siglip(tmp_path / "siglip", words)
    save_open_clip_siglip(tmp_path / "open_clip", train_tokenizer(texts, 280, 12))
    save_official_kelip(tmp_path / "official")
    rows = [
        {"key": str(number), "image": {"bytes": one.image}, "group": GROUPS[one.label], "en": one.captions["en"]}
        for number, one in enumerate(drawings)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "samples.parquet")
    classes = {group: {"en": name} for group, name in zip(GROUPS, NAMES, strict=True)}
    _write_yaml(tmp_path / "classes.yaml", {"classes": classes, "templates": {"en": list(TEMPLATES)}})
    samples: dict[str, Any] = {"files": ["samples.parquet"]}
    labels = {"label": "group", "classes_file": "classes.yaml"}
    evaluation = {
        "batch_size": 17,
        "classification": {"groups": {"table": samples, "tie_rule": "topk", **labels}},
        "retrieval": {"captions": {"table": samples | {"captions": {"en": "en"}}, "tie_rule": "topk"}},
    }
    _write_yaml(tmp_path / "sets.yaml", {"evaluation": evaluation})
    return tmp_path


def _write_yaml(file: Path, content: dict[str, Any]) -> None:
    file.write_text(yaml.safe_dump(content), encoding="utf-8")


def _official(folder: Path) -> Peer:
    model, _, tokenizer = build_model(folder)
    preprocess = transforms.Compose([
        transforms.Resize(64, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(64),
        transforms.ToTensor(),
        transforms.Normalize(CLIP_MEAN, CLIP_STD),
    ])  # fmt: skip
    return Peer(model, preprocess, lambda texts: tokenizer.encode(list(texts)))


def _transformers(folder: Path) -> Peer:
    model, processor = AutoModel.from_pretrained(folder).eval(), AutoProcessor.from_pretrained(folder)
    padding = "max_length" if folder.name == "siglip" else True
    peer = SimpleNamespace(
        encode_image=lambda pixels: model.get_image_features(pixel_values=pixels).pooler_output,
        encode_text=lambda tokens: model.get_text_features(**tokens).pooler_output,
    )
    return Peer(
        peer,
        lambda image: processor(images=image, return_tensors="pt").pixel_values[0],
        lambda texts: processor(text=list(texts), padding=padding, truncation=True, max_length=12, return_tensors="pt"),
    )


def _open_clip(folder: Path) -> Peer:
    name = f"local-dir:{folder}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    return Peer(model.eval(), preprocess, open_clip.get_tokenizer(name))


@torch.no_grad()
def _expected(peer: Peer, drawings: list[Drawing]) -> dict[str, float]:
    accept_arrays_of_one()
    pixels = torch.stack([peer.preprocess(Image.open(io.BytesIO(one.image))) for one in drawings])
    labels = torch.tensor([one.label for one in drawings])
    captions = [one.captions["en"] for one in drawings]
    classifier = zeroshot_classification.zero_shot_classifier(
        peer.model, peer.tokenizer, list(NAMES), list(TEMPLATES), "cpu", amp=False
    )
    batches = list(zip(pixels.split(17), labels.split(17), strict=True))
    logits, target = zeroshot_classification.run_classification(peer.model, classifier, batches, "cpu", amp=False)
    top1, top5 = zeroshot_classification.accuracy(logits, target, topk=(1, 5))
    pairs = [(pixels[start : start + 17], captions[start : start + 17]) for start in range(0, len(pixels), 17)]
    recalls = zeroshot_retrieval.evaluate(peer.model, pairs, peer.tokenizer, "cpu", amp=False, recall_k_list=list(KS))
    expected = {
        "eval/groups_en/zero_shot_top1": top1,
        "eval/groups_en/zero_shot_top5": top5,
        "eval/groups_en/mean_per_class_recall": balanced_accuracy_score(target, logits.argmax(dim=1)),
    }
    for k in KS:
        expected[f"eval/captions_en/text_to_image_R@{k}"] = recalls[f"image_retrieval_recall@{k}"]
        expected[f"eval/captions_en/image_to_text_R@{k}"] = recalls[f"text_retrieval_recall@{k}"]
    return expected


@pytest.mark.parametrize(
    ("name", "load"),
    [("official", _official), ("clip", _transformers), ("siglip", _transformers), ("open_clip", _open_clip)],
)
def test_evaluate__metrics_of_the_library(
    name: str,
    load: Callable[[Path], Peer],
    folder: Path,
    drawings: list[Drawing],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["evaluate", MODELS[name], "sets.yaml", "--device", "cpu", "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)["models"][MODELS[name]]["metrics"]
    expected = _expected(load(folder / name), drawings)
    assert {one: metrics[one] for one in expected} == pytest.approx(expected, abs=1e-6)
    assert len(set(expected.values())) > 4, "a collapsed model would agree with anything"


@pytest.mark.usefixtures("folder")
def test_evaluate__several_models_in_one_table(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["evaluate", *MODELS.values(), "sets.yaml", "--device", "cpu", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["models"]
    assert main(["evaluate", *MODELS.values(), "sets.yaml", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    (heading,) = (line for line in lines if "evaluation set" in line)
    assert [cell.strip() for cell in heading.strip("┃").split("┃")][3:] == [*MODELS.values(), "chance"]
    (row,) = (line for line in lines if "groups" in line and "mean_per_class_recall" in line)
    cells = [cell.strip() for cell in row.strip("│").split("│")]
    metrics = [one["metrics"]["eval/groups_en/mean_per_class_recall"] for one in found.values()]
    assert cells[3:] == [f"{100 * value:.2f} %" for value in (*metrics, 1 / len(GROUPS))]
