"""Models as folders: weights in safetensors, configuration in YAML, nothing pickled.

`image_encoder` folders connect the two stages; `dual_encoder` folders hold a trained model with its tokenizer.
"""

import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.errors import EncoderFileError
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import ImageEncoder, timm_problem
from kelip_lightning.models.stored_config import (
    CONFIG,
    check_image_encoder,
    config_from_dict,
    config_to_dict,
    existing_file,
    read_config,
)
from kelip_lightning.models.text_encoder import build_text_encoder

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
TEXT_RECORD = "text_encoder_record"
"""Key in config.yaml of a text encoder's `record()`."""


@dataclass(slots=True, kw_only=True)
class TrainedModel:
    """A trained model and its tokenizer."""

    model: DualEncoder
    tokenizer: BilingualTokenizer


def save_image_encoder(folder: Path, encoder: ImageEncoder, card: str) -> None:
    """Write model.safetensors, config.yaml and README.md (the card)."""
    write_folder(folder, encoder.state_dict(), config_to_dict(encoder.config), {"README.md": card})


def load_image_encoder(encoder: ImageEncoder, folder: Path) -> int:
    """Load an exported image encoder strictly, or raise EncoderFileError; returns the number of tensors."""
    check_image_encoder(folder, encoder.config)
    weights = read_weights(folder)
    check_tensors(encoder.state_dict(), weights, folder)
    encoder.load_state_dict(weights, strict=True)
    return len(weights)


def build_dual_encoder(
    image: ImageEncoderConfig, text: TextEncoderConfig, joint: DualEncoderConfig, tokenizer: BilingualTokenizer
) -> DualEncoder:
    """As `fresh_dual_encoder`, with the trained weights of a Hugging Face text model under `hf_weights`."""
    model = fresh_dual_encoder(image, text, joint, tokenizer)
    if text.hf_weights:
        model.text_encoder.load_trained_weights()
    return model


def fresh_dual_encoder(
    image: ImageEncoderConfig,
    text: TextEncoderConfig,
    joint: DualEncoderConfig,
    tokenizer: BilingualTokenizer,
    record: Mapping[str, Any] | None = None,
) -> DualEncoder:
    """A dual encoder with random weights from torch's global stream, even under `hf_weights`.

    Args:
        image: The image tower.
        text: The text tower.
        joint: The joint space.
        tokenizer: Determines vocabulary and context length.
        record: Result of `record()` of another model's text encoder; `None` reads a Hugging Face model's architecture
            from `text.hf_model`.

    Raises:
        ConfigError: A Hugging Face text model is not available, or does not fit the other settings.
    """
    text_encoder = build_text_encoder(
        text,
        record,
        vocab_size=tokenizer.vocab_size,
        context_length=tokenizer.context_length,
        eot_id=tokenizer.eot_id,
        pad_id=tokenizer.pad_id,
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
    """Read a folder of `save_dual_encoder`; the model is in evaluation mode.

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
            _stored_image_encoder(config["image_encoder"], folder),
            config_from_dict(TextEncoderConfig, config["text_encoder"], folder),
            config_from_dict(DualEncoderConfig, config["dual_encoder"], folder),
            tokenizer,
            config.get(TEXT_RECORD),
        )
    weights = read_weights(folder)
    check_tensors(model.state_dict(), weights, folder)
    # Earlier revisions clamped the scale in the forward pass, and may have stored a larger one.
    weights["logit_scale"] = weights["logit_scale"].clamp(max=math.log(model.config.max_logit_scale))
    model.load_state_dict(weights, strict=True)
    return TrainedModel(model=model.eval(), tokenizer=tokenizer)


def _stored_image_encoder(values: Mapping[str, Any], folder: Path) -> ImageEncoderConfig:
    config = config_from_dict(ImageEncoderConfig, values, folder)
    if problem := timm_problem(config):
        raise EncoderFileError(f"{folder}: {problem}")
    return config


def write_folder(
    folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any], texts: Mapping[str, str]
) -> None:
    """Write weights, config.yaml and text files (by name) as one folder, atomically; replaces an existing folder."""
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, partial / WEIGHTS)
    (partial / CONFIG).write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    for name, text in texts.items():
        (partial / name).write_text(text, encoding="utf-8")
    # A folder cannot be replaced in one operation: keep the old one until the new one is in place.
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    try:
        partial.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder; EncoderFileError if they are missing or damaged."""
    file = existing_file(folder, WEIGHTS)
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise EncoderFileError(f"{file} is damaged ({error}): write it again from its run") from error


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], origin: Path) -> None:
    """Raise EncoderFileError, with every difference, unless names and shapes are equal."""
    problems = [f"missing {name}" for name in sorted(set(expected) - set(found))]
    problems += [f"left over {name}" for name in sorted(set(found) - set(expected))]
    problems += [
        f"{name} is {tuple(found[name].shape)}, needed {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(found))
        if expected[name].shape != found[name].shape
    ]
    if problems:
        raise EncoderFileError(f"{origin} does not fit the model: {'; '.join(problems)}")
