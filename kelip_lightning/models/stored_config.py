"""The config.yaml of a model folder: dataclasses as plain YAML values, enums by name, as in experiment files."""

from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml

from kelip_lightning.errors import EncoderFileError
from kelip_lightning.models.config import REGULARISATION, ImageEncoderConfig

Config = TypeVar("Config")

CONFIG = "config.yaml"
"""Name of the file."""


def check_image_encoder(folder: Path, config: ImageEncoderConfig) -> None:
    """Raise EncoderFileError unless the folder's encoder has the configured architecture."""
    stored = config_from_dict(ImageEncoderConfig, read_config(folder), folder)
    different = [
        f"{field.name} is {getattr(stored, field.name)} there, {getattr(config, field.name)} here"
        for field in fields(config)
        if field.name not in REGULARISATION and getattr(stored, field.name) != getattr(config, field.name)
    ]
    if different:
        raise EncoderFileError(
            f"init.image_encoder = {folder} holds another encoder ({'; '.join(different)}); "
            "set image_encoder to the stored one, or repeat MAE pre-training"
        )


def config_to_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as plain YAML values; enums by name, as in experiment files."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, list):
            return [plain(one) for one in value]
        return value.name if isinstance(value, Enum) else value

    return {key: plain(value) for key, value in asdict(config).items()}


def config_from_dict(kind: type[Config], values: Mapping[str, Any], origin: Path) -> Config:
    """The inverse of `config_to_dict` for flat dataclasses; EncoderFileError for unknown, missing or invalid fields."""
    assert is_dataclass(kind)
    hints, names = get_type_hints(kind), {field.name for field in fields(kind)}
    if wrong := sorted(names ^ set(values)):
        raise EncoderFileError(f"{origin}: the fields {', '.join(wrong)} are missing or unknown in {kind.__name__}")
    try:
        parsed = {
            name: hints[name][value] if isinstance(hints[name], type) and issubclass(hints[name], Enum) else value
            for name, value in values.items()
        }
        return kind(**parsed)
    except (KeyError, ValueError, TypeError) as error:
        raise EncoderFileError(f"{origin}: {error}") from error


def read_config(folder: Path) -> dict[str, Any]:
    """The plain values of a folder's config.yaml; EncoderFileError if it is missing or damaged."""
    file = existing_file(folder, CONFIG)
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EncoderFileError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise EncoderFileError(f"{file} must hold a mapping")
    return loaded


def existing_file(folder: Path, name: str) -> Path:
    """The file of this name in a model folder; EncoderFileError if there is none."""
    if not (folder / name).is_file():
        raise EncoderFileError(f"{folder} holds no {name}: give a folder that a finished stage wrote")
    return folder / name
