"""One pass over the headers of a shard: which members make which sample.

Reference: the WebDataset layout, https://github.com/webdataset/webdataset: members of one sample share the name up to
the first dot of its last part.
Deviation: members of a sample need not stand together; a second member of the same name is left out and counted.
"""

import functools
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import fsspec
import numpy as np
from numpy.typing import NDArray

from data_modules.faults import SampleFault
from data_modules.paths import is_url
from data_modules.sources.blobs import file_state, with_retries
from data_modules.sources.config import SourceConfig
from data_modules.sources.rows import language_mark, needs_language_marks
from data_modules.sources.tar_headers import BLOCK, Member, ReadAt, TarDamage, read_members

IMAGE_ENDINGS = frozenset({"jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif"})
TEXT, JSON = "txt", "json"
LANGUAGE_SHIFT = 30
"""The two highest bits of a text's size hold 1 + the row's language mark; 0: not asked for."""
MAX_TEXT_BYTES = (1 << LANGUAGE_SHIFT) - 1

ROW_FIELDS = 6
"""uint32 each: header block and size of image, text and JSON; block 0 with size 0: none. 24 bytes a sample."""

FaultRow = tuple[str, str, str]
"""Kind, key, detail."""


@dataclass(slots=True)
class ShardScan:
    """What one shard holds."""

    path: str
    size: int = -1
    """Bytes; -1: it could not be read."""
    version: str = ""
    rows: NDArray[np.uint32] = field(default_factory=lambda: np.empty((0, ROW_FIELDS), np.uint32))
    """uint32 (N, 6), see `ROW_FIELDS`, in the order of the images."""
    faults: list[FaultRow] = field(default_factory=list)
    """What was left out, and why."""


def needed_fields(config: SourceConfig) -> set[str]:
    """The fields that make a record: `txt`, or keys of the JSON."""
    fields = {*config.captions.values(), *config.caption_fields, *config.keywords.values()}
    return fields | ({config.language_field} if config.language_field else set())


def parse_row(text: bytes | None, metadata: bytes | None) -> dict[str, Any]:
    """The fields of a sample.

    Raises:
        SampleFault: The JSON is no object (`metadata_undecodable`).
    """
    row: dict[str, Any] = {}
    if metadata is not None:
        try:
            loaded = json.loads(metadata.decode("utf-8", errors="replace"))
        except (ValueError, RecursionError) as error:
            raise SampleFault("metadata_undecodable", str(error)) from error
        if not isinstance(loaded, Mapping):
            raise SampleFault("metadata_undecodable", f"a {type(loaded).__name__}, not an object")
        row.update(loaded)
    if text is not None:
        row[TEXT] = text
    return row


def scan_shard(config: SourceConfig, path: str) -> ShardScan:
    """The samples of a shard; a shard that cannot be read at all has none and says so."""
    try:
        state = file_state(path, config.read_timeout_seconds)
        if is_url(path):
            filesystem, inner = fsspec.core.url_to_fs(path)
            with filesystem.open(inner, "rb") as stream:
                return _scan(
                    config,
                    path,
                    functools.partial(_read_stream, stream, config.read_timeout_seconds),
                    state.size,
                    state.version,
                )
        descriptor = os.open(path, os.O_RDONLY)
        try:
            read_at = functools.partial(_pread, descriptor)
            return _scan(config, path, read_at, state.size, state.version)
        finally:
            os.close(descriptor)
    except Exception as error:  # every filesystem has its own errors
        return ShardScan(path, faults=[("shard_unreadable", path, str(error) or type(error).__name__)])


def _pread(descriptor: int, start: int, length: int) -> bytes:
    return os.pread(descriptor, length, start)


def _read_stream(stream: Any, timeout: float, start: int, length: int) -> bytes:
    def read() -> bytes:
        stream.seek(start)
        return bytes(stream.read(length))

    return bytes(with_retries(read, timeout=timeout))


def _scan(config: SourceConfig, path: str, read_at: ReadAt, size: int, version: str) -> ShardScan:
    found = ShardScan(path, size, version)
    samples = _group(found, read_at, size)
    fields = needed_fields(config)
    kinds = [kind for kind, wanted in ((TEXT, TEXT in fields), (JSON, bool(fields - {TEXT}))) if wanted]
    rows = []
    for key, members in samples.items():
        if "image" not in members:
            found.faults.append(("image_missing", key, "no image beside its other members"))
        elif not any(kind in members for kind in kinds):
            found.faults.append(("caption_missing", key, f"no .{' or .'.join(kinds)} beside the image"))
        else:
            rows.append(_row(config, members, kinds, read_at))
    rows.sort()
    found.rows = np.array(rows, dtype=np.uint32).reshape(-1, ROW_FIELDS)
    return found


def _group(found: ShardScan, read_at: ReadAt, size: int) -> dict[str, dict[str, Member]]:
    """Key -> `image`, `txt`, `json` -> member; what cannot be used goes to `found.faults`."""
    samples: dict[str, dict[str, Member]] = {}
    try:
        for member in read_members(read_at, size):
            folder, _, base = member.name.rpartition("/")
            stem, dot, ending = base.partition(".")
            kind = ending.lower() if ending.lower() in (TEXT, JSON) else "image"
            if not dot or not stem or (kind == "image" and ending.lower() not in IMAGE_ENDINGS):
                continue  # other members (a .npy, a checksum) are none of ours
            if folder.startswith("/") or member.name.startswith("/") or ".." in folder.split("/"):
                found.faults.append(("unsafe_name", member.name, "absolute, or it climbs out of its folder"))
                continue
            members = samples.setdefault(f"{folder}/{stem}" if folder else stem, {})
            if kind in members:
                found.faults.append(("duplicate_key", member.name, f"again at byte {member.header_block * BLOCK}"))
            else:
                members[kind] = member
    except TarDamage as damage:
        found.faults.append((damage.kind, found.path, str(damage)))
    return samples


def _row(config: SourceConfig, members: Mapping[str, Member], kinds: list[str], read_at: ReadAt) -> list[int]:
    row: list[int] = []
    for kind in ("image", TEXT, JSON):
        member = members.get(kind)
        row += [member.header_block, min(member.size, MAX_TEXT_BYTES)] if member else [0, 0]
    if needs_language_marks(config):
        contents = {
            kind: read_at((members[kind].header_block + 1) * BLOCK, members[kind].size)
            for kind in kinds
            if kind in members
        }
        row[3] |= (1 + _mark(config, contents)) << LANGUAGE_SHIFT
    return row


def _mark(config: SourceConfig, contents: Mapping[str, bytes]) -> int:
    try:
        return language_mark(config, parse_row(contents.get(TEXT), contents.get(JSON)))
    except SampleFault:
        return language_mark(config, {})
