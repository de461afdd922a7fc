"""The layout of `transformers.CLIPModel`.

Reference: huggingface/transformers, `CLIPConfig` and `modeling_clip.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import CLIPConfig

from kelip_lightning.interchange.formats.architecture import Architecture, ForeignConfig, read_json
from kelip_lightning.interchange.formats.key_map import IMAGE, TEXT, Entry, Layout, entry, stacked, weight_and_bias
from kelip_lightning.models.config import Activation, ImageEncoderConfig, Pooling, TextEncoderConfig

CONFIG, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")

LEGACY_EOS_ID = 2
"""eos_token_id of old configurations, with which the library pools at the largest id."""


def recognises(folder: Path) -> bool:
    """Whether a folder is in this layout."""
    return (folder / CONFIG).is_file() and read_json(folder / CONFIG).get("model_type") == "clip"


def read_architecture(folder: Path) -> Architecture:
    """Read config.json with the library's defaults; EncoderFileError if our model does not support a value."""
    values, origin = CLIPConfig.from_dict(read_json(folder / CONFIG)).to_dict(), str(folder / CONFIG)
    vision = ForeignConfig(values["vision_config"], f"{origin}: vision_config")
    text = ForeignConfig(values["text_config"], f"{origin}: text_config")
    for section in (vision, text):
        section.expect(layer_norm_eps=1e-5)
    vision.expect(num_channels=3)
    vocab_size, eos_id = text.take("vocab_size", int), text.take("eos_token_id", int)
    width, text_width = vision.take("hidden_size", int), text.take("hidden_size", int)
    return Architecture(
        image=ImageEncoderConfig(
            image_size=vision.take("image_size", int),
            patch_size=vision.take("patch_size", int),
            width=width,
            depth=vision.take("num_hidden_layers", int),
            num_heads=vision.take("num_attention_heads", int),
            mlp_ratio=vision.take("intermediate_size", int) / width,
            activation=vision.choose("hidden_act", Activation.__members__),
        ),
        text=TextEncoderConfig(
            width=text_width,
            depth=text.take("num_hidden_layers", int),
            num_heads=text.take("num_attention_heads", int),
            mlp_ratio=text.take("intermediate_size", int) / text_width,
            activation=text.choose("hidden_act", Activation.__members__),
        ),
        embed_dim=values["projection_dim"],
        vocab_size=vocab_size,
        context_length=text.take("max_position_embeddings", int),
        eot_id=vocab_size - 1 if eos_id == LEGACY_EOS_ID else eos_id,
        pad_id=text.take("pad_token_id", int),
    )


def entries(architecture: Architecture) -> list[Entry]:
    """Correspondence of tensors."""
    vision, text = "vision_model", "text_model"
    return [
        entry("logit_scale", "logit_scale", Layout.batched),
        entry("image_projection.weight", "visual_projection.weight"),
        entry("text_projection.weight", "text_projection.weight"),
        entry(f"{IMAGE}.cls_token", f"{vision}.embeddings.class_embedding", Layout.batched_twice),
        entry(f"{IMAGE}.pos_embed", f"{vision}.embeddings.position_embedding.weight", Layout.batched),
        entry(f"{IMAGE}.patch_embed.proj.weight", f"{vision}.embeddings.patch_embedding.weight"),
        *weight_and_bias(f"{IMAGE}.norm_pre", f"{vision}.pre_layrnorm"),
        *(one for i in range(architecture.image.depth) for one in _image_block(i)),
        *weight_and_bias(f"{IMAGE}.norm", f"{vision}.post_layernorm"),
        entry(f"{TEXT}.embeddings.token_embedding.weight", f"{text}.embeddings.token_embedding.weight"),
        entry(f"{TEXT}.embeddings.position_embedding.weight", f"{text}.embeddings.position_embedding.weight"),
        *(one for i in range(architecture.text.depth) for one in _text_block(i)),
        *weight_and_bias(f"{TEXT}.final_layer_norm", f"{text}.final_layer_norm"),
    ]


def _image_block(index: int) -> list[Entry]:
    ours, theirs = f"{IMAGE}.blocks.{index}", f"vision_model.encoder.layers.{index}"
    return [
        *weight_and_bias(f"{ours}.norm1", f"{theirs}.layer_norm1"),
        *stacked([f"{ours}.attn.qkv"], [f"{theirs}.self_attn.{name}_proj" for name in "qkv"]),
        *weight_and_bias(f"{ours}.attn.proj", f"{theirs}.self_attn.out_proj"),
        *weight_and_bias(f"{ours}.norm2", f"{theirs}.layer_norm2"),
        *weight_and_bias(f"{ours}.mlp.fc1", f"{theirs}.mlp.fc1"),
        *weight_and_bias(f"{ours}.mlp.fc2", f"{theirs}.mlp.fc2"),
    ]


def _text_block(index: int) -> list[Entry]:
    ours, theirs = f"{TEXT}.encoder.layers.{index}", f"text_model.encoder.layers.{index}"
    parts = [f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")]
    names = [*parts, "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2"]
    return [one for name in names for one in weight_and_bias(f"{ours}.{name}", f"{theirs}.{name}")]


def refusals(architecture: Architecture) -> Iterator[str]:
    """Reasons why the layout cannot express a model, one clause each."""
    if architecture.image.pooling is not Pooling.cls:
        yield "image_encoder.pooling must be cls"
    if not architecture.image.pre_norm:
        yield "image_encoder.pre_norm must be true"
    if architecture.eot_id == LEGACY_EOS_ID != architecture.vocab_size - 1:
        yield f"the end token must not have the id {LEGACY_EOS_ID}, with which the library pools at the largest id"


def config_files(architecture: Architecture) -> dict[str, Any]:
    """JSON file -> content, without tokenizer and preprocessing."""
    image, text = architecture.image, architecture.text
    config = CLIPConfig(
        projection_dim=architecture.embed_dim,
        vision_config={
            "hidden_size": image.width,
            "intermediate_size": round(image.width * image.mlp_ratio),
            "num_hidden_layers": image.depth,
            "num_attention_heads": image.num_heads,
            "image_size": image.image_size,
            "patch_size": image.patch_size,
            "hidden_act": image.activation.value,
            "projection_dim": architecture.embed_dim,
        },
        text_config={
            "vocab_size": architecture.vocab_size,
            "hidden_size": text.width,
            "intermediate_size": round(text.width * text.mlp_ratio),
            "num_hidden_layers": text.depth,
            "num_attention_heads": text.num_heads,
            "max_position_embeddings": architecture.context_length,
            "hidden_act": text.activation.value,
            "projection_dim": architecture.embed_dim,
            "bos_token_id": architecture.eot_id - 1,
            "eos_token_id": architecture.eot_id,
            "pad_token_id": architecture.pad_id,
        },
    )
    return {CONFIG: config.to_dict() | {"architectures": ["CLIPModel"], "torch_dtype": "float32"}}
