"""Fingerprints of sources: they identify the content without reading it; and the differences between two.

A fingerprint holds sizes, numbers of samples, and what the formats store about their content: the index of a shard,
the footer of a parquet file, the fingerprint of a Hugging Face dataset. It does not depend on where the files are or
when they were copied. It does not detect a member of a shard, an image beside a table, or a cell of a large table that
is replaced by one of the same length.
"""

import hashlib
import itertools
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.errors import DataError
from data_modules.paths import is_url, resolve_path, resolve_shards
from data_modules.sources.blobs import file_state
from data_modules.sources.config import SourceConfig, SourceFormat, source_format
from data_modules.sources.folder import images_below, metadata_of, only_folder
from data_modules.sources.opening import open_source
from data_modules.sources.rows import PairSource
from data_modules.sources.tables import RESTORE, TableSource
from data_modules.sources.tar_index import DIGEST_LENGTH
from data_modules.sources.tar_source import TarSource

_PROBES, _PROBE_BYTES = 16, 1 << 16
"""The digest of a text table covers this many blocks of this many bytes, evenly spaced; up to 1 MiB, the whole file."""
_SELECTING = (
    *("captions", "caption_fields", "keywords", "keyword_separator", "language", "language_field", "min_hangul_share"),
    *("where", "split", "subset", "stream_length"),
)
"""Settings that decide which pairs a source has, and what is read of them."""
_MAX_NAMED = 3
"""Changed files that a message names; it counts the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFingerprint:
    """Identity of a file's content."""

    name: str
    """Its path from the source's folder, the last one without a wildcard."""
    size: int
    """Bytes; -1: it could not be read."""
    num_rows: int | None = None
    """Samples of a shard, rows of a parquet file; `None`: not known by file."""
    digest: str = ""
    """Of a shard's index, of a parquet file's footer, of blocks of a text table; empty if there is none."""

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
    """Identity of a source's content."""

    format: str
    """shards, table, folder, dataset or stream."""
    num_samples: int
    """Pairs."""
    selection: Mapping[str, Any]
    """The settings that decide which pairs there are."""
    files: tuple[FileFingerprint, ...]
    """In reading order; empty for a dataset of the Hugging Face Hub."""
    version: str = ""
    """A Hugging Face dataset's own fingerprint; empty if it has none, or one that depends on time and place."""

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits, equal for equal fingerprints."""
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
        names = ("format", "num_samples", "selection", "version")
        files = tuple(map(FileFingerprint.from_plain, plain["files"]))
        return cls(**{name: plain[name] for name in names}, files=files)


def source_fingerprints(
    configs: Mapping[str, SourceConfig], opened: Iterable[PairSource] | None = None
) -> dict[str, SourceFingerprint]:
    """Name -> fingerprint of every source of a stage (`experiment.data.sources`).

    Args:
        configs: Name -> settings.
        opened: The opened sources, before any language rule; `None`: they are opened here.

    Raises:
        DataError: A source cannot be opened, or one of its files is missing.
    """
    if opened is None:
        opened = [open_source(name, config) for name, config in configs.items()]
    return {source.name: _source_fingerprint(source, configs[source.name]) for source in opened}


def _source_fingerprint(source: PairSource, config: SourceConfig) -> SourceFingerprint:
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
    """The files of a table: sizes, and footers or blocks of local ones; of those in a store size and version.

    Raises:
        DataError: A pattern matches nothing, or a file cannot be read.
    """
    root = _root(patterns)
    return tuple(
        _shard_file(path, _relative(path, root)) if is_url(path) else _table_file(Path(path), _relative(path, root))
        for path in resolve_shards(patterns)
    )


def shard_fingerprint(patterns: Sequence[str]) -> tuple[FileFingerprint, ...]:
    """Tar files without their index: sizes and blocks of local ones, size and version (an ETag, ...) of remote ones.

    Raises:
        DataError: A pattern matches nothing, or a file cannot be read.
    """
    root = _root(patterns)
    return tuple(_shard_file(shard, _relative(shard, root)) for shard in resolve_shards(patterns))


def _shard_file(shard: str, name: str) -> FileFingerprint:
    try:
        state = file_state(shard)
        digest = state.version.encode() if is_url(shard) else b"".join(_probes(Path(shard), state.size))
    except Exception as error:  # every filesystem has its own errors
        raise DataError(f"{shard} cannot be read ({error}); correct the path, or the access rights") from error
    return FileFingerprint(name=name, size=state.size, digest=short_digest(digest))


def text_fingerprint(path: str) -> FileFingerprint:
    """A small text file, by its whole content.

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
        entries = source.index.entries
        plain = [(_relative(one["path"], root), one["size"], one["samples"], one["digest"]) for one in entries]
        return "shards", tuple(map(FileFingerprint.from_plain, plain)), ""
    if source_format(config) is SourceFormat.table:
        return "table", table_fingerprint(config.files), ""
    if source_format(config) is SourceFormat.folder:
        return "folder", (_folder_fingerprint(only_folder(source.name, config.files)),), ""
    place = resolve_path(config.files[0])
    version = source.version if isinstance(source, TableSource) else ""
    layout = "dataset" if config.stream_length is None else "stream"
    if not place.exists():
        return layout, (), version
    files, version = dataset_fingerprint(place, config.split)
    return layout, files, version


