"""One corpus in every kind of source, and the documented table of settings."""

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig, source_kind
from data_modules.sources.opening import open_source
from data_modules.sources.rows import PairSource
from data_modules.sources.streaming import StreamSource
from data_modules.sources.tables import TableSource
from data_modules.sources.tar_source import TarSource
from tests.paths import ROOT
from tests.unit.data_modules.corpora import picture, write_tar

PAGE = ROOT / "docs" / "data.md"
FORMATS = ("shards", "csv", "parquet", "dataset", "stream")
COLUMN_OF = {"shards": "shards", "csv": "table", "parquet": "table", "dataset": "dataset", "stream": "stream"}
CLASS_OF = {"shards": TarSource, "table": TableSource, "dataset": TableSource, "stream": StreamSource}
ROWS = [
    {
        "key": f"key{number}",
        "name": f"name{number}",
        "ko": f"고양이 {number}",
        "en": f"cat {number}",
        "mixed": f"고양이 cat and dog {number}",
        "lang": ("korean", "en-US")[number % 2],
        "tags": f"red{number}; round",
        "concept": f"c{number // 2}",
        "split": ("train", "test")[number % 2],
    }
    for number in range(6)
]
IMAGES = [picture(number) for number in range(6)]
OTHERS = [picture(number + 50) for number in range(6)]


FILE_OF = {"shards": "a.tar", "csv": "a.csv", "parquet": "a.parquet", "dataset": "hub/name", "stream": "hub/name"}
"""A name of each kind that need not be there."""


def documented() -> dict[tuple[str, str], bool]:
    """(Setting, kind) -> whether it is heeded, as the page says."""
    section = PAGE.read_text(encoding="utf-8").partition("### Which settings a source takes")[2]
    lines = section.partition("\n\nOf a dataset")[0].splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    head = rows[0][1:]
    found = {}
    for name, *cells in rows[2:]:
        for kind, cell in zip(head, cells, strict=True):
            assert re.match("(yes|refused)(:|$)", cell), (name, cell)
            found[name if name.startswith("`data") else name.strip("`"), kind] = cell.startswith("yes")
    return found


TABLE = documented()


def write(kind: str, folder: Path, rows: list[dict[str, Any]] = ROWS, name: str = "a") -> str:
    """The rows as a source of a format; returns its file or folder."""
    folder.mkdir(parents=True, exist_ok=True)
    numbers = [int(row["key"][3:]) for row in rows]
    if kind == "shards":
        members = [(f"{row['key']}.jpg", IMAGES[i]) for i, row in zip(numbers, rows, strict=True)]
        members += [(f"{row['key']}.json", json.dumps(row).encode()) for row in rows]
        return str(write_tar(folder / f"{name}.tar", members))
    if kind == "csv":
        for number in numbers:
            (folder / f"{number}.jpg").write_bytes(IMAGES[number])
            (folder / f"other{number}.jpg").write_bytes(OTHERS[number])
        lines = [",".join([*rows[0], "image", "photo"])]
        lines += [",".join([*row.values(), f"{i}.jpg", f"other{i}.jpg"]) for i, row in zip(numbers, rows, strict=True)]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(folder / f"{name}.csv")
    cells = [row | {"image": {"bytes": IMAGES[i]}, "photo": {"bytes": OTHERS[i]}} for i, row in zip(numbers, rows)]  # noqa: B905
    place = folder if kind == "parquet" else folder / f"{name}_{kind}"
    place.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(cells), place / f"{name}.parquet")
    return str(place / f"{name}.parquet") if kind == "parquet" else str(place)


def opened(kind: str, files: list[str], *, length: int = 6, **settings: Any) -> tuple[PairSource, SourceConfig]:
    """The source of these files, with captions in both languages unless settings say otherwise."""
    if not settings.keys() & {"captions", "caption_fields"}:
        settings["captions"] = {"ko": "ko", "en": "en"}
    settings |= {"stream_length": length} if kind == "stream" else {}
    config = SourceConfig(files=files, **settings)
    assert source_kind(config).name == COLUMN_OF[kind]
    source = open_source("s", config, 4)
    assert isinstance(source, CLASS_OF[COLUMN_OF[kind]])
    return source, config


def records(source: PairSource) -> list[PairRecord]:
    return [source[index] for index in range(len(source))]
