"""The layout of the official KELIP folders: config.json with its field names, OpenAI CLIP's tensors under `model.`.

Reference: navervision/KELIP, `kelip/model_loader.py`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kelip_lightning.interchange.formats.architecture import Architecture, ForeignConfig, read_json
from kelip_lightning.interchange.formats.key_map import Entry, clip_entries
from kelip_lightning.models.config import Activation, ImageEncoderConfig, Pooling, PositionResampling, TextEncoderConfig

CONFIG, WEIGHTS = "config.json", ("model.safetensors", "pytorch_model.bin")
HEAD_WIDTH = 64
"""Width of a head of the image encoder in the official code."""

_NOTES = ("architectures", "torch_dtype", "dtype", "transformers_version", "model_type", "_name_or_path", "auto_map")


def recognises(folder: Path) -> bool:
    """Whether a folder is in this layout."""
    return (folder / CONFIG).is_file() and "vision_layers" in read_json(folder / CONFIG)


def read_architecture(folder: Path) -> Architecture:
    """Read config.json; EncoderFileError if a field is missing, unknown or of another type."""
    config = ForeignConfig(read_json(folder / CONFIG), str(folder / CONFIG))
    width, vocab_size = config.take("vision_width", int), config.take("vocab_size", int)
    architecture = Architecture(
        image=ImageEncoderConfig(
            image_size=config.take("image_resolution", int),
            patch_size=config.take("vision_patch_size", int),
            width=width,
            depth=config.take("vision_layers", int),
            num_heads=width // HEAD_WIDTH,
            position_resampling=PositionResampling.official,
        ),
        text=TextEncoderConfig(
            width=config.take("transformer_width", int),
            depth=config.take("transformer_layers", int),
            num_heads=config.take("transformer_heads", int),
        ),
        embed_dim=config.take("embed_dim", int),
        vocab_size=vocab_size,
        context_length=config.take("context_length", int),
        # The official code pools at the largest id, which is the end token's.
        eot_id=vocab_size - 1,
        pad_id=0,
    )
    config.finish(*_NOTES)
    return architecture


def entries(architecture: Architecture) -> list[Entry]:
    """Correspondence of tensors."""
    return clip_entries(architecture.image.depth, architecture.text.depth, prefix="model.")


def refusals(architecture: Architecture) -> Iterator[str]:
    """Reasons why the layout cannot express a model, one clause each."""
    image, text = architecture.image, architecture.text
    if image.pooling is not Pooling.cls:
        yield "image_encoder.pooling must be cls"
    if not image.pre_norm:
        yield "image_encoder.pre_norm must be true"
    if image.width != HEAD_WIDTH * image.num_heads:
        yield f"image_encoder.num_heads must be width / {HEAD_WIDTH}"
    for name, section in (("image_encoder", image), ("text_encoder", text)):
        if section.activation is not Activation.quick_gelu:
            yield f"{name}.activation must be quick_gelu"
        if section.mlp_ratio != 4:
            yield f"{name}.mlp_ratio must be 4"
    if architecture.eot_id != architecture.vocab_size - 1:
        yield "the end token must have the highest id"
    if architecture.pad_id != 0:
        yield "the padding must have id 0"


def config_files(architecture: Architecture) -> dict[str, Any]:
    """JSON file -> content, without tokenizer and preprocessing."""
    return {
        CONFIG: {
            "architectures": ["KelipModel"],
            "embed_dim": architecture.embed_dim,
            "image_resolution": architecture.image.image_size,
            "vision_layers": architecture.image.depth,
            "vision_width": architecture.image.width,
            "vision_patch_size": architecture.image.patch_size,
            "context_length": architecture.context_length,
            "vocab_size": architecture.vocab_size,
            "transformer_width": architecture.text.width,
            "transformer_heads": architecture.text.num_heads,
            "transformer_layers": architecture.text.depth,
            "torch_dtype": "float32",
        }
    }
