"""`build_model`: the official API for folders of every layout, and errors for other folders."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

import kelip_lightning
from data_modules.errors import DataError
from data_modules.text.tokenizer import BilingualTokenizer, train_tokenizer, write_tokenizer_folder
from kelip_lightning import build_model
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.inference.build_model import KelipModel, Preprocess
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import save_dual_encoder
from tests.paths import FIXTURES

TinyDualEncoder = Callable[..., DualEncoder]
OFFICIAL = FIXTURES / "official_kelip_tiny"


@pytest.fixture
def run(tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer, tmp_path: Path) -> Path:
    save_dual_encoder(tmp_path / "run" / "contrastive" / "dual_encoder", tiny_dual_encoder(), tiny_tokenizer, "# card")
    return tmp_path / "run"


@torch.no_grad()
def test_build_model__official_folder_and_the_official_calls() -> None:
    model, preprocess, _ = build_model(OFFICIAL)
    expected = load_file(OFFICIAL / "expected.safetensors")
    logits_per_image, logits_per_text = model(expected["images"], expected["texts"])
    close = {"rtol": 0.0, "atol": 2e-5}
    torch.testing.assert_close(logits_per_image, expected["logits_per_image"], **close)
    assert torch.equal(logits_per_text, logits_per_image.T)
    torch.testing.assert_close(model.encode_image(expected["images"]), expected["image_features"], **close)
    torch.testing.assert_close(
        model.encode_image(expected["images_larger"]), expected["image_features_larger"], **close
    )
    torch.testing.assert_close(model.encode_text(expected["texts"]), expected["text_features"], **close)
    unit = model.encode_text(expected["texts"], l2norm=True)
    torch.testing.assert_close(unit, F.normalize(expected["text_features"], dim=-1), **close)
    assert preprocess(Image.new("RGB", (100, 80))).shape == (3, 64, 64)
    assert not model.training


def test_build_model__official_folder_without_tokenizer_encodes_no_text() -> None:
    _, _, tokenizer = build_model(str(OFFICIAL))
    with pytest.raises(DataError, match=r"official_kelip_tiny has no tokenizer\.json"):
        tokenizer.encode("사과")


def test_build_model__a_tokenizer_that_does_not_fit_the_embedding(tmp_path: Path) -> None:
    shutil.copytree(OFFICIAL, tmp_path / "official")
    write_tokenizer_folder(tmp_path / "official", train_tokenizer(["사과"], 265, 24))
    with pytest.raises(EncoderFileError, match=r"has 26. tokens .* embedding has 120 rows"):
        build_model(tmp_path / "official")


@torch.no_grad()
def test_build_model__run_folder_its_model_folder_and_context_length(run: Path) -> None:
    for folder in (run, run / "contrastive" / "dual_encoder"):
        model, _, tokenizer = build_model(folder)
        tokens = tokenizer.encode(["사과", "red apple"])
        wide = tokenizer.encode(["사과", "red apple"], context_length=77)
        assert wide.shape == (2, 77)
        torch.testing.assert_close(model.encode_text(wide), model.encode_text(tokens))


def test_encode_text__more_tokens_than_the_model_takes(run: Path) -> None:
    model, _, _ = build_model(run)
    with pytest.raises(DataError, match="texts of more than 12 tokens"):
        model.encode_text(torch.ones(1, 20, dtype=torch.int64))


def test_build_model__not_a_model(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}', encoding="utf-8")
    with pytest.raises(EncoderFileError, match="holds no model that this suite can read"):
        build_model(tmp_path)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(EncoderFileError, match=r"config\.json is not valid JSON"):
        build_model(tmp_path)
    with pytest.raises(EncoderFileError, match=r"model folder .*nowhere does not exist"):
        build_model(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["no/where", "runs/a/b", "ViT-B/32", "not a name"])
def test_build_model__names_offline(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(EncoderFileError, match=f"{name} is neither a folder nor a model that could be downloaded"):
        build_model(name)


def test_preprocess__resizes_crops_and_standardises() -> None:
    picture = np.random.randint(0, 256, (40, 56, 3), dtype=np.uint8)
    expected = np.asarray(Image.fromarray(picture).resize((44, 32), Image.Resampling.BICUBIC))[:, 6:38] / 255
    expected = (expected - [0.48145466, 0.4578275, 0.40821073]) / [0.26862954, 0.26130258, 0.27577711]
    result = Preprocess(32)(Image.fromarray(picture)).numpy()
    np.testing.assert_allclose(result, expected.transpose(2, 0, 1), atol=1e-5)


def test_preprocess__transparent_is_white_and_modes_do_not_matter() -> None:
    transparent = Preprocess(32)(Image.new("RGBA", (32, 32), (0, 0, 0, 0)))
    assert torch.equal(transparent, Preprocess(32)(Image.new("RGB", (32, 32), "white")))
    for mode in ("L", "P", "1", "CMYK", "I;16"):
        assert Preprocess(32)(Image.new(mode, (40, 33))).shape == (3, 32, 32)


@pytest.mark.parametrize("image", ["apple.png", b"bytes", np.zeros((32, 32, 3)), torch.zeros(3, 32, 32)])
def test_preprocess__no_image(image: object) -> None:
    with pytest.raises(DataError, match=r"takes a PIL image, not .*PIL\.Image\.open"):
        Preprocess(32)(image)  # type: ignore[arg-type]


def test_model_is_a_module_that_can_be_moved(tiny_dual_encoder: TinyDualEncoder) -> None:
    model = KelipModel(tiny_dual_encoder()).to(torch.float64)
    assert model.logit_scale.dtype == torch.float64


def test_package__has_no_other_attribute() -> None:
    with pytest.raises(AttributeError, match="no attribute 'build_models'"):
        kelip_lightning.build_models  # type: ignore[attr-defined]  # noqa: B018
