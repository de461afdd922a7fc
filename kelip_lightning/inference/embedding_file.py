"""Files of embeddings: one parquet file, and the parts that it is merged from.

Columns: `key`, `text` (of texts) or `version` (of images), `embedding`, a list of E floats of unit length. The schema's
metadata has the model under `kelip`, as JSON of `EmbeddingIdentity`.

Parts are Arrow files in `FILE.parquet.parts/`, each written whole; merging reads and writes a block of rows at a time.
Shapes: N rows, E embedding width.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_modules.errors import DataError
from kelip_lightning.inference.embed_items import EmbedItems

KEY, EMBEDDING = "key", "embedding"
METADATA = b"kelip"
DTYPES = {"float32": pa.float32(), "float16": pa.float16()}
ROWS_PER_GROUP = 65_536
"""Rows of a row group, which are in memory together."""
_LEAST_COSINE = 1 - 1e-3
"""Cosine of two embeddings of one probe by the same model, on other hardware or in another precision."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingIdentity:
    """What the rows of a file have in common."""

    model: str
    """MODEL as given."""
    weights_sha256: str | None
    """Of the model's file of weights; `None`: it is not in a local folder."""
    kind: str
    """`images` or `texts`."""
    embed_dim: int
    dtype: str
    """`float32` or `float16`."""
    logit_scale: float
    """1 / temperature, for probabilities."""
    probe: list[float]
    """The model's embedding of a fixed image or text, unit length: it tells models apart whatever their library."""

    def difference(self, other: "EmbeddingIdentity") -> str | None:
        """What prevents rows of both from standing in one file, as a clause; `None`: nothing."""
        for name in ("kind", "dtype", "embed_dim"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                return f"its {name} is {theirs}, not {mine}"
        digests = {self.weights_sha256, other.weights_sha256} - {None}
        if len(digests) == 2 or float(np.dot(self.probe, other.probe)) < _LEAST_COSINE:
            return f"it is of another model, {other.model}, or of other weights"
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """The content of a file."""

    identity: EmbeddingIdentity
    keys: list[str]
    content: list[str]
    """See `EmbedItems.content`."""
    rows: NDArray[np.float32]
    """(N, E), unit length."""


def read_embeddings(file: Path) -> Embeddings:
    """A file that `kelip embed` wrote.

    Raises:
        DataError: It is missing, damaged, or something else.
    """
    identity = read_identity(file)
    pieces = list(_file_pieces(file, identity))
    rows = [piece.rows().astype(np.float32) for piece in pieces]
    return Embeddings(
        identity=identity,
        keys=[key for piece in pieces for key in piece.keys],
        content=[one for piece in pieces for one in piece.content],
        rows=np.concatenate(rows) if rows else np.empty((0, identity.embed_dim), np.float32),
    )


def read_identity(file: Path) -> EmbeddingIdentity:
    """The identity of a file of embeddings; DataError as in `read_embeddings`."""
    try:
        metadata = pq.read_schema(file).metadata or {}
        return _identity_from(metadata[METADATA])
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is no file of `kelip embed`, or is damaged; name another one, or remove it") from error


def _identity_from(text: bytes) -> EmbeddingIdentity:
    values = json.loads(text)
    return EmbeddingIdentity(**{one.name: values[one.name] for one in fields(EmbeddingIdentity)})


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some rows on disk."""

    keys: list[str]
    content: list[str]
    rows: Callable[[], NDArray[Any]]
    """Reads (n, E) of the file's dtype."""


def _file_pieces(file: Path, identity: EmbeddingIdentity) -> Iterator[_Piece]:
    """The row groups of a file, their embeddings read when they are needed."""
    opened = pq.ParquetFile(file)
    content = "text" if identity.kind == "texts" else "version"

    @lru_cache(maxsize=2)
    def rows(group: int) -> NDArray[Any]:
        return _matrix(opened.read_row_group(group, columns=[EMBEDDING]), identity.embed_dim)

    for group in range(opened.num_row_groups):
        columns = opened.read_row_group(group, columns=[KEY, content]).to_pydict()
        yield _Piece(columns[KEY], columns[content], partial(rows, group))


def _matrix(table: pa.Table, embed_dim: int) -> NDArray[Any]:
    column = table.column(EMBEDDING).combine_chunks()
    found: NDArray[Any] = column.flatten().to_numpy(zero_copy_only=True).reshape(-1, embed_dim)
    return found


class EmbeddingWriter:
    """Embeds into a file by parts, so that what an interruption leaves is used by the next run.

    Args:
        output: The file.
        identity: Of all its rows.
        items: What the file is to hold, in this order.

    Raises:
        DataError: The file or its parts are of another model or dtype, or damaged.
    """

    def __init__(self, output: Path, identity: EmbeddingIdentity, items: EmbedItems) -> None:
        self.output, self.identity, self.items = output, identity, items
        self.parts = output.with_name(f"{output.name}.parts")
        self._pieces: list[_Piece] = []
        if output.exists():
            self._refuse_other(read_identity(output), output)
            self._pieces += _file_pieces(output, identity)
        self._next = 0
        for part in sorted(self.parts.glob("*.arrow")):
            self._pieces.append(self._read_part(part))
            self._next = int(part.stem) + 1
        self._places = {
            (key, content): (number, row)
            for number, piece in enumerate(self._pieces)
            for row, (key, content) in enumerate(zip(piece.keys, piece.content, strict=True))
        }

    def missing(self) -> list[int]:
        """Positions of the items without a row, ascending."""
        pairs = zip(self.items.keys, self.items.content, strict=True)
        return [position for position, pair in enumerate(pairs) if pair not in self._places]

    def append(self, positions: Sequence[int], rows: NDArray[Any]) -> None:
        """Write a part with the (n, E) embeddings of these items."""
        keys = [self.items.keys[one] for one in positions]
        content = [self.items.content[one] for one in positions]
        self.parts.mkdir(parents=True, exist_ok=True)
        part = self.parts / f"{self._next:08d}.arrow"
        partial = part.with_suffix(".partial")
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, self._schema()) as writer:
            writer.write_table(self._table(keys, content, rows))
        partial.replace(part)
        self._next += 1
        for row, pair in enumerate(zip(keys, content, strict=True)):
            self._places[pair] = (len(self._pieces), row)
        self._pieces.append(self._read_part(part))

    def finish(self) -> int:
        """Merge everything into the file, atomically, in the order of the items; returns the number of rows.

        Items without a row are left out. A file that holds just these rows is left as it is.
        """
        pairs = zip(self.items.keys, self.items.content, strict=True)
        order = [(pair, self._places[pair]) for pair in pairs if pair in self._places]
        if self._next or not self.output.exists() or [pair for pair, _ in order] != self._written():
            self.output.parent.mkdir(parents=True, exist_ok=True)
            partial = self.output.with_name(f"{self.output.name}.partial")
            options: dict[str, Any] = {"compression": "none", "use_dictionary": False}
            with pq.ParquetWriter(partial, self._schema(), **options) as writer:
                for start in range(0, len(order), ROWS_PER_GROUP):
                    writer.write_table(self._gathered(order[start : start + ROWS_PER_GROUP]))
            partial.replace(self.output)
        shutil.rmtree(self.parts, ignore_errors=True)
        return len(order)

    def _written(self) -> list[tuple[str, str]]:
        return [pair for piece in self._pieces for pair in zip(piece.keys, piece.content, strict=True)]

    def _gathered(self, order: Sequence[tuple[tuple[str, str], tuple[int, int]]]) -> pa.Table:
        places = np.array([place for _, place in order], dtype=np.int64)
        rows = np.empty((len(order), self.identity.embed_dim), dtype=self.identity.dtype)
        for number in np.unique(places[:, 0]):
            chosen = places[:, 0] == number
            rows[chosen] = self._pieces[number].rows()[places[chosen, 1]]
        return self._table([key for (key, _), _ in order], [content for (_, content), _ in order], rows)

    def _table(self, keys: Sequence[str], content: Sequence[str], rows: NDArray[Any]) -> pa.Table:
        flat = pa.array(np.ascontiguousarray(rows, dtype=self.identity.dtype).reshape(-1))
        embeddings = pa.FixedSizeListArray.from_arrays(flat, self.identity.embed_dim)
        columns = [pa.array(keys, pa.string()), pa.array(content, pa.string()), embeddings]
        return pa.Table.from_arrays(columns, schema=self._schema())

    def _schema(self) -> pa.Schema:
        embedding = pa.list_(DTYPES[self.identity.dtype], self.identity.embed_dim)
        columns = [(KEY, pa.string()), (self.items.content_column, pa.string()), (EMBEDDING, embedding)]
        return pa.schema(columns, metadata={METADATA: json.dumps(asdict(self.identity), ensure_ascii=False).encode()})

    def _read_part(self, part: Path) -> _Piece:
        try:
            table = pa.ipc.open_file(pa.memory_map(str(part))).read_all()
            found = _identity_from(table.schema.metadata[METADATA])
        except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{part} is damaged; remove it, and its items are embedded again") from error
        self._refuse_other(found, self.parts)
        columns = table.select([KEY, self.items.content_column]).to_pydict()
        return _Piece(
            columns[KEY],
            columns[self.items.content_column],
            partial(_matrix, table, self.identity.embed_dim),
        )

    def _refuse_other(self, found: EmbeddingIdentity, place: Path) -> None:
        if difference := self.identity.difference(found):
            raise OtherEmbeddingsError(f"{place} is there already, and {difference}; name another file, or remove it")


class OtherEmbeddingsError(DataError):
    """A file of embeddings is of another model, kind or dtype."""


def remove_embeddings(output: Path) -> None:
    """Remove a file of embeddings and its parts."""
    output.unlink(missing_ok=True)
    shutil.rmtree(output.with_name(f"{output.name}.parts"), ignore_errors=True)


def check_writable(output: Path) -> None:
    """Refuse, before any work, a file that cannot be written.

    Raises:
        DataError: Its ending is not .parquet, it is a folder, or its folder cannot be written.
    """
    if output.suffix != ".parquet":
        raise DataError(f"--output {output} must end in .parquet")
    if output.is_dir():
        raise DataError(f"--output {output} is a folder; name a file in it")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"--output {output} cannot be written ({error.strerror}); name another folder") from error
    if not os.access(output.parent, os.W_OK):
        raise DataError(f"--output {output} cannot be written: no permission in {output.parent}; name another folder")
