"""A collection of pictures with its index on disk: embeddings of the pictures, and of their captions in each language.

Shapes: N pictures, M captions of a language, E embedding width.
"""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_modules.benchmarks.config import TextTableConfig
from data_modules.benchmarks.layouts.joined_texts import joined_captions
from data_modules.errors import DataError
from data_modules.languages import LANGUAGES
from data_modules.paths import resolve_path
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.inference.embed_data import EmbedReport, EmbedSettings, Progress, embed_to_file
from kelip_lightning.inference.embed_items import EmbedItems, EncodedImages, TableImages, text_items
from kelip_lightning.inference.embed_sources import YAML, DataChoice, find_set, open_items
from kelip_lightning.inference.embedding_file import (
    OtherEmbeddingsError,
    read_embeddings,
    remove_embeddings,
)

ShowProgress = Callable[[str], AbstractContextManager[Progress]]
"""What is embedded (`images`) -> a context with the function that shows its progress."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaptionChoice:
    """Where the captions of the pictures are."""

    file: str | None = None
    """A table with a row per picture; `None`: captions are those of the data, or there are none."""
    columns: Mapping[str, str]
    """Language -> column."""
    key: str = "key"
    """Column of the file that equals the pictures' keys, or has the same file names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """What is searched, before it is embedded."""

    items: EmbedItems
    captions: dict[str, list[list[str]]]
    """Language -> captions of each item; no language: there are no captions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """The captions of a collection in one language."""

    by_picture: list[list[str]]
    """Of each of the N pictures."""
    texts: list[str]
    """M different texts."""
    rows: NDArray[np.float32]
    """(M, E), unit rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collection:
    """N pictures that can be searched."""

    name: str
    keys: list[str]
    rows: NDArray[np.float32]
    """(N, E), unit rows."""
    captions: dict[str, Captions]
    """Language -> captions."""
    images: EncodedImages
    positions: list[int]
    """Position of each picture in `images`."""

    def __len__(self) -> int:
        return len(self.keys)

    def image(self, row: int) -> bytes:
        """The file of a picture; SampleFault if it cannot be read any more."""
        return self.images.read(self.positions[row])

    def title(self, row: int) -> str:
        """The first caption of a picture in each language, or its key."""
        found = [captions.by_picture[row][0] for captions in self.captions.values() if captions.by_picture[row]]
        return " · ".join(found) or self.keys[row]


def open_pictures(choice: DataChoice, captions: CaptionChoice | None = None) -> Pictures:
    """The pictures and captions that a command line names; captions of an evaluation set are found without a choice.

    Raises:
        DataError: There are no pictures, or the captions are not there, or a choice has no effect.
        ConfigError: A YAML file is wrong.
    """
    items = open_items(choice)
    path = resolve_path(choice.data)
    if captions is not None and captions.file is not None:
        found = {
            language: joined_captions(
                TextTableConfig(files=[captions.file], captions=column, key=captions.key), items.keys, "--captions"
            )
            for language, column in _file_columns(captions).items()
        }
    elif captions is not None:
        found = _table_captions(items, captions.columns)
    else:
        found = _set_captions(path, choice.set_name) if path.suffix in YAML else {}
    return Pictures(items=items, captions=found)


def _file_columns(captions: CaptionChoice) -> Mapping[str, str]:
    """The named columns, by default those of a table's columns that are called by a language."""
    if captions.columns:
        return captions.columns
    assert captions.file is not None
    present = _column_names(resolve_path(captions.file))
    found = {language: language for language in LANGUAGES if language in present}
    if not found:
        raise DataError(
            f"--captions {captions.file} has no column {' or '.join(LANGUAGES)}; name its columns with "
            "--caption-columns ko=COLUMN en=COLUMN"
        )
    return found


def _column_names(file: Path) -> list[str]:
    from data_modules.sources.tables import open_paths_table

    if not file.is_file():
        raise DataError(f"--captions {file} does not exist; name a .csv, .tsv, .jsonl or .parquet file")
    if file.suffix == ".parquet":
        return list(pq.read_schema(file).names)
    return list(open_paths_table(file).column_names)


