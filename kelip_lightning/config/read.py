"""YAML files and dotted overrides as plain trees: syntax, `extends`, nothing about meaning."""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from kelip_lightning.errors import ConfigError

Tree = dict[str, Any]
"""Nested mappings of plain values."""

EXTENDS = "extends"


def read_experiment_file(path: Path) -> tuple[Tree, Tree]:
    """What a file says, with everything that it extends merged below it, and the extended part alone.

    `extends: other.yaml` may stand at the top or in any section; the path is relative to that file.

    Raises:
        ConfigError: A file is missing, is no valid YAML mapping, or extends itself.
    """
    return _read(path, ())


def _read(path: Path, chain: tuple[Path, ...]) -> tuple[Tree, Tree]:
    if path.resolve() in chain:
        names = " -> ".join(file.name for file in (*chain, path))
        raise ConfigError([f"{chain[-1]}: extends goes in a circle ({names}); remove one of them"])
    return _extend(_load(path), path, (*chain, path.resolve()))


def _extend(node: Tree, path: Path, chain: tuple[Path, ...]) -> tuple[Tree, Tree]:
    whole: Tree = {}
    inherited: Tree = {}
    for key, value in node.items():
        if key == EXTENDS:
            continue
        if isinstance(value, dict):
            whole[key], below = _extend(value, path, chain)
            inherited |= {key: below} if below else {}
        else:
            whole[key] = value
    if EXTENDS not in node:
        return whole, inherited
    base, _ = _read(_extended_file(node[EXTENDS], path), chain)
    return merge(base, whole), merge(base, inherited)


def _extended_file(name: Any, path: Path) -> Path:
    if not isinstance(name, str):
        raise ConfigError([f"{path}: extends = {name!r} must be the path of one YAML file, relative to this"])
    file = path.parent / name
    if not file.is_file():
        raise ConfigError([f"{path}: extends = {name!r} names a file that does not exist{_similar(file)}"])
    return file


def _load(path: Path) -> Tree:
    if not path.is_file():
        what = "is a folder, not a YAML file" if path.is_dir() else "does not exist"
        raise ConfigError([f"{path} {what}{_similar(path)}"])
    try:
        tree = OmegaConf.to_container(OmegaConf.create(OmegaConf.load(path)), resolve=True)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        what = error.problem or error.context or ""
        raise ConfigError([f"{path}{line}: {what}; correct the YAML there"]) from error
    except (OmegaConfBaseException, yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: {_first_line(error)}"]) from error
    except OSError as error:
        raise ConfigError([f"{path} cannot be read ({error.strerror or _first_line(error)})"]) from error
    if not isinstance(tree, dict):
        raise ConfigError([f"{path} must hold a mapping (key: value), not a {type(tree).__name__}"])
    return {str(key): value for key, value in tree.items()}


def _similar(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    names = [file.name for file in sorted(path.parent.glob("*.y*ml"))]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.parent / close[0]}?" if close else ""


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__


def parse_override(text: str) -> tuple[list[str], Any]:
    """The keys and the value of `dotted.key=value`; the value is read as YAML.

    Raises:
        ConfigError: The text is no override.
    """
    dotted, equals, value = text.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys) or any(character in dotted for character in "[] "):
        raise ConfigError([f"{text!r} is not an override: write dotted.key=value, for example seed=1"])
    try:
        parsed = OmegaConf.to_container(OmegaConf.from_dotlist([f"value={value}"]), resolve=True)
    except (OmegaConfBaseException, yaml.YAMLError) as error:
        raise ConfigError([f"{text!r}: the value is not valid YAML ({_first_line(error)})"]) from error
    assert isinstance(parsed, dict)
    return keys, parsed["value"]


def nested(keys: Sequence[str], value: Any) -> Tree:
    """The tree with this one value, for example {a: {b: value}}."""
    for key in reversed(keys):
        value = {key: value}
    assert isinstance(value, dict)
    return value


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> Tree:
    """Both trees in one, new mappings throughout; where both have a value, `top` wins, lists as a whole."""
    merged = {key: merge(value, {}) if isinstance(value, Mapping) else value for key, value in base.items()}
    for key, value in top.items():
        below = merged.get(key)
        if isinstance(value, Mapping):
            merged[key] = merge(below if isinstance(below, Mapping) else {}, value)
        else:
            merged[key] = value
    return merged


def to_yaml(tree: Mapping[str, Any]) -> str:
    """The tree as YAML that reads back to the same values."""
    return OmegaConf.to_yaml(OmegaConf.create(dict(tree)))
