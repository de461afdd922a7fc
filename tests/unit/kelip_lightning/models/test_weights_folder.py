"""Weights as a folder: enums by name, whole or not at all, every damage in words."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch

from kelip_lightning.errors import EncoderFileError
from kelip_lightning.models import weights_folder
from kelip_lightning.models.weights_folder import (
    check_tensors,
    config_from_dict,
    config_to_dict,
    read_config,
    read_weights,
    write_folder,
)


class Colour(Enum):
    red = 1
    blue = 2


@dataclass(kw_only=True, slots=True)
class Paint:
    width: int
    colour: Colour = Colour.red

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width = {self.width} must be at least 1")


@dataclass(kw_only=True, slots=True)
class Box:
    paints: dict[str, Paint]
    colours: list[Colour]


HERE = Path("folder")
WEIGHTS = {"a": torch.randn(3, 2), "b": torch.arange(4), "c": torch.randn(2, 2).bfloat16()}


@pytest.mark.parametrize("colour", list(Colour))
def test_config_from_dict__enums_come_back(colour: Colour) -> None:
    values = config_to_dict(Paint(width=3, colour=colour))
    assert values == {"width": 3, "colour": colour.name}
    assert config_from_dict(Paint, values, HERE) == Paint(width=3, colour=colour)


def test_config_to_dict__enums_inside_dicts_and_lists() -> None:
    box = Box(paints={"x": Paint(width=1)}, colours=[Colour.blue])
    assert config_to_dict(box) == {"paints": {"x": {"width": 1, "colour": "red"}}, "colours": ["blue"]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"width": 3}, "folder: the fields colour are missing or unknown in Paint"),
        ({"width": 3, "colour": "red", "shine": 1}, "the fields shine are missing or unknown"),
        ({"width": 3, "colour": "green"}, "green"),
        ({"width": 0, "colour": "red"}, "width = 0 must be at least 1"),
        ({"width": "wide", "colour": "red"}, "folder"),
    ],
)
def test_config_from_dict__bad_values(values: dict[str, Any], message: str) -> None:
    with pytest.raises(EncoderFileError, match=message):
        config_from_dict(Paint, values, HERE)


def test_write_folder__round_trip_bit_for_bit(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "weights"
    write_folder(folder, WEIGHTS, {"width": 3, "name": "한글"}, {"README.md": "# 카드\n"})
    found = read_weights(folder)
    assert found.keys() == WEIGHTS.keys()
    for name, tensor in WEIGHTS.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)
    assert read_config(folder) == {"width": 3, "name": "한글"}
    assert (folder / "README.md").read_text(encoding="utf-8") == "# 카드\n"
    assert [path.name for path in folder.parent.iterdir()] == ["weights"], "nothing partial is left"


def test_write_folder__views_and_gradients_are_stored_as_plain_tensors(tmp_path: Path) -> None:
    weight = torch.randn(4, 3, requires_grad=True)
    write_folder(tmp_path / "w", {"t": weight.T, "row": weight[1]}, {}, {})
    found = read_weights(tmp_path / "w")
    assert torch.equal(found["t"], weight.T)
    assert torch.equal(found["row"], weight[1])


def test_write_folder__replaces_the_whole_folder(tmp_path: Path) -> None:
    write_folder(tmp_path / "w", WEIGHTS, {"a": 1}, {"old.txt": "old"})
    write_folder(tmp_path / "w", {}, {"a": 2}, {})
    assert sorted(path.name for path in (tmp_path / "w").iterdir()) == ["config.yaml", "model.safetensors"]
    assert read_config(tmp_path / "w") == {"a": 2}


def test_write_folder__a_failing_write_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "w"
    write_folder(folder, WEIGHTS, {"a": 1}, {})

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(weights_folder, "save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        write_folder(folder, {}, {"a": 2}, {})
    assert read_config(folder) == {"a": 1}
    assert torch.equal(read_weights(folder)["a"], WEIGHTS["a"])
    monkeypatch.undo()
    write_folder(folder, WEIGHTS, {"a": 3}, {})
    assert read_config(folder) == {"a": 3}, "what the failed write left behind is in nobody's way"


@pytest.mark.parametrize("failing", [1, 2])
def test_write_folder__an_exchange_that_fails_leaves_a_whole_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    folder = tmp_path / "w"
    write_folder(folder, WEIGHTS, {"a": 1}, {})
    calls: list[None] = []

    def failing_at(move: Callable[..., None]) -> Callable[..., None]:
        def moved(*paths: Any, **options: Any) -> None:
            calls.append(None)
            if len(calls) == failing:
                raise KeyboardInterrupt
            move(*paths, **options)

        return moved

    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(os, "rename", failing_at(os.rename))
        patch.setattr(os, "replace", failing_at(os.replace))
        write_folder(folder, WEIGHTS, {"a": 2}, {})
    assert read_config(folder)["a"] in (1, 2)
    assert torch.equal(read_weights(folder)["a"], WEIGHTS["a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1", "not valid YAML"),
        (b"- 1", "must hold a mapping"),
        (b"", "must hold a mapping"),
        (b"\xff\xfe", "YAML"),
    ],
)
def test_read_config__damaged(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(EncoderFileError, match=rf"config\.yaml.*{message}"):
        read_config(tmp_path)


def test_read__missing_files(tmp_path: Path) -> None:
    with pytest.raises(EncoderFileError, match=r"holds no config\.yaml: give a folder that a finished stage wrote"):
        read_config(tmp_path / "nowhere")
    with pytest.raises(EncoderFileError, match=r"holds no model\.safetensors"):
        read_weights(tmp_path)


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_read_weights__damaged(tmp_path: Path, kept: int) -> None:
    write_folder(tmp_path / "w", WEIGHTS, {}, {})
    file = tmp_path / "w" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(EncoderFileError, match=r"model\.safetensors is damaged"):
        read_weights(tmp_path / "w")


def test_check_tensors__names_every_difference() -> None:
    expected = {"a": torch.zeros(2), "b": torch.zeros(2, 3), "c": torch.zeros(1)}
    found = {"b": torch.zeros(3, 2), "c": torch.ones(1), "d": torch.zeros(1)}
    with pytest.raises(EncoderFileError) as error:
        check_tensors(expected, found, HERE)
    assert str(error.value) == "folder does not fit the model: missing a; left over d; b is (3, 2), needed (2, 3)"
    check_tensors(expected, expected, HERE)