def _folder_fingerprint(folder: Path) -> FileFingerprint:
    """The metadata table of a folder of images, or the names and sizes of its images."""
    if (metadata := metadata_of(folder)) is not None:
        return _table_file(metadata, metadata.name)
    paths = images_below(folder)
    sizes = [(folder / path).stat().st_size for path in paths]
    lines = "".join(f"{path}\0{size}\n" for path, size in zip(paths, sizes, strict=True))
    return FileFingerprint(name="images", size=sum(sizes), num_rows=len(paths), digest=short_digest(lines.encode()))


def dataset_fingerprint(place: Path, split: str) -> tuple[tuple[FileFingerprint, ...], str]:
    """Files of a Hugging Face dataset in a local folder, and its own fingerprint if `save_to_disk` wrote it.

    Raises:
        OSError: A file cannot be read.
    """
    version = ""
    # `Dataset.save_to_disk` writes a `state.json` beside its files.
    saved = place / split if (place / "dataset_dict.json").is_file() else place
    if (saved / "state.json").is_file():
        state = json.loads((saved / "state.json").read_text(encoding="utf-8"))
        files, version = [saved / one["filename"] for one in state["_data_files"]], str(state["_fingerprint"])
    else:
        below = [place] if place.is_file() else place.rglob("*")
        files = sorted(file for file in below if file.is_file())
    names = [file.name if file == place else file.relative_to(place).as_posix() for file in files]
    sizes = [file.stat().st_size for file in files]
    found = [FileFingerprint(name=name, size=size) for name, size in zip(names, sizes, strict=True)]
    return tuple(found), version


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
    # First, since it checks the end of the file, which holds the length of the footer.
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


def all_source_changes(
    before: Mapping[str, SourceFingerprint], after: Mapping[str, SourceFingerprint]
) -> Iterator[str]:
    """A sentence for each source that differs."""
    for name in dict.fromkeys([*before, *after]):
        if name not in after:
            yield f"source '{name}' is gone"
        elif name not in before:
            yield f"source '{name}' is new"
        elif changes := source_changes(before[name], after[name]):
            yield f"source '{name}': {', '.join(changes)}"


def source_changes(before: SourceFingerprint, after: SourceFingerprint) -> list[str]:
    """Short descriptions of a source's changes; empty for equal fingerprints."""
    changes = file_changes(before.files, after.files)
    if before.num_samples != after.num_samples:
        changes.append(f"{after.num_samples:,} pairs, not {before.num_samples:,}")
    if before.format != after.format:
        changes.append(f"read as {after.format}, not as {before.format}")
    # Settings of only one of them belong to another version of the code: their values are unknown.
    shared = [key for key in before.selection if key in after.selection]
    changes += [f"another `{key}`" for key in shared if before.selection[key] != after.selection[key]]
    if before.version != after.version:
        changes.append(f"fingerprint {after.version or 'none'} of the dataset, not {before.version or 'none'}")
    return changes


def file_changes(before: Sequence[FileFingerprint], after: Sequence[FileFingerprint]) -> list[str]:
    """Short descriptions of the changes of a list of files; empty for equal lists."""
    if list(before) == list(after):
        return []
    old, new = Counter(one.name for one in before), Counter(one.name for one in after)
    changes = []
    for names, verb in ((list((new - old).elements()), "added"), (list((old - new).elements()), "removed")):
        if names:
            more = f" and {len(names) - _MAX_NAMED:,} more" if len(names) > _MAX_NAMED else ""
            changes.append(f"{', '.join(names[:_MAX_NAMED])}{more} {verb}")
    by_name = {one.name: one for one in before}
    changed = [(by_name[one.name], one) for one in after if one.name in by_name and by_name[one.name] != one]
    changes += [_file_change(*pair) for pair in changed[:_MAX_NAMED]]
    if len(changed) > _MAX_NAMED:
        changes.append(f"{len(changed) - _MAX_NAMED:,} more files changed")
    return changes or ["the same files in another order"]


def _file_change(before: FileFingerprint, after: FileFingerprint) -> str:
    parts = []
    if before.size != after.size:
        old, new = ("unreadable" if one.size < 0 else f"{one.size:,} bytes" for one in (before, after))
        parts.append(f"{new}, not {old}")
    if before.num_rows != after.num_rows:
        parts.append(f"{after.num_rows} rows, not {before.num_rows}")
    return f"{after.name} changed ({'; '.join(parts) or 'other content of the same size'})"
