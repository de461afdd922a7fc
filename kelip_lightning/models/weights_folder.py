"""Weights as a folder: safetensors, the configuration in YAML, nothing pickled."""

import shutil
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from kelip_lightning.errors import EncoderFileError

Config = TypeVar("Config")

WEIGHTS, CONFIG = "model.safetensors", "config.yaml"


def config_to_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as plain YAML values; enums by name, as experiments spell them."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        if isinstance(value, list):
            return [plain(one) for one in value]
        return value.name if isinstance(value, Enum) else value

    return {key: plain(value) for key, value in asdict(config).items()}


def config_from_dict(kind: type[Config], values: Mapping[str, Any], origin: Path) -> Config:
    """The inverse of `config_to_dict` for flat dataclasses.

    Raises:
        EncoderFileError: A field is unknown, missing or has no valid value.
    """
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


def write_folder(
    folder: Path, weights: Mapping[str, Tensor], config: Mapping[str, Any], texts: Mapping[str, str]
) -> None:
    """Write weights, config.yaml and text files as one folder that appears whole or not at all.

    Args:
        folder: Where; an existing folder is replaced.
        weights: Tensors by name.
        config: Plain values for config.yaml.
        texts: Further files by name (README.md, tokenizer.json, ...).
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}, partial / WEIGHTS)
    (partial / CONFIG).write_text(yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True), encoding="utf-8")
    for name, text in texts.items():
        (partial / name).write_text(text, encoding="utf-8")
    # A folder cannot be replaced in one operation: the old one stands aside until the new one is in place.
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


def read_config(folder: Path) -> dict[str, Any]:
    """The plain values of a folder's config.yaml.

    Raises:
        EncoderFileError: The folder has none, or it is not YAML.
    """
    file = folder / CONFIG
    if not file.is_file():
        raise EncoderFileError(f"{folder} holds no {CONFIG}: give a folder that a finished stage wrote")
    try:
        loaded = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise EncoderFileError(f"{file} is not valid YAML: {error}") from error
    if not isinstance(loaded, dict):
        raise EncoderFileError(f"{file} must hold a mapping")
    return loaded


def read_weights(folder: Path) -> dict[str, Tensor]:
    """The tensors of a folder.

    Raises:
        EncoderFileError: The file is missing or damaged.
    """
    file = folder / WEIGHTS
    if not file.is_file():
        raise EncoderFileError(f"{folder} holds no {WEIGHTS}: give a folder that a finished stage wrote")
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise EncoderFileError(f"{file} is damaged ({error}): write it again from its run") from error


def check_tensors(expected: Mapping[str, Tensor], found: Mapping[str, Tensor], origin: Path) -> None:
    """Compare names and shapes, and report every difference at once.

    Raises:
        EncoderFileError: Tensors are missing, left over or of another shape.
    """
    problems = [f"missing {name}" for name in sorted(set(expected) - set(found))]
    problems += [f"left over {name}" for name in sorted(set(found) - set(expected))]
    problems += [
        f"{name} is {tuple(found[name].shape)}, needed {tuple(expected[name].shape)}"
        for name in sorted(set(expected) & set(found))
        if expected[name].shape != found[name].shape
    ]
    if problems:
        raise EncoderFileError(f"{origin} does not fit the model: {'; '.join(problems)}")
