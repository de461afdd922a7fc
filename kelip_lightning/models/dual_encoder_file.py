"""A trained dual encoder as a folder: weights, configuration, tokenizer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.models.dual_encoder import DualEncoder, DualEncoderConfig
from kelip_lightning.models.hugging_face_text import HuggingFaceTextEncoder
from kelip_lightning.models.image_encoder import ImageEncoder, ImageEncoderConfig
from kelip_lightning.models.text_encoder import TextEncoderConfig, build_text_encoder
from kelip_lightning.models.weights_folder import (
    CONFIG,
    check_tensors,
    config_from_dict,
    config_to_dict,
    read_config,
    read_weights,
    write_folder,
)

TOKENIZER = "tokenizer.json"
TEXT_RECORD = "text_encoder_record"
"""Key under which a text encoder keeps what its configuration does not say."""


@dataclass(slots=True, kw_only=True)
class TrainedModel:
    """What is needed to use a trained model."""

    model: DualEncoder
    tokenizer: BilingualTokenizer


def build_dual_encoder(
    image: ImageEncoderConfig,
    text: TextEncoderConfig,
    joint: DualEncoderConfig,
    tokenizer: BilingualTokenizer,
) -> DualEncoder:
    """A dual encoder to train, which fits the tokenizer; draws from torch's global stream.

    Its weights are fresh, but for those of a Hugging Face text model with `hf_weights`.

    Raises:
        ConfigError: A Hugging Face text model cannot be had, or does not fit the other settings.
    """
    model = fresh_dual_encoder(image, text, joint, tokenizer)
    if text.hf_weights:
        assert isinstance(model.text_encoder, HuggingFaceTextEncoder)
        model.text_encoder.load_trained_weights()
    return model


def fresh_dual_encoder(
    image: ImageEncoderConfig,
    text: TextEncoderConfig,
    joint: DualEncoderConfig,
    tokenizer: BilingualTokenizer,
    record: Mapping[str, Any] | None = None,
) -> DualEncoder:
    """A dual encoder with fresh weights in every part, those of a Hugging Face text model with `hf_weights` too.

    Args:
        image: The image tower.
        text: The text tower.
        joint: The joint space.
        tokenizer: What it must fit.
        record: What `record()` of another model's text encoder gave; none: a Hugging Face model's architecture is read
            from where `text.hf_model` says.

    Raises:
        ConfigError: A Hugging Face text model cannot be had, or does not fit the other settings.
    """
    text_encoder = build_text_encoder(
        text,
        vocab_size=tokenizer.vocab_size,
        context_length=tokenizer.context_length,
        eot_id=tokenizer.eot_id,
        pad_id=tokenizer.pad_id,
        record=record,
    )
    return DualEncoder(ImageEncoder(image), text_encoder, joint)


def save_dual_encoder(folder: Path, model: DualEncoder, tokenizer: BilingualTokenizer, card: str) -> None:
    """Write model.safetensors, config.yaml, tokenizer.json and README.md (the card)."""
    config: dict[str, Any] = {
        "image_encoder": config_to_dict(model.image_encoder.config),
        "text_encoder": config_to_dict(model.text_encoder.config),
        "dual_encoder": config_to_dict(model.config),
        "context_length": tokenizer.context_length,
    }
    if (record := model.text_encoder.record()) is not None:
        config[TEXT_RECORD] = record
    write_folder(folder, model.state_dict(), config, {TOKENIZER: tokenizer.to_json(), "README.md": card})


def load_dual_encoder(folder: Path) -> TrainedModel:
    """Read a folder that `save_dual_encoder` wrote; the model is in evaluation mode.

    Raises:
        EncoderFileError: Files are missing or damaged, or tensors do not fit.
        DataError: The tokenizer file is missing or damaged.
    """
    config = read_config(folder)
    if missing := sorted({"image_encoder", "text_encoder", "dual_encoder", "context_length"} - set(config)):
        raise EncoderFileError(f"{folder} is no dual_encoder folder: its {CONFIG} has no {', '.join(missing)}")
    tokenizer = BilingualTokenizer.from_file(folder / TOKENIZER, int(config["context_length"]))
    with torch.random.fork_rng(devices=[]):
        model = fresh_dual_encoder(
            config_from_dict(ImageEncoderConfig, config["image_encoder"], folder),
            config_from_dict(TextEncoderConfig, config["text_encoder"], folder),
            config_from_dict(DualEncoderConfig, config["dual_encoder"], folder),
            tokenizer,
            config.get(TEXT_RECORD),
        )
    weights = read_weights(folder)
    check_tensors(model.state_dict(), weights, folder)
    # Earlier versions bounded the scale where it was used, and may have stored a larger one.
    weights["logit_scale"] = weights["logit_scale"].clamp(max=math.log(model.config.max_logit_scale))
    model.load_state_dict(weights, strict=True)
    return TrainedModel(model=model.eval(), tokenizer=tokenizer)
