"""`init.model`: training begins at the metrics of the source library, and goes on from a finished run."""

import io
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from PIL import Image
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

from data_modules.json_lines import read_json_lines
from data_modules.text.tokenizer import BilingualTokenizer, train_tokenizer, write_tokenizer_folder
from kelip_lightning import build_model
from kelip_lightning.cli import main
from kelip_lightning.config.experiment import ContrastiveExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.interchange.folder import ExportFormat, export_model
from kelip_lightning.training.initial_model import read_model_of
from kelip_lightning.training.stages import build_contrastive_module
from tests.paths import FIXTURES, ROOT
from tests.peer_models import OPEN_CLIP_TEXT, OPEN_CLIP_VISION, TEXT, VISION, randomise

COLOURS = {"빨간": "Red", "파란": "Blue", "노란": "Yellow", "하얀": "White"}
THINGS = {"사과": "apple", "나무": "tree", "바다": "sea", "고양이": "cat", "집": "house"}
PAIRS = [(f"{a} {b}", f"{c} {d}") for a, c in COLOURS.items() for b, d in THINGS.items()]
STEPS = 5
"""One epoch: every caption of both languages once."""
CLOSE = {"rtol": 0.0, "atol": 1e-6}
OFFICIAL = FIXTURES / "official_kelip_tiny"

Encode = Callable[[list[Image.Image], list[str]], tuple[Tensor, Tensor]]
"""Pictures and texts to features of unit length, by the source library alone."""


@dataclass(frozen=True)
class Source:
    folder: Path
    encode: Encode
    image_size: int
    logit_scale: float


def _pictures() -> list[Image.Image]:
    generator = np.random.default_rng(3)
    return [Image.fromarray(generator.integers(0, 256, (40, 56, 3), dtype=np.uint8)) for _ in PAIRS]


def _png(picture: Image.Image) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("data") / "pairs.parquet"
    rows = [
        {"key": str(index), "concept": str(index), "image": {"bytes": _png(picture)}, "ko": ko, "en": en}
        for index, (picture, (ko, en)) in enumerate(zip(_pictures(), PAIRS, strict=True))
    ]
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


@pytest.fixture(scope="module")
def tokenizer() -> BilingualTokenizer:
    return train_tokenizer([text for pair in PAIRS for text in pair], 300, 12)


def _experiment(folder: Path, table: Path, image_size: int, **sections: Any) -> Path:
    captions = {"ko": "ko", "en": "en"}
    tree: dict[str, Any] = {
        "name": "begun",
        "output_dir": str(folder / "runs"),
        "data": {
            "num_workers": 0,
            "global_batch_size": 8,
            "sources": {"pairs": {"files": [str(table)], "captions": captions}},
        },
        "transform": {"image_size": image_size, "num_local_crops": 0},
        "schedule": {"max_steps": STEPS, "warmup_steps": 0},
        "trainer": {"accelerator": "cpu", "precision": "32", "num_threads": 1, "log_every_n_steps": 1},
        "evaluation": {"retrieval": {"known": {"table": {"files": [str(table)], "captions": captions}}}},
    }
    file = folder / "experiment.yaml"
    file.write_text(yaml.safe_dump(tree | sections, allow_unicode=True), encoding="utf-8")
    return file


