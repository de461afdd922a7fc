"""Models of open_clip give the features of open_clip's own functions, and errors are one sentence."""

import importlib.util
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from torch import Tensor

from data_modules.faults import SampleFault
from data_modules.images.decoding import decode_image
from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.inference.encoders import load_encoders
from tests.peer_models import OPEN_CLIP_SIGLIP, OPEN_CLIP_TEXT, OPEN_CLIP_VISION, save_open_clip_siglip

CPU = torch.device("cpu")
TOLERANCE: dict[str, float] = {"rtol": 0.0, "atol": 1e-6}
CLIP: dict[str, Any] = {"embed_dim": 8, "vision_cfg": OPEN_CLIP_VISION, "text_cfg": OPEN_CLIP_TEXT}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a tiny model that open_clip knows."""
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-B-8", CLIP)
    return "Tiny-B-8"


@pytest.fixture
def checkpoint(known: str, tmp_path: Path) -> Path:
    model = open_clip.create_model(known)
    with torch.no_grad():
        model.logit_scale.fill_(3.0)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "epoch_1.pt")
    return tmp_path / "epoch_1.pt"


@pytest.fixture
def siglip_folder(tmp_path: Path, tiny_tokenizer: BilingualTokenizer) -> Path:
    return save_open_clip_siglip(tmp_path / "siglip", tiny_tokenizer)


@torch.no_grad()
def check_equals_open_clip(
    encoders: Encoders, names: tuple[str, str | None], files: dict[str, bytes], captions: list[str]
) -> None:
    model, _, transform = open_clip.create_model_and_transforms(*names)
    model.eval()
    images: Tensor = torch.stack([transform(decode_image(data)) for data in files.values()])
    tokens = open_clip.get_tokenizer(names[0])(captions)
    ours = torch.stack([encoders.preprocess(data) for data in files.values()])
    assert torch.equal(ours, images)
    assert ours.dtype == torch.float32
    torch.testing.assert_close(encoders.encode_images(ours), model.encode_image(images), **TOLERANCE)
    torch.testing.assert_close(encoders.encode_texts(captions), model.encode_text(tokens), **TOLERANCE)
    assert encoders.logit_scale == pytest.approx(model.logit_scale.exp().item())


def test_checkpoint_of_a_known_model(
    known: str, checkpoint: Path, image_files: dict[str, bytes], captions: list[str]
) -> None:
    encoders = load_encoders(f"open_clip:{known}:{checkpoint}", CPU)
    check_equals_open_clip(encoders, (known, str(checkpoint)), image_files, captions)
    assert encoders.logit_scale == pytest.approx(torch.tensor(3.0).exp().item())
    assert encoders.name == f"open_clip:{known}:{checkpoint}"


def test_local_folder_with_its_own_preprocessing_and_tokenizer(
    siglip_folder: Path, image_files: dict[str, bytes], captions: list[str]
) -> None:
    name = f"local-dir:{siglip_folder}"
    check_equals_open_clip(load_encoders(f"open_clip:{name}", CPU), (name, None), image_files, captions)


def test_slash_in_the_name_is_a_hyphen_for_model_and_tokenizer(
    monkeypatch: pytest.MonkeyPatch, siglip_folder: Path
) -> None:
    text = OPEN_CLIP_SIGLIP["text_cfg"] | {"hf_tokenizer_name": str(siglip_folder)}
    monkeypatch.setitem(open_clip.factory._MODEL_CONFIGS, "Tiny-B-8", OPEN_CLIP_SIGLIP | {"text_cfg": text})
    weights = siglip_folder / "open_clip_pytorch_model.bin"
    by_slash, by_hyphen = (load_encoders(f"open_clip:{name}:{weights}", CPU) for name in ("Tiny-B/8", "Tiny-B-8"))
    assert torch.equal(by_slash.encode_texts(["사과"]), by_hyphen.encode_texts(["사과"]))


def test_preprocess__pickles_and_refuses_what_is_no_image(siglip_folder: Path, image_files: dict[str, bytes]) -> None:
    preprocess = load_encoders(f"open_clip:local-dir:{siglip_folder}", CPU).preprocess
    restored = pickle.loads(pickle.dumps(preprocess))
    assert torch.equal(restored(image_files["rgb"]), preprocess(image_files["rgb"]))
    with pytest.raises(SampleFault, match="not a readable image"):
        preprocess(b"no image")


@torch.no_grad()
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_precision__as_open_clip_names_it(
    precision: str, known: str, checkpoint: Path, image_files: dict[str, bytes], captions: list[str]
) -> None:
    encoders = load_encoders(f"open_clip:{known}:{checkpoint}", CPU, precision)
    images = torch.stack([encoders.preprocess(data) for data in image_files.values()])
    tokens = open_clip.get_tokenizer(known)(captions)
    theirs = {"bf16-mixed": "amp_bf16", "bf16-true": "pure_bf16"}[precision]
    model = open_clip.create_model(known, str(checkpoint), precision=theirs).eval()
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        dtype = torch.bfloat16 if precision == "bf16-true" else torch.float32
        expected = model.encode_image(images.to(dtype)), model.encode_text(tokens)
    assert expected[0].dtype == torch.bfloat16
    assert torch.equal(encoders.encode_images(images), expected[0])
    assert torch.equal(encoders.encode_texts(captions), expected[1])


def damaged_weights(folder: Path) -> None:
    (folder / "open_clip_pytorch_model.bin").write_bytes(b"nothing")


def other_weights(folder: Path) -> None:
    torch.save({"a": torch.zeros(1)}, folder / "open_clip_pytorch_model.bin")


def no_weights(folder: Path) -> None:
    (folder / "open_clip_pytorch_model.bin").unlink()


def no_config(folder: Path) -> None:
    (folder / "open_clip_config.json").unlink()


def damaged_config(folder: Path) -> None:
    (folder / "open_clip_config.json").write_text("{", encoding="utf-8")


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()


def no_tokenizer_beside_the_configuration_of_transformers(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "config.json").write_text('{"model_type": "clip"}', encoding="utf-8")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damaged_weights, "open_clip cannot load local-dir:"),
        (other_weights, "open_clip cannot load local-dir:"),
        (no_weights, "could not be loaded"),
        (no_config, r"has no open_clip_config\.json"),
        (damaged_config, "Could not load valid config"),
        (no_tokenizer, "open_clip cannot load local-dir:"),
        (no_tokenizer_beside_the_configuration_of_transformers, "holds no tokenizer"),
    ],
)
def test_damaged_folder(damage: Callable[[Path], None], message: str, siglip_folder: Path) -> None:
    damage(siglip_folder)
    with pytest.raises(EncoderFileError, match=message) as caught:
        load_encoders(f"open_clip:local-dir:{siglip_folder}", CPU)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-B-3:openai", "open_clip has no model ViT-B-3; did you mean ViT-B-32?"),
        ("요:openai", r"open_clip has no model 요; open_clip\.list_models\(\) lists them"),
        ("ViT-B-32", r"ViT-B-32 names no weights; give open_clip:ViT-B-32:CHECKPOINT .* or one of the tags openai, "),
        ("ViT-B-32:nowhere.pt", r"no weights nowhere\.pt of ViT-B-32, nor is there such a file; .* tags openai, "),
        ("ViT-B-32:openai", "trained with QuickGELU, .* has GELU; give open_clip:ViT-B-32-quickgelu:openai"),
        ("roberta-ViT-B-32:laion2b_s12b_b32k", r"open_clip cannot load roberta-"),
        ("local-dir:no/where", r"model folder no/where does not exist"),
        ("hf-hub:no/where", r"open_clip cannot load hf-hub:no/where \(.*\)"),
        ("xlm-roberta-base-ViT-B-32:laion5b_s13b_b90k", r"open_clip cannot load xlm-.* \(Failed to download"),
    ],
)
def test_unknown_names(name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderFileError, match=message) as caught:
        load_encoders(f"open_clip:{name}", CPU)
    assert len(str(caught.value).splitlines()) == 1


def test_open_clip_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "open_clip" else find_spec(name, *rest)
    )
    with pytest.raises(EncoderFileError, match="not installed: pip install open_clip_torch"):
        load_encoders("open_clip:ViT-B-32:laion2b_s34b_b79k", CPU)