def _table_captions(items: EmbedItems, columns: Mapping[str, str]) -> dict[str, list[list[str]]]:
    """Captions in columns of the table that holds the pictures."""
    if not isinstance(items.images, TableImages):
        raise DataError(
            f"--caption-columns names columns of a table, and {items.name} is none; name a file with --captions"
        )
    table, rows = items.images.table, items.images.rows
    found: dict[str, list[list[str]]] = {}
    for language, column in columns.items():
        if column not in table.columns:
            raise DataError(f"{items.name} has no column '{column}'; its columns are {', '.join(table.columns)}")
        found[language] = [_as_texts(cell) for cell in table.cells(column, rows)]
    return found


def _as_texts(cell: object) -> list[str]:
    cells = cell if isinstance(cell, list) else [cell]
    return [one.strip() for one in cells if isinstance(one, str) and one.strip()]


def _set_captions(path: Path, set_name: str | None) -> dict[str, list[list[str]]]:
    """The captions of a retrieval set's images; of other sets and sources none."""
    named = find_set(path, set_name)
    if named.build is None:
        return {}
    opened: Any = named.open()
    if not hasattr(opened, "positives"):
        return {}
    found: dict[str, list[list[str]]] = {}
    for language, pairs in opened.positives.items():
        texts = opened.captions[language]
        found[language] = [[] for _ in range(len(opened.images))]
        for image, caption in pairs.tolist():
            found[language][image].append(texts[caption])
    return found


def index_collection(
    pictures: Pictures, encoders: Encoders, index: Path, settings: EmbedSettings, show: ShowProgress
) -> tuple[Collection, EmbedReport]:
    """Embed what the index lacks, and read it; an index of another model is made anew.

    Args:
        pictures: What is searched.
        encoders: The model.
        index: File of the pictures' embeddings; those of captions stand beside it (`NAME.ko.parquet`).
        settings: As for `kelip embed`.
        show: Shows progress.

    Raises:
        DataError: The index is damaged or cannot be written, or too many pictures are broken, or none is left.
    """
    items = pictures.items
    if items.images is None:
        raise DataError(f"{items.name} holds texts, and pictures are searched; name a folder of pictures")
    report = _embed(items, encoders, index, settings, show)
    found = read_embeddings(index)
    if not found.keys:
        raise DataError(f"{items.name} has no picture that can be read")
    place = {key: position for position, key in enumerate(items.keys)}
    positions = [place[key] for key in found.keys]
    captions = {}
    for language, cells in pictures.captions.items():
        of_pictures = [cells[position] for position in positions]
        file = index.with_name(f"{index.stem}.{language}{index.suffix}")
        if one := _embed_captions(of_pictures, encoders, file, settings, show):
            captions[language] = one
    collection = Collection(
        name=items.name,
        keys=found.keys,
        rows=np.ascontiguousarray(found.rows),
        captions=captions,
        images=items.images,
        positions=positions,
    )
    return collection, report


def _embed(
    items: EmbedItems, encoders: Encoders, file: Path, settings: EmbedSettings, show: ShowProgress
) -> EmbedReport:
    with show(items.kind) as progress:
        try:
            return embed_to_file(items, encoders, file, settings, progress)
        except OtherEmbeddingsError:
            remove_embeddings(file)
            return embed_to_file(items, encoders, file, settings, progress)


def _embed_captions(
    cells: Sequence[Sequence[str]], encoders: Encoders, file: Path, settings: EmbedSettings, show: ShowProgress
) -> Captions | None:
    """The captions of one language; `None`: there are none."""
    distinct = list(dict.fromkeys(text for texts in cells for text in texts))
    if not distinct:
        return None
    # The texts are their own keys, so that a caption that moves to another picture is not embedded again.
    _embed(text_items("captions", distinct, [[text] for text in distinct]), encoders, file, settings, show)
    return Captions(by_picture=[list(texts) for texts in cells], texts=distinct, rows=read_embeddings(file).rows)


def default_index(model: str, data: str, set_name: str | None) -> Path:
    """A file in the user's cache, one for each model and folder; `$XDG_CACHE_HOME` or `~/.cache`."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = Path(model).expanduser()
    place = "\n".join(
        [str(folder.resolve()) if folder.exists() else model, str(resolve_path(data).resolve()), set_name or ""]
    )
    return cache / "kelip" / "search" / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.parquet"