def _official(folder: Path, _: BilingualTokenizer) -> Source:
    """open_clip computes the official fixture, whose tensors have the names of OpenAI's CLIP."""
    shutil.copytree(OFFICIAL, folder)
    letters = sorted({letter for pair in PAIRS for text in pair for letter in text.lower()})
    names = dict(enumerate(["[PAD]", "[UNK]", *letters])) | {118: "[SOT]", 119: "[EOT]"}
    vocabulary = {names.get(index, f"unused {index}"): index for index in range(120)}
    characters = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    characters.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    write_tokenizer_folder(folder, BilingualTokenizer(characters, 24))
    sizes = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model = open_clip.CLIP(
        embed_dim=sizes["embed_dim"],
        quick_gelu=True,
        vision_cfg={
            "image_size": sizes["image_resolution"],
            "patch_size": sizes["vision_patch_size"],
            "width": sizes["vision_width"],
            "layers": sizes["vision_layers"],
            "head_width": 64,
        },
        text_cfg={
            "context_length": sizes["context_length"],
            "vocab_size": sizes["vocab_size"],
            "width": sizes["transformer_width"],
            "heads": sizes["transformer_heads"],
            "layers": sizes["transformer_layers"],
        },
    )
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    weights = {name.removeprefix("model."): tensor for name, tensor in weights.items()}
    model.load_state_dict(weights | {"attn_mask": model.attn_mask} if "attn_mask" in model.state_dict() else weights)
    size = sizes["image_resolution"]
    transform = open_clip.image_transform(size, is_train=False)

    def tokens(text: str) -> list[int]:
        ids = [118, *(vocabulary[letter] for letter in text.lower()), 119]
        return ids + [0] * (24 - len(ids))

    encode = _open_clip_encode(model.eval(), transform, lambda texts: torch.tensor([tokens(text) for text in texts]))
    return Source(folder, encode, size, model.logit_scale.exp().item())


def _open_clip_encode(model: Any, transform: Any, tokenize: Callable[[list[str]], Tensor]) -> Encode:
    @torch.no_grad()
    def encode(pictures: list[Image.Image], texts: list[str]) -> tuple[Tensor, Tensor]:
        images = torch.stack([transform(one) for one in pictures])
        return model.encode_image(images, normalize=True), model.encode_text(tokenize(texts), normalize=True)

    return encode


def _open_clip(folder: Path, tokenizer: BilingualTokenizer) -> Source:
    """With GELU, a mean and deviation of its own, and a logit scale above CLIP's bound."""
    write_tokenizer_folder(folder, tokenizer)
    config = {
        "model_cfg": {
            "embed_dim": 8,
            "vision_cfg": OPEN_CLIP_VISION,
            "text_cfg": OPEN_CLIP_TEXT
            | {"vocab_size": tokenizer.vocab_size, "hf_tokenizer_name": "read from the folder"},
        },
        "preprocess_cfg": {
            "mean": [0.5] * 3,
            "std": [0.4, 0.5, 0.6],
            "interpolation": "bicubic",
            "resize_mode": "shortest",
        },
    }
    (folder / "open_clip_config.json").write_text(json.dumps(config), encoding="utf-8")
    model = open_clip.create_model(f"local-dir:{folder}", load_weights=False)
    randomise(model)
    model.logit_scale.data.fill_(5.0)
    torch.save(model.state_dict(), folder / "open_clip_pytorch_model.bin")
    model, _, transform = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    words = open_clip.get_tokenizer(f"local-dir:{folder}")
    return Source(folder, _open_clip_encode(model.eval(), transform, words), 32, float(np.exp(5.0)))


