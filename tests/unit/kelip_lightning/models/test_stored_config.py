"""The config.yaml of a model folder: round trips, and files that are refused."""

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from kelip_lightning.errors import EncoderFileError
from kelip_lightning.models.stored_config import config_from_dict, config_to_dict, read_config


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
