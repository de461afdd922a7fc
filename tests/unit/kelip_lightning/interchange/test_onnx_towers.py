"""ONNX graphs, run by onnxruntime as a reader of the folder does, against torch."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import XLMRobertaConfig, XLMRobertaModel

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.errors import ExportError
from kelip_lightning.interchange import onnx_towers
from kelip_lightning.interchange.onnx_towers import write_onnx_folder
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, Pooling, TextEncoderConfig
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import build_dual_encoder

TinyDualEncoder = Callable[..., DualEncoder]
CAPTIONS = ["사과", "빨간 사과", "Red Apple", "a drawing of a cat face " * 9, ""]


def read(folder: Path, images: Tensor, captions: list[str]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """The features that a reader of the folder computes, with files and settings of the folder alone."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    specials = json.loads((folder / "textual" / "tokenizer_config.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_file(str(folder / "textual" / "tokenizer.json"))
    length, pad = config["text_cfg"]["context_length"], specials["pad_token"]
    tokenizer.enable_padding(length=length, pad_token=pad, pad_id=tokenizer.token_to_id(pad))
    tokenizer.enable_truncation(max_length=length)
    visual, textual = (onnxruntime.InferenceSession(folder / one / "model.onnx") for one in ("visual", "textual"))
    rows = [
        textual.run(None, {"text": np.array([tokenizer.encode(one).ids], dtype=np.int32)})[0][0] for one in captions
    ]
    return visual.run(None, {"image": images.numpy()})[0], np.stack(rows)


@torch.no_grad()
def expected(model: DualEncoder, tokenizer: BilingualTokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
    return model.encode_image(images), model.encode_text(tokenizer.encode(CAPTIONS))


def images_of(model: DualEncoder, count: int) -> Tensor:
    size = model.image_encoder.config.image_size
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("pooling", list(Pooling))
def test_graphs__equal_torch(
    tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer, tmp_path: Path, pooling: Pooling
) -> None:
    model = tiny_dual_encoder(image={"pooling": pooling}).eval()
    agreement = write_onnx_folder(tmp_path / "out", model, tiny_tokenizer, "card", int8=False)
    assert min(agreement.image, agreement.text) > 0.999999
    images = images_of(model, 5)
    for found, wanted in zip(
        read(tmp_path / "out", images, CAPTIONS), expected(model, tiny_tokenizer, images), strict=True
    ):
        np.testing.assert_allclose(found, wanted.numpy(), rtol=0, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (tmp_path / "out" / "README.md").read_text(encoding="utf-8") == "card"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_graphs__of_a_hugging_face_text_tower(tiny_tokenizer: BilingualTokenizer, tmp_path: Path) -> None:
    sizes: dict[str, Any] = {
        "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
        "max_position_embeddings": 40, "vocab_size": tiny_tokenizer.vocab_size, "pad_token_id": 0,
    }  # fmt: skip
    XLMRobertaModel(XLMRobertaConfig(**sizes)).save_pretrained(tmp_path / "xlm")
    model = build_dual_encoder(
        ImageEncoderConfig(image_size=32, patch_size=16, width=16, depth=1, num_heads=2),
        TextEncoderConfig(width=16, depth=2, num_heads=2, hf_model=str(tmp_path / "xlm")),
        DualEncoderConfig(embed_dim=8),
        tiny_tokenizer,
    ).eval()
    write_onnx_folder(tmp_path / "out", model, tiny_tokenizer, "card", int8=False)
    _, texts = read(tmp_path / "out", images_of(model, 1), CAPTIONS)
    np.testing.assert_allclose(texts, expected(model, tiny_tokenizer, images_of(model, 1))[1].numpy(), atol=1e-5)


def test_int8__is_smaller_and_near(
    tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer, tmp_path: Path
) -> None:
    model = tiny_dual_encoder(image={"width": 128, "num_heads": 2}).eval()
    for name, int8 in (("float32", False), ("int8", True)):
        agreement = write_onnx_folder(tmp_path / name, model, tiny_tokenizer, "card", int8=int8)
    assert 0.9 < min(agreement.image, agreement.text) < 0.9999, "of int8"
    images = images_of(model, 3)
    found, wanted = read(tmp_path / "int8", images, CAPTIONS), expected(model, tiny_tokenizer, images)
    for one, other in zip(found, wanted, strict=True):
        assert (one * other.numpy()).sum(axis=1).min() > 0.9
    sizes = [(tmp_path / name / "visual" / "model.onnx").stat().st_size for name in ("float32", "int8")]
    assert sizes[1] < 0.5 * sizes[0]


def test_wrong_graph__is_refused(
    tiny_dual_encoder: TinyDualEncoder,
    tiny_tokenizer: BilingualTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layer = onnx_towers._padded_layer
    monkeypatch.setattr(onnx_towers, "_padded_layer", lambda block, tokens: layer(block, tokens) + tokens.cos())
    with pytest.raises(ExportError, match="the ONNX graphs differ from the model"):
        write_onnx_folder(tmp_path / "out", tiny_dual_encoder(), tiny_tokenizer, "card", int8=False)
    assert list(tmp_path.iterdir()) == []


def test_tokenizer_that_lower_cases__does_so_in_the_folder(
    tiny_dual_encoder: TinyDualEncoder, tmp_path: Path, tiny_tokenizer: BilingualTokenizer
) -> None:
    """As the official KELIP's, which lower-cases outside of its file."""
    words = Tokenizer.from_str(tiny_tokenizer.to_json())
    words.normalizer = None
    model = tiny_dual_encoder().eval()
    tokenizer = BilingualTokenizer(words, tiny_tokenizer.context_length, lowercase=True)
    assert torch.equal(tokenizer.encode("Red Apple"), tokenizer.encode("red apple"))
    write_onnx_folder(tmp_path / "out", model, tokenizer, "card", int8=False)
    _, texts = read(tmp_path / "out", images_of(model, 1), CAPTIONS)
    np.testing.assert_allclose(texts, expected(model, tokenizer, images_of(model, 1))[1].numpy(), atol=1e-5)


def test_tokenizer_whose_file_gives_other_ids__is_refused(
    tiny_dual_encoder: TinyDualEncoder,
    tmp_path: Path,
    tiny_tokenizer: BilingualTokenizer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = json.loads(tiny_tokenizer.to_json())
    words["normalizer"] = None
    monkeypatch.setattr(tiny_tokenizer, "to_json", lambda: json.dumps(words))
    with pytest.raises(ExportError, match="gives other ids than the model's tokenizer for 'A CAT's face"):
        write_onnx_folder(tmp_path / "out", tiny_dual_encoder(), tiny_tokenizer, "card", int8=False)
    assert list(tmp_path.iterdir()) == []


def test_missing_library__is_named(
    tiny_dual_encoder: TinyDualEncoder,
    tiny_tokenizer: BilingualTokenizer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(ExportError, match=r"needs onnxruntime, which is not installed: pip install .*\[onnx\]"):
        write_onnx_folder(tmp_path / "out", tiny_dual_encoder(), tiny_tokenizer, "card", int8=False)