def _transformers(folder: Path, tokenizer: BilingualTokenizer) -> Source:
    """With special tokens under names that no library knows."""
    own = Tokenizer.from_str(tokenizer.to_json().replace("[PAD]", "<void>").replace("[EOT]", "<stop>"))
    names = {"pad_token": "<void>", "bos_token": "[SOT]", "eos_token": "<stop>"}
    words = PreTrainedTokenizerFast(tokenizer_object=own, model_max_length=12, **names)
    text = TEXT | {"vocab_size": len(words), "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id}
    model = CLIPModel(CLIPConfig(vision_config=VISION, text_config=text, projection_dim=8)).eval()
    processor = CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    randomise(model)
    for part in (model, processor, words):
        part.save_pretrained(folder)

    @torch.no_grad()
    def encode(pictures: list[Image.Image], texts: list[str]) -> tuple[Tensor, Tensor]:
        pixels = open_clip.image_transform(32, is_train=False)  # as CLIPProcessor with the backend of Pillow
        inputs = words(texts, padding=True, return_tensors="pt")
        output = model(
            pixel_values=torch.stack([pixels(one) for one in pictures]),
            input_ids=inputs["input_ids"],
            attention_mask=inputs["attention_mask"],
        )
        return output.image_embeds, output.text_embeds

    return Source(folder, encode, 32, model.logit_scale.exp().item())


def _recalls(image_BE: Tensor, text_BE: Tensor) -> dict[str, float]:
    """Retrieval of the pair of the same row, written with NumPy alone."""
    similarity = image_BE.double().numpy() @ text_BE.double().numpy().T
    found = {}
    for direction, matrix in (("image_to_text", similarity), ("text_to_image", similarity.T)):
        ranks = (matrix > np.diag(matrix)[:, None]).sum(axis=1)
        found |= {f"{direction}_R@{k}": float((ranks < k).mean()) for k in (1, 5, 10)}
        found[f"{direction}_median_rank"] = float(np.median(ranks)) + 1
    return found


def _metrics(run: Path, step: int) -> dict[str, float]:
    lines = [line for line in read_json_lines(run / "metrics.jsonl") if line.get("step") == step]
    return {name: value for line in lines for name, value in line.items() if name.startswith("eval/")}


@pytest.mark.parametrize("make", [_official, _open_clip, _transformers])
def test_step_0_equals_the_source_library(
    make: Callable[..., Source], table: Path, tokenizer: BilingualTokenizer, tmp_path: Path
) -> None:
    source = make(tmp_path / "source", tokenizer)
    file, begin = _experiment(tmp_path, table, source.image_size), f"init.model={source.folder}"
    experiment = load_experiment(file, [begin], ContrastiveExperiment).experiment
    initial = read_model_of(experiment.init, experiment.tokenizer)
    own = initial.tokenizer.with_context_length(experiment.tokenizer.context_length)
    model = build_contrastive_module(experiment, own).model.eval()
    pictures = _pictures()
    pixels = build_model(source.folder)[1] if initial.folded is None else open_clip.image_transform(32, is_train=False)
    images = torch.stack([pixels(one) for one in pictures])
    features = {}
    for place, language in enumerate(("ko", "en")):
        texts = [pair[place] for pair in PAIRS]
        features[language] = source.encode(pictures, texts)
        with torch.no_grad():
            torch.testing.assert_close(model.encode_image(images), features[language][0], **CLOSE)
            torch.testing.assert_close(model.encode_text(own.encode(texts)), features[language][1], **CLOSE)
    assert model.scale().item() == pytest.approx(source.logit_scale, rel=1e-6)

    assert main(["contrastive", str(file), begin]) == 0
    run = tmp_path / "runs" / "begun"
    metrics = _metrics(run, 0)
    for language, pair in features.items():
        for name, value in _recalls(*pair).items():
            assert metrics[f"eval/known_{language}/{name}"] == pytest.approx(value, abs=1e-6), (language, name)
    report = json.loads((run / "initial_model.json").read_text(encoding="utf-8"))
    assert report["tensors"] == len(model.state_dict())
    assert report["temperature"] == pytest.approx(1 / source.logit_scale, rel=1e-6)
    assert report["sha256"] == yaml.safe_load((run / "config.yaml").read_text())["init"]["model_sha256"]


@pytest.fixture(scope="module")
def finished(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of this package from random weights."""
    folder = tmp_path_factory.mktemp("finished")
    tower = {"width": 32, "depth": 2, "num_heads": 2}
    file = _experiment(
        folder,
        table,
        32,
        image_encoder=tower | {"image_size": 32, "patch_size": 8},
        text_encoder=tower,
        dual_encoder={"embed_dim": 16, "initial_temperature": 0.1},
        tokenizer={"vocab_size": 400, "context_length": 12},
        optimizer={"learning_rate": 0.01},
    )
    assert main(["contrastive", str(file), "name=old"]) == 0
    return folder


@pytest.mark.parametrize("kind", ["run", "export"])
def test_going_on_with_a_finished_run_starts_at_its_final_metrics(
    finished: Path, kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same file, which states the sizes that the model has."""
    old = finished / "runs" / "old"
    source = old
    if kind == "export":
        source = tmp_path / "exported"
        export_model(old, ExportFormat.open_clip, source)
    name = f"more-{kind}"
    arguments = [str(finished / "experiment.yaml"), f"init.model={source}", f"name={name}"]
    if kind == "export":  # a layout without the temperature that training began with
        arguments.append("dual_encoder.initial_temperature=???")
    assert main(["contrastive", *arguments]) == 0
    report = json.loads((old / "report.json").read_text(encoding="utf-8"))
    new = finished / "runs" / name
    assert _metrics(new, 0) == pytest.approx(report["metrics"], abs=1e-6)
    assert _metrics(new, STEPS) != _metrics(new, 0)
    assert (new / "tokenizer.json").read_bytes() == (old / "tokenizer.json").read_bytes()
    assert "Initial model" in (new / "contrastive" / "dual_encoder" / "README.md").read_text(encoding="utf-8")
    assert f"began from {source}" in caplog.text


def test_resume__needs_the_source_no_more(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "runs" / "old", tmp_path / "old")
    arguments = ["contrastive", str(finished / "experiment.yaml"), f"init.model={tmp_path / 'old'}"]
    arguments += [f"output_dir={tmp_path / 'runs'}", "name=resumed", "checkpoint.every_n_steps=1"]
    assert main(arguments) == 0
    run = tmp_path / "runs" / "resumed"
    exported = (run / "contrastive" / "dual_encoder" / "model.safetensors").read_bytes()
    # As if its process had been killed in its last step.
    for file in ("report.json", "items.parquet"):
        (run / file).unlink()
    shutil.rmtree(run / "contrastive" / "dual_encoder")
    shutil.rmtree(run / "contrastive" / "checkpoints" / "step=0000005")
    shutil.rmtree(tmp_path / "old")
    assert main([*arguments, "--resume", "auto"]) == 0
    assert (run / "contrastive" / "dual_encoder" / "model.safetensors").read_bytes() == exported


def test_resume__before_the_first_checkpoint_needs_the_source(
    finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(finished / "runs" / "old", tmp_path / "old")
    arguments = ["contrastive", str(finished / "experiment.yaml"), f"init.model={tmp_path / 'old'}"]
    arguments += [f"output_dir={tmp_path / 'runs'}", "name=early"]
    assert main(arguments) == 0
    run = tmp_path / "runs" / "early"
    (run / "report.json").unlink()
    for folder in ("checkpoints", "dual_encoder"):
        shutil.rmtree(run / "contrastive" / folder)
    shutil.rmtree(tmp_path / "old")
    assert main([*arguments, "--resume", "auto"]) != 0
    assert f"init.model = {tmp_path / 'old'}" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["show-config", "plan"])
def test_verbs_that_train_nothing(finished: Path, verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    old = finished / "runs" / "old"
    small = _experiment(finished / "runs", finished / "nowhere.parquet", 32)
    assert main([verb, str(small), f"init.model={old}"]) == 0
    printed = capsys.readouterr().out
    if verb == "show-config":
        tree = yaml.safe_load(printed)
        assert tree["image_encoder"]["width"] == tree["text_encoder"]["width"] == 32
        assert tree["tokenizer"]["context_length"] == 12
        assert len(tree["init"]["model_sha256"]) == 64
        file = finished / "runs" / "resolved.yaml"
        file.write_text(printed, encoding="utf-8")
        assert load_experiment(file, [], ContrastiveExperiment, on_this_machine=False).resolved in printed


def test_the_yaml_of_the_documentation(finished: Path, tmp_path: Path) -> None:
    text = (ROOT / "docs" / "interchange.md").read_text(encoding="utf-8")
    block = text.partition("## Beginning from a model")[2].partition("```yaml\n")[2].partition("```")[0]
    file = tmp_path / "documented.yaml"
    file.write_text(block, encoding="utf-8")
    changes = [f"init.model={finished / 'runs' / 'old'}", "transform.image_size=32"]
    loaded = load_experiment(file, changes, ContrastiveExperiment, on_this_machine=False)
    assert loaded.experiment.init.unlock_image_blocks == 2
