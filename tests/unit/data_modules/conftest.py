"""Small encoded images, and parquet tables with them."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets.config
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

Rows = list[dict[str, Any]]
WriteTable = Callable[[Rows, str], str]


def encode(pixels: np.ndarray, mode: str | None = None, file_format: str = "PNG") -> bytes:
    """The bytes of an image file with these pixels, uint8 (H, W) or (H, W, C)."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(buffer, file_format)
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` reads its variable at import, so the setting itself is replaced."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets_cache")


@pytest.fixture
def picture() -> bytes:
    """40 wide, 30 high, every pixel its own colour."""
    return encode(np.random.default_rng(5).integers(0, 256, (30, 40, 3), dtype=np.uint8))


def concept_rows(number: int) -> Rows:
    """Rows of two designs for each of `number` concepts; row 2 c + d is concept c in design d."""
    rows: Rows = []
    for concept in range(number):
        for design in ("round", "flat"):
            colour = np.array([concept * 7 % 256, 255 * (design == "flat"), 99], dtype=np.uint8)
            rows.append(
                {
                    "key": f"{design}/{concept}",
                    "image": {"bytes": encode(np.broadcast_to(colour, (24, 24, 3)).copy())},
                    "concept": f"c{concept}",
                    "design": design,
                    "even": concept % 2 == 0,
                    "number": concept,
                    "name_ko": f"이름 {concept}",
                    "name_en": f"name {concept}",
                    "words_ko": ["가", "나", str(concept)],
                    "words_en": ["a", "b", str(concept)],
                }
            )
    return rows


@pytest.fixture
def rows() -> Rows:
    return concept_rows(6)


@pytest.fixture
def write_table(tmp_path: Path) -> WriteTable:
    """Writes rows as a parquet file below tmp_path and returns its path."""

    def write(rows: Rows, name: str = "table.parquet") -> str:
        file = tmp_path / name
        pq.write_table(pa.Table.from_pylist(rows), file)
        return str(file)

    return write
