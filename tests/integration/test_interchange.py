"""Runs trained through the command line, exported, and opened by the libraries that they are exported for."""

import io
from pathlib import Path
from typing import Any

import open_clip
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from transformers import CLIPModel, CLIPProcessor, pipeline

from kelip_lightning import build_model
from kelip_lightning.cli import main
from kelip_lightning.inference.encoders import load_encoders
from tests.paths import ROOT

EXPERIMENT = str(ROOT / "experiments" / "emoji" / "contrastive.yaml")
SMALL = [
    "data.global_batch_size=16",
    "data.sources.plain.files=[package:emoji/twemoji.parquet]",
    "data.sources.skin_tones=null",
    "image_encoder.width=64",
    "image_encoder.depth=2",
    "image_encoder.num_heads=1",
    "text_encoder.width=48",
    "schedule.max_steps=6",
    "data.allow_partial_epoch=true",
    "schedule.warmup_steps=1",
    "tokenizer.vocab_size=600",
    "evaluation.captions.captions=null",
    "evaluation.classification.subgroups=null",
    *(f"evaluation.retrieval.{name}=null" for name in ("unseen_design", "unseen_combinations", "flags")),
    "evaluation.retrieval.unseen_concepts.gallery={split: [unseen_concepts]}",
]
MEAN_POOLED = [
    "image_encoder.pooling=mean",
    "image_encoder.pre_norm=false",
    "image_encoder.activation=gelu",
    "text_encoder.activation=gelu",
]
"""What open_clip can express, and neither transformers.CLIPModel nor the official layout can."""
CAPTIONS = [
    "사과",
    "빨간 사과 이모지",
    "Red Apple",
    "a drawing of a  cat face",
    "국기: 대한민국",
    "flag: South Korea",
    "웃는 얼굴 " * 9,
]
TOLERANCE: dict[str, float] = {"rtol": 0.0, "atol": 2e-5}


def _train(folder: Path, name: str, *overrides: str) -> Path:
    assert main(["contrastive", EXPERIMENT, f"output_dir={folder}", f"name={name}", *SMALL, *overrides]) == 0
    return folder / name


