"""A small collection with captions."""

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.inference.embed_data import EmbedSettings
from kelip_lightning.inference.embed_sources import DataChoice
from kelip_lightning.search.collection import CaptionChoice, Collection, index_collection, open_pictures
from kelip_lightning.search.engine import SearchEngine
from tests.unit.kelip_lightning.stand_in_encoders import png, stand_in

COLOURS = {"red.png": (250, 0, 0), "green.png": (0, 250, 0), "blue.png": (0, 0, 250), "white.png": (250, 250, 250)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four pictures and a table with captions of three."""
    found = tmp_path / "pictures"
    found.mkdir()
    for name, colour in COLOURS.items():
        (found / name).write_bytes(png(colour))
    (tmp_path / "captions.csv").write_text(
        'key,ko,en\nred.png,빨강,red\ngreen.png,초록,"<b>green</b>"\nblue.png,파랑,blue\n', encoding="utf-8"
    )
    return found


@pytest.fixture
def collect(folder: Path) -> Callable[[Encoders], Collection]:
    """The indexed collection by a model."""

    def index(encoders: Encoders) -> Collection:
        captions = CaptionChoice(file=str(folder.parent / "captions.csv"), columns={})
        pictures = open_pictures(DataChoice(data=str(folder)), captions)
        settings = EmbedSettings(num_workers=0)
        file = folder.parent / "index.parquet"
        return index_collection(pictures, encoders, file, settings, lambda _: nullcontext(_ignore))[0]

    return index


def _ignore(done: int, total: int, broken: int) -> None:
    pass


@pytest.fixture
def engine(collect: Callable[[Encoders], Collection]) -> SearchEngine:
    """Searches the collection."""
    return SearchEngine(encoders=stand_in(), collection=collect(stand_in()))
