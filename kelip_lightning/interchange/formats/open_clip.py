"""The layout of open_clip: open_clip_config.json, and OpenAI CLIP's tensor names.

Reference: mlfoundations/open_clip, `CLIPVisionCfg`, `CLIPTextCfg` and `create_model("local-dir:...")`.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kelip_lightning.interchange.formats.architecture import Architecture, ForeignConfig, read_json
from kelip_lightning.interchange.formats.key_map import IMAGE, Entry, Layout, Tensors, clip_entries, entry
from kelip_lightning.models.config import Activation, ImageEncoderConfig, Pooling, TextEncoderConfig
from kelip_lightning.models.preprocessing import CLIP_MEAN, CLIP_STD

CONFIG = "open_clip_config.json"
# In a folder for both libraries, model.safetensors holds the tensors of transformers.
WEIGHTS = (
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.safetensors",
    "open_clip_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)

_POOLING = {Pooling.cls: "tok", Pooling.mean: "avg"}
_PATCH_BIAS = f"{IMAGE}.patch_embed.proj.bias"


def recognises(folder: Path) -> bool:
    """Whether a folder is in this layout."""
    return (folder / CONFIG).is_file()


def read_architecture(folder: Path) -> Architecture:
    """Read open_clip_config.json; EncoderFileError if a field is missing, of another type or not supported."""
    origin = f"{folder / CONFIG}: model_cfg"
    config = ForeignConfig(
        ForeignConfig(read_json(folder / CONFIG), str(folder / CONFIG)).take("model_cfg", dict), origin
    )
    vision = ForeignConfig(config.take("vision_cfg", dict), f"{origin}.vision_cfg")
    text = ForeignConfig(config.take("text_cfg", dict), f"{origin}.text_cfg")
    activation = Activation.quick_gelu if config.take("quick_gelu", bool, False) else Activation.gelu
    architecture = _read_text(text, _read_vision(vision, activation), activation, config.take("embed_dim", int))
    architecture = replace(architecture, logit_bias=config.take_optional("init_logit_bias", float))
    config.expect(custom_text=False)
    config.finish("init_logit_scale", "nonscalar_logit_scale")
    return architecture


def _read_vision(config: ForeignConfig, activation: Activation) -> ImageEncoderConfig:
    width = config.take("width", int, 768)
    pooling = config.choose("pool_type", {name: pooling for pooling, name in _POOLING.items()}, "tok")
    if pooling is Pooling.mean:
        # Our mean is over normalised tokens; for the class token the order makes no difference.
        config.expect(final_ln_after_pool=False)
    image = ImageEncoderConfig(
        image_size=config.take("image_size", int, 224),
        patch_size=config.take("patch_size", int, 16),
        width=width,
        depth=config.take("layers", int, 12),
        num_heads=width // config.take("head_width", int, 64),
        mlp_ratio=config.take("mlp_ratio", float, 4.0),
        pooling=pooling,
        activation=activation,
        pre_norm=not config.take("no_ln_pre", bool, False),
    )
    config.expect(pos_embed_type="learnable", attentional_pool=False, ls_init_value=None, timm_model_name=None)
    config.finish("patch_dropout", "final_ln_after_pool")
    return image


def _read_text(
    config: ForeignConfig, image: ImageEncoderConfig, activation: Activation, embed_dim: int
) -> Architecture:
    vocab_size = config.take("vocab_size", int, 49408)
    eos_id = config.take("eos_id", int, 2)
    at_eos_id = config.choose("pool_type", {"argmax": False, "eos": True}, "argmax")
    text = TextEncoderConfig(
        width=config.take("width", int, 512),
        depth=config.take("layers", int, 12),
        num_heads=config.take("heads", int, 8),
        mlp_ratio=config.take("mlp_ratio", float, 4.0),
        activation=activation,
    )
    architecture = Architecture(
        image=image,
        text=text,
        embed_dim=embed_dim,
        vocab_size=vocab_size,
        context_length=config.take("context_length", int, 77),
        eot_id=eos_id if at_eos_id else vocab_size - 1,
        pad_id=config.take("pad_id", int, 0),
    )
    config.expect(no_causal_mask=False, embed_cls=False, proj_bias=False, proj_type="linear")
    config.expect(ls_init_value=None, hf_model_name=None)
    config.finish("hf_tokenizer_name", "tokenizer_kwargs", "tokenizer_mode")
    return architecture


def entries(architecture: Architecture) -> list[Entry]:
    """Correspondence of tensors."""
    names = clip_entries(architecture.image.depth, architecture.text.depth, pre_norm=architecture.image.pre_norm)
    bias = [] if architecture.logit_bias is None else [entry("logit_bias", "logit_bias", Layout.batched)]
    return [*names, *bias]


def refusals(architecture: Architecture) -> Iterator[str]:
    """Reasons why the layout cannot express a model, one clause each."""
    if architecture.image.activation is not architecture.text.activation:
        yield "image_encoder.activation and text_encoder.activation must be the same"
    if architecture.eot_id != architecture.vocab_size - 1:
        yield "the end token must have the highest id"


def config_files(architecture: Architecture) -> dict[str, Any]:
    """JSON file -> content, without the tokenizer."""
    image, text = architecture.image, architecture.text
    vision_cfg = {
        "image_size": image.image_size,
        "patch_size": image.patch_size,
        "width": image.width,
        "layers": image.depth,
        "head_width": image.width // image.num_heads,
        "mlp_ratio": image.mlp_ratio,
        "pool_type": _POOLING[image.pooling],
        "no_ln_pre": not image.pre_norm,
    }
    text_cfg = {
        "context_length": architecture.context_length,
        "vocab_size": architecture.vocab_size,
        "width": text.width,
        "heads": text.num_heads,
        "layers": text.depth,
        "mlp_ratio": text.mlp_ratio,
        "pad_id": architecture.pad_id,
        # With a local folder, open_clip reads the folder's tokenizer, whatever the name is.
        "hf_tokenizer_name": "tokenizer.json",
    }
    model_cfg = {
        "embed_dim": architecture.embed_dim,
        "quick_gelu": image.activation is Activation.quick_gelu,
        "vision_cfg": vision_cfg,
        "text_cfg": text_cfg,
    }
    if architecture.logit_bias is not None:
        model_cfg["init_logit_bias"] = architecture.logit_bias
    preprocess_cfg = {"mean": CLIP_MEAN, "std": CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    return {CONFIG: {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}}


def fold_patch_bias(weights: Tensors) -> Tensors:
    """Move the patch embedding's bias, which open_clip does not have, into the position embeddings."""
    if _PATCH_BIAS not in weights:
        return weights
    moved = dict(weights)
    bias, positions = moved.pop(_PATCH_BIAS), moved[f"{IMAGE}.pos_embed"].clone()
    positions[:, 1:] += bias
    return moved | {f"{IMAGE}.pos_embed": positions}


def add_patch_bias(weights: Tensors, architecture: Architecture) -> Tensors:
    """Add a zero bias of the patch embedding, which models without pre-norm have here."""
    if architecture.image.pre_norm:
        return weights
    return weights | {_PATCH_BIAS: torch.zeros(architecture.image.width)}
