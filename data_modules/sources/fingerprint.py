"""What tells one content of a source from another, without reading the content.

Sizes, numbers of samples, and what the formats themselves say of their content: the index of a shard, the footer of a
parquet file, the fingerprint of a Hugging Face dataset. Nothing depends on where the files lie or when they were
copied. What it cannot see: a member of a shard, an image beside a table, or a cell of a large table exchanged for one
of the same length.
"""

import hashlib
import itertools
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.errors import DataError
from data_modules.paths import is_url, resolve_files, resolve_path
from data_modules.sources.config import SourceConfig, SourceFormat, source_format
from data_modules.sources.opening import open_source
from data_modules.sources.protocol import PairSource
from data_modules.sources.table_source import TableSource
from data_modules.sources.tables import RESTORE
from data_modules.sources.tar_index import DIGEST_LENGTH
from data_modules.sources.tar_source import TarSource

_PROBES, _PROBE_BYTES = 16, 1 << 16
"""A text table is digested by this many blocks of this many bytes, evenly spaced; a file of 1 MiB as a whole."""
_SELECTING = (
    "captions",
    "caption_fields",
    "keywords",
    "keyword_separator",
    "language",
    "language_field",
    "min_hangul_share",
    "where",
    "split",
    "subset",
    "stream_length",
)
"""Settings that decide which pairs a source has, and what is read of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFingerprint:
    """What is known of a file without reading it."""

    name: str
    """Its path from the source's folder, the last one without a wildcard."""
    size: int
    """Bytes; -1: it could not be read."""
    num_rows: int | None = None
    """Samples of a shard, rows of a parquet file; none: not known by file."""
    digest: str = ""
    """Of a shard's index, of a parquet file's footer, of blocks of a text table; empty where there is none."""

    def to_plain(self) -> list[str | int | None]:
        """Values that JSON can hold."""
        return [self.name, self.size, self.num_rows, self.digest]

    @classmethod
    def from_plain(cls, plain: Sequence[Any]) -> "FileFingerprint":
        """The inverse of `to_plain`.

        Raises:
            ValueError, TypeError: These are no such values.
        """
        name, size, num_rows, digest = plain
        return cls(name=name, size=size, num_rows=num_rows, digest=digest)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFingerprint:
    """What is known of a source without reading its samples."""

    format: str
    """shards, table, dataset or stream."""
    num_samples: int
    """Pairs."""
    selection: Mapping[str, Any]
    """The settings that decide which pairs there are."""
    files: tuple[FileFingerprint, ...]
    """In the order in which they are read; empty for a dataset of the Hugging Face Hub."""
    version: str = ""
    """The fingerprint that a Hugging Face dataset has of itself; empty where it has none, or one of time and place."""

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of all of it: equal for equal sources, wherever they lie."""
        return short_digest(json.dumps(self.to_plain(), sort_keys=True, ensure_ascii=False).encode())

    def to_plain(self) -> dict[str, Any]:
        """Values that JSON can hold; a file is a list of its fields."""
        return {
            "format": self.format,
            "num_samples": self.num_samples,
            "selection": dict(self.selection),
            "version": self.version,
            "files": [file.to_plain() for file in self.files],
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> "SourceFingerprint":
        """The inverse of `to_plain`.

        Raises:
            ValueError, TypeError, KeyError: These are no such values.
        """
        return cls(
            format=plain["format"],
            num_samples=plain["num_samples"],
            selection=plain["selection"],
            version=plain["version"],
            files=tuple(map(FileFingerprint.from_plain, plain["files"])),
        )


def source_fingerprints(
    configs: Mapping[str, SourceConfig], opened: Iterable[PairSource] | None = None
) -> dict[str, SourceFingerprint]:
    """Name -> fingerprint of every source of a stage (`experiment.data.sources`).

    Args:
        configs: Name -> settings.
        opened: The sources, opened, before any language rule; none: they are opened here.

    Raises:
        DataError: A source cannot be opened, or one of its files is gone.
    """
    if opened is None:
        opened = [open_source(name, config) for name, config in configs.items()]
    return {source.name: source_fingerprint(source, configs[source.name]) for source in opened}


def source_fingerprint(source: PairSource, config: SourceConfig) -> SourceFingerprint:
    """The fingerprint of one opened source.

    Raises:
        DataError: One of its files is gone.
    """
    try:
        layout, files, version = _described(source, config)
    except OSError as error:
        raise DataError(f"source '{source.name}': a file cannot be read any more ({error}); restore it") from error
    return SourceFingerprint(
        format=layout,
        num_samples=len(source),
        selection={name: getattr(config, name) for name in _SELECTING},
        files=files,
        version=version,
    )


def table_fingerprint(patterns: Sequence[str]) -> tuple[FileFingerprint, ...]:
    """The files of a table.

    Raises:
        DataError: A pattern matches nothing, or a file cannot be read.
    """
    root = _root(patterns)
    return tuple(_table_file(file, _relative(str(file), root)) for file in resolve_files(patterns))


def text_fingerprint(path: str) -> FileFingerprint:
    """A small file of words, by its whole content.

    Raises:
        DataError: It cannot be read.
    """
    file = resolve_path(path)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"{file} cannot be read ({error.strerror}); correct the path") from error
    return FileFingerprint(name=file.name, size=len(content), digest=short_digest(content))


def short_digest(content: bytes) -> str:
    """The first digits of the SHA-256."""
    return hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH]


def _described(source: PairSource, config: SourceConfig) -> tuple[str, tuple[FileFingerprint, ...], str]:
    """Format, files, version."""
    if isinstance(source, TarSource):
        root = _root(config.files)
        return "shards", tuple(_shard(entry, root) for entry in source.index.entries), ""
    if source_format(config) is SourceFormat.table:
        return "table", table_fingerprint(config.files), ""
    place = resolve_path(config.files[0])
    version = source.version if isinstance(source, TableSource) else ""
    layout = "dataset" if config.stream_length is None else "stream"
    if not place.exists():
        return layout, (), version
    saved = _saved_dataset(place, config.split)
    if saved is None:
        return layout, tuple(_plain_file(file, place) for file in _files_below(place)), ""
    files = [saved / one["filename"] for one in _state(saved)["_data_files"]]
    return layout, tuple(_plain_file(file, place) for file in files), str(_state(saved)["_fingerprint"])


def _shard(entry: Mapping[str, Any], root: list[str]) -> FileFingerprint:
    return FileFingerprint(
        name=_relative(entry["path"], root), size=entry["size"], num_rows=entry["samples"], digest=entry["digest"]
    )


def _table_file(file: Path, name: str) -> FileFingerprint:
    try:
        return _read_table_file(file, name)
    except (OSError, pa.ArrowException) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(f"{file} is damaged ({reason}); {RESTORE}") from error


def _read_table_file(file: Path, name: str) -> FileFingerprint:
    size = file.stat().st_size
    if file.suffix != ".parquet":
        return FileFingerprint(name=name, size=size, digest=short_digest(b"".join(_probes(file, size))))
    # First, as it checks the file's end, where the length of the footer stands.
    num_rows = pq.read_metadata(file).num_rows
    with file.open("rb") as stream:
        stream.seek(-8, os.SEEK_END)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(-8 - length, os.SEEK_END)
        footer = stream.read(length)
    return FileFingerprint(name=name, size=size, num_rows=num_rows, digest=short_digest(footer))


def _probes(file: Path, size: int) -> Iterator[bytes]:
    step = max(_PROBE_BYTES, -(-size // _PROBES))
    with file.open("rb") as stream:
        for start in range(0, size, step):
            stream.seek(start)
            yield stream.read(_PROBE_BYTES)


def _saved_dataset(place: Path, split: str) -> Path | None:
    """The folder that `Dataset.save_to_disk` wrote for a split; none: another layout."""
    folder = place / split if (place / "dataset_dict.json").is_file() else place
    return folder if (folder / "state.json").is_file() else None


def _state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return state


def _files_below(place: Path) -> list[Path]:
    if place.is_file():
        return [place]
    return sorted(file for file in place.rglob("*") if file.is_file())


def _plain_file(file: Path, place: Path) -> FileFingerprint:
    name = file.name if file == place else file.relative_to(place).as_posix()
    return FileFingerprint(name=name, size=file.stat().st_size)


def _root(patterns: Sequence[str]) -> list[str]:
    """The parts of the deepest folder that all patterns share and in which none has a wildcard."""
    folders = [_parts(re.split(r"[*?\[{]", _located(one), maxsplit=1)[0].rpartition("/")[0]) for one in patterns]
    shared = zip(*folders, strict=False)
    return [parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, shared)]


def _located(path: str) -> str:
    return path if is_url(path) else os.path.abspath(resolve_path(path))


def _parts(path: str) -> list[str]:
    return [part for part in path.split("/") if part]


def _relative(path: str, root: list[str]) -> str:
    parts = _parts(_located(path))
    return "/".join(parts[len(root) :] if parts[: len(root)] == root else parts)
