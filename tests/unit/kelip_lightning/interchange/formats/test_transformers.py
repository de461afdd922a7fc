"""`transformers.CLIPModel` in and out, with its own tokenizer and image processor."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.errors import EncoderFileError, ExportError
from kelip_lightning.inference.build_model import Preprocess
from kelip_lightning.interchange.folder import (
    ExportFormat,
    load_foreign_model,
    write_foreign_folder,
)
from kelip_lightning.models.config import Activation
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.preprocessing import CLIP_STD

MovedModel = Callable[..., DualEncoder]
TOLERANCE: dict[str, float] = {"rtol": 0.0, "atol": 2e-5}

SIZES: dict[str, Any] = {
    "projection_dim": 8,
    "vision_config": {
        "hidden_size": 12, "intermediate_size": 30, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 32,
        "patch_size": 8, "hidden_act": "gelu",
    },
    "text_config": {
        "hidden_size": 20, "intermediate_size": 40, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 60,
        "max_position_embeddings": 9, "eos_token_id": 59, "pad_token_id": 1, "bos_token_id": 58,
    },
}  # fmt: skip


def _write(folder: Path, model: DualEncoder, tokenizer: BilingualTokenizer) -> Path:
    write_foreign_folder(folder, model, tokenizer, ExportFormat.transformers, "# card")
    return folder


@torch.no_grad()
@pytest.mark.parametrize("activation", list(Activation))
def test_export__the_library_computes_the_same(
    moved_model: MovedModel, exported_tokenizer: BilingualTokenizer, inputs: Any, tmp_path: Path, activation: Activation
) -> None:
    model = moved_model(image={"activation": activation, "num_heads": 4}, text={"mlp_ratio": 2.0})
    folder = _write(tmp_path / "out", model, exported_tokenizer)
    theirs, processor = CLIPModel.from_pretrained(folder).eval(), CLIPProcessor.from_pretrained(folder, backend="pil")
    pictures = [Image.fromarray(np.random.randint(0, 256, (40, side, 3), dtype=np.uint8)) for side in (40, 52, 96)]
    batch = processor(text=inputs.captions, images=pictures, padding=True, truncation=True, return_tensors="pt")
    assert torch.equal(batch["input_ids"], exported_tokenizer.encode(inputs.captions))
    images = torch.stack([Preprocess(32)(picture) for picture in pictures])
    torch.testing.assert_close(batch["pixel_values"], images)
    # The library's other backend resizes to a neighbouring grey level here and there.
    other = CLIPProcessor.from_pretrained(folder)(images=pictures, return_tensors="pt")
    torch.testing.assert_close(other["pixel_values"], images, rtol=0, atol=1.01 / 255 / min(CLIP_STD))
    output = theirs(**batch)
    image_BE, text_BE = model.encode_image(images), model.encode_text(exported_tokenizer.encode(inputs.captions))
    torch.testing.assert_close(output.image_embeds, image_BE, **TOLERANCE)
    torch.testing.assert_close(output.text_embeds, text_BE, **TOLERANCE)
    torch.testing.assert_close(output.logits_per_image, model.scale() * image_BE @ text_BE.T, **TOLERANCE)


def test_export__comes_back_bit_for_bit(
    moved_model: MovedModel, exported_tokenizer: BilingualTokenizer, tmp_path: Path
) -> None:
    model = moved_model()
    again = load_foreign_model(_write(tmp_path / "out", model, exported_tokenizer), ExportFormat.transformers).model
    for name, tensor in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name


@torch.no_grad()
@pytest.mark.parametrize("eos_token_id", [59, 2])
def test_load__computes_what_the_library_computes(tmp_path: Path, eos_token_id: int) -> None:
    config = CLIPConfig(**SIZES)
    config.text_config.eos_token_id = eos_token_id  # 2 in old configurations: the largest id is meant
    theirs = CLIPModel(config).eval()
    for parameter in theirs.parameters():
        parameter.add_(torch.randn_like(parameter) * 0.1)
    theirs.save_pretrained(tmp_path)
    ours = load_foreign_model(tmp_path, ExportFormat.transformers).model
    images, tokens = torch.randn(2, 3, 32, 32), torch.tensor([[58, 4, 5, 59, 1, 1], [58, 7, 9, 2, 30, 59]])
    output = theirs(pixel_values=images, input_ids=tokens)
    image_BE, text_BE = ours.encode_image(images), ours.encode_text(tokens)
    torch.testing.assert_close(image_BE, output.image_embeds, **TOLERANCE)
    torch.testing.assert_close(text_BE, output.text_embeds, **TOLERANCE)
    torch.testing.assert_close(ours.scale() * image_BE @ text_BE.T, output.logits_per_image, **TOLERANCE)


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("vision_config", {"hidden_act": "relu"}, "hidden_act = 'relu' cannot be read"),
        ("vision_config", {"num_channels": 1}, "only num_channels = 3"),
        ("text_config", {"layer_norm_eps": 1e-6}, "only layer_norm_eps = 1e-05"),
    ],
)
def test_load__refuses_what_our_model_has_not(
    tmp_path: Path, section: str, values: dict[str, Any], message: str
) -> None:
    config = {"model_type": "clip", **SIZES, section: SIZES[section] | values}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(EncoderFileError, match=message):
        load_foreign_model(tmp_path, ExportFormat.transformers)


def test_export__refuses_an_end_token_that_the_library_would_not_find(
    moved_model: MovedModel, exported_tokenizer: BilingualTokenizer, tmp_path: Path
) -> None:
    """With eos_token_id = 2 `CLIPTextModel` reads the feature at the largest id instead."""
    tokenizer = copy.copy(exported_tokenizer)
    tokenizer.eot_id = 2
    with pytest.raises(ExportError, match="the end token must not have the id 2"):
        _write(tmp_path / "out", moved_model(), tokenizer)