@pytest.fixture(scope="module")
def emoji_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With the towers of the emoji experiment as it is, but smaller."""
    return _train(tmp_path_factory.mktemp("runs"), "emoji")


@pytest.fixture(scope="module")
def mean_pooled_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train(tmp_path_factory.mktemp("runs"), "mean_pooled", *MEAN_POOLED)


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    """Drawings of the corpus on white, of 72 pixels a side, which every library has to resize."""
    images = pq.read_table(ROOT / "data_modules" / "emoji" / "noto.parquet", columns=["image"]).slice(0, 400)["image"]
    found = []
    for place in range(0, 400, 80):
        drawing = Image.open(io.BytesIO(images[place].as_py()["bytes"])).convert("RGBA")
        canvas = Image.new("RGBA", drawing.size, "white")
        found.append(Image.alpha_composite(canvas, drawing).convert("RGB"))
    return found


def _export(run: Path, name: str) -> Path:
    output = run.parent / f"{run.name}-{name}"
    if not output.exists():
        assert main(["export", str(run), "--format", name, "--output", str(output)]) == 0
    return output


@torch.no_grad()
def _ours(run: Path, pictures: list[Image.Image]) -> dict[str, Any]:
    model, preprocess, tokenizer = build_model(run)
    images, tokens = torch.stack([preprocess(one) for one in pictures]), tokenizer.encode(CAPTIONS)
    return {
        "ids": tokens,
        "pixels": images,
        "image_features": model.encode_image(images, l2norm=True),
        "text_features": model.encode_text(tokens, l2norm=True),
        "logits": model(images, tokens)[0],
    }


@torch.no_grad()
def test_transformers__computes_the_same(emoji_run: Path, pictures: list[Image.Image]) -> None:
    ours, folder = _ours(emoji_run, pictures), _export(emoji_run, "transformers")
    model = CLIPModel.from_pretrained(folder).eval()
    processor = CLIPProcessor.from_pretrained(folder, backend="pil")
    batch = processor(text=CAPTIONS, images=pictures, padding=True, truncation=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], ours["ids"])
    torch.testing.assert_close(batch["pixel_values"], ours["pixels"], **TOLERANCE)
    output = model(**batch)
    torch.testing.assert_close(output.image_embeds, ours["image_features"], **TOLERANCE)
    torch.testing.assert_close(output.text_embeds, ours["text_features"], **TOLERANCE)
    torch.testing.assert_close(output.logits_per_image, ours["logits"], **TOLERANCE)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["emoji_run", "mean_pooled_run"])
def test_open_clip__computes_the_same(kind: str, request: pytest.FixtureRequest, pictures: list[Image.Image]) -> None:
    run = request.getfixturevalue(kind)
    ours, name = _ours(run, pictures), f"local-dir:{_export(run, 'open_clip')}"
    model, _, preprocess = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)(CAPTIONS)
    images = torch.stack([preprocess(one) for one in pictures])
    assert torch.equal(tokens[:, : ours["ids"].shape[1]], ours["ids"])
    torch.testing.assert_close(images, ours["pixels"], **TOLERANCE)
    model.eval()
    torch.testing.assert_close(model.encode_image(images, normalize=True), ours["image_features"], **TOLERANCE)
    torch.testing.assert_close(model.encode_text(tokens, normalize=True), ours["text_features"], **TOLERANCE)
    torch.testing.assert_close(model.get_logits(images, tokens)[0], ours["logits"], **TOLERANCE)


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("emoji_run", "transformers"),
        ("emoji_run", "open_clip"),
        ("emoji_run", "kelip"),
        ("mean_pooled_run", "open_clip"),
    ],
)
def test_exported_folder__comes_back(
    kind: str, name: str, request: pytest.FixtureRequest, pictures: list[Image.Image]
) -> None:
    run = request.getfixturevalue(kind)
    ours, again = _ours(run, pictures), _ours(_export(run, name), pictures)
    for key, tensor in ours.items():
        torch.testing.assert_close(again[key], tensor, **TOLERANCE)
    card = (_export(run, name) / "README.md").read_text(encoding="utf-8")
    assert "6 optimizer steps of 16" in card
    assert "| unseen_concepts_ko/image_to_text_R@1 |" in card
    assert "git revision" in card


@torch.no_grad()
def test_transformers__default_pipeline_gives_our_probabilities(emoji_run: Path, pictures: list[Image.Image]) -> None:
    model, preprocess, tokenizer = build_model(emoji_run)
    labels = ["사과", "red apple", "웃는 얼굴"]  # the pipeline cuts no text at the context length; the card says so
    classify = pipeline("zero-shot-image-classification", model=str(_export(emoji_run, "transformers")))
    tokens = tokenizer.encode(labels)
    for picture in pictures:
        found = {one["label"]: one["score"] for one in classify(picture, labels, hypothesis_template="{}")}
        logits, _ = model(preprocess(picture).unsqueeze(0), tokens)
        wanted = dict(zip(labels, logits.softmax(dim=-1)[0].tolist(), strict=True))
        # The default image processor differs by one grey level in some pixels.
        assert found == pytest.approx(wanted, abs=5e-3)


@torch.no_grad()
@pytest.mark.parametrize("kind", ["emoji_run", "mean_pooled_run"])
def test_onnx__evaluates_as_the_run(kind: str, request: pytest.FixtureRequest, pictures: list[Image.Image]) -> None:
    run = request.getfixturevalue(kind)
    ours, encoders = _ours(run, pictures), load_encoders(f"onnx:{_export(run, 'onnx')}", torch.device("cpu"))
    streams = [io.BytesIO() for _ in pictures]
    for stream, picture in zip(streams, pictures, strict=True):
        picture.save(stream, "PNG")
    images = torch.stack([encoders.preprocess(stream.getvalue()) for stream in streams])
    torch.testing.assert_close(encoders.encode_images(images), ours["image_features"], **TOLERANCE)
    torch.testing.assert_close(encoders.encode_texts(CAPTIONS), ours["text_features"], **TOLERANCE)
    scaled = encoders.logit_scale * ours["image_features"] @ ours["text_features"].T
    torch.testing.assert_close(scaled, ours["logits"], rtol=1e-5, atol=1e-4)


def test_export__names_what_a_layout_cannot_express(
    mean_pooled_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("transformers", "kelip"):
        assert main(["export", str(mean_pooled_run), "--format", name, "--output", str(tmp_path / name)]) == 2
        error = capsys.readouterr().err
        assert "image_encoder.pooling must be cls; image_encoder.pre_norm must be true" in error
    assert list(tmp_path.iterdir()) == []
