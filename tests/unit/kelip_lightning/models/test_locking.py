"""Locked encoders: gradients exist exactly for what is unlocked, as open_clip unlocks it."""

from collections.abc import Callable
from typing import Any

import open_clip
import pytest
import torch
from torch import nn
from transformers import AlbertConfig, BertConfig

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.errors import ConfigError
from kelip_lightning.interchange.formats.key_map import clip_entries
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig, TextPooling
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.locking import lock_encoders
from kelip_lightning.models.text_encoder import build_text_encoder

TinyDualEncoder = Callable[..., DualEncoder]
LOCKED: dict[str, Any] = {"lock_image_encoder": True, "lock_text_encoder": True}


def _with_gradient(model: DualEncoder, tokenizer: BilingualTokenizer) -> set[str]:
    images, tokens = torch.randn(2, 3, 32, 32), tokenizer.encode(["사과", "red apple"])
    logits = model.scale() * model.encode_image(images) @ model.encode_text(tokens).T
    nn.functional.cross_entropy(logits, torch.arange(2)).backward()
    return {name for name, one in model.named_parameters() if one.grad is not None and one.grad.abs().sum() > 0}


def _open_clip_unlocked(blocks: int) -> set[str]:
    """Names here of what open_clip trains with n + 1 groups, the first of which are the projections."""
    theirs = open_clip.CLIP(
        embed_dim=8,
        quick_gelu=True,
        vision_cfg={"image_size": 32, "patch_size": 8, "width": 16, "head_width": 8, "layers": 2},
        text_cfg={"context_length": 12, "vocab_size": 280, "width": 16, "heads": 2, "layers": 2},
    )
    theirs.lock_image_tower(unlocked_groups=blocks + 1)
    theirs.lock_text_tower(unlocked_layers=blocks + 1)
    trained = {name for name, one in theirs.named_parameters() if one.requires_grad}
    return {ours for entry in clip_entries(2, 2) if set(entry.theirs) <= trained for ours in entry.ours}


@pytest.mark.parametrize("blocks", [0, 1, 2])
def test_gradients_exist_exactly_for_the_unlocked_blocks_of_open_clip(
    tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer, blocks: int
) -> None:
    model = tiny_dual_encoder()
    lock_encoders(model, **LOCKED, unlock_image_blocks=blocks, unlock_text_blocks=blocks)
    trained = {name for name, one in model.named_parameters() if one.requires_grad}
    assert trained == _open_clip_unlocked(blocks)
    found = _with_gradient(model, tiny_tokenizer)
    # The bias of the keys shifts all scores of a query alike, so its gradient is zero but for rounding.
    assert {name for name in trained - found if "k_proj.bias" not in name} == set()
    assert found <= trained


def test_each_tower_by_itself(tiny_dual_encoder: TinyDualEncoder, tiny_tokenizer: BilingualTokenizer) -> None:
    model = tiny_dual_encoder()
    lock_encoders(model, lock_image_encoder=True, lock_text_encoder=False, unlock_image_blocks=1)
    found = _with_gradient(model, tiny_tokenizer)
    image = {name for name in found if name.startswith("image_encoder.")}
    assert {name.split(".vit.")[1].split(".")[0] for name in image} == {"blocks", "norm"}
    assert all(".blocks.1." in name for name in image if ".blocks." in name)
    assert "text_encoder.clip.embeddings.token_embedding.weight" in found


def _hugging_face(folder: str, depth: int, tokenizer: BilingualTokenizer) -> DualEncoder:
    text = TextEncoderConfig(
        width=16, depth=depth, num_heads=2, mlp_ratio=2.0, hf_model=folder, pooling=TextPooling.mean
    )
    tokens = {name: getattr(tokenizer, name) for name in ("vocab_size", "context_length", "eot_id", "pad_id")}
    image = ImageEncoder(ImageEncoderConfig(image_size=32, patch_size=8, width=16, depth=1, num_heads=2))
    return DualEncoder(image, build_text_encoder(text, **tokens), DualEncoderConfig(embed_dim=8))


def test_a_hugging_face_text_model(tiny_tokenizer: BilingualTokenizer, tmp_path: Any) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    BertConfig(**sizes).save_pretrained(tmp_path)
    model = _hugging_face(str(tmp_path), 3, tiny_tokenizer)
    lock_encoders(model, lock_image_encoder=False, lock_text_encoder=True, unlock_text_blocks=2)
    trained = {name for name, one in model.text_encoder.named_parameters() if one.requires_grad}
    assert trained == {
        name for name, _ in model.text_encoder.named_parameters() if ".layer.1." in name or ".layer.2." in name
    }


def test_blocks_that_share_weights_cannot_be_told_apart(tiny_tokenizer: BilingualTokenizer, tmp_path: Any) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
    AlbertConfig(**sizes, embedding_size=8).save_pretrained(tmp_path)
    model = _hugging_face(str(tmp_path), 3, tiny_tokenizer)
    with pytest.raises(ConfigError, match="has no list of 3 blocks, so the last ones cannot be unlocked"):
        lock_encoders(model, lock_image_encoder=False, lock_text_encoder=True, unlock_text_blocks=1)
