"""The index of a set of shards: one file with 24 bytes a sample, of which only the rows asked for are read.

Layout: the rows of all shards (`tar_scan.ROW_FIELDS`, little-endian uint32), then a JSON description of the shards,
then its length as a little-endian uint64 and `MAGIC`. While an index is built, rows and one line a shard are
appended to two files beside it, so that a build that was cut off goes on where it stood.
"""

import contextlib
import fcntl
import functools
import hashlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.json_lines import append_json_lines, read_json_lines, replace_json_lines
from data_modules.paths import is_url
from data_modules.sources.blobs import BlobReader, file_state
from data_modules.sources.config import SourceConfig
from data_modules.sources.rows import needs_language_marks
from data_modules.sources.tar_scan import ROW_FIELDS, ShardScan, needed_fields, scan_shard

MAGIC = b"KELIPIX1"
ROW_BYTES = 4 * ROW_FIELDS
DIGEST_LENGTH = 16
"""Hexadecimal digits of the SHA-256 of a shard's rows."""
CACHE_FOLDER = Path("~/.cache/kelip/index")
"""Where indices go that cannot lie beside their shards."""

Progress = Callable[[int, int], None]
"""(shards done, all shards) -> None."""


class ShardIndex:
    """An index, opened; only the rows that are asked for are read.

    Raises:
        ValueError: The file is no index, or not a whole one.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        size = file.stat().st_size
        with file.open("rb") as stream:
            stream.seek(max(0, size - 16))
            tail = stream.read(16)
            length = int.from_bytes(tail[:8], "little")
            if tail[8:] != MAGIC or length > size - 16:
                raise ValueError(f"{file} is not a whole index")
            stream.seek(size - 16 - length)
            description = json.loads(stream.read(length))
        self.rule: str = description["rule"]
        self.entries: list[dict[str, Any]] = description["shards"]
        self.shards: list[str] = [entry["path"] for entry in self.entries]
        counts = np.array([entry["samples"] for entry in self.entries], dtype=np.int64)
        self.ends: NDArray[np.int64] = np.cumsum(counts)
        num_rows = int(self.ends[-1]) if len(self.ends) else 0
        if num_rows * ROW_BYTES != size - 16 - length:
            raise ValueError(f"{file} does not hold the rows that it describes")
        self._num_rows = num_rows
        # Not mapped into memory: a kernel may count all of a mapped file as the process's own, once for every worker.
        self._reader = BlobReader()

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, start: int, stop: int) -> NDArray[np.uint32]:
        """The rows [start, stop), uint32 (N, 6), see `tar_scan.ROW_FIELDS`.

        Raises:
            SampleFault: The index can no longer be read.
        """
        content = self._reader.read(str(self.file), start * ROW_BYTES, (stop - start) * ROW_BYTES)
        return np.frombuffer(content, dtype="<u4").reshape(-1, ROW_FIELDS)

    def shard_of(self, index: int) -> str:
        """The shard in which a sample lies."""
        return self.shards[int(np.searchsorted(self.ends, index, side="right"))]

    def rows_of_shard(self, number: int) -> NDArray[np.uint32]:
        """The rows of one shard."""
        stop = int(self.ends[number])
        return self.rows(stop - self.entries[number]["samples"], stop)


def index_rule(config: SourceConfig) -> str:
    """What of a configuration decides on the rows: an index of another rule does not fit."""
    fields = needed_fields(config)
    rule: dict[str, object] = {"txt": "txt" in fields, "json": bool(fields - {"txt"})}
    if needs_language_marks(config):
        rule |= {
            "captions": config.caption_fields,
            "language_field": config.language_field,
            "min_hangul_share": config.min_hangul_share,
        }
    return json.dumps(rule, sort_keys=True)


def index_file(config: SourceConfig, shards: Sequence[str]) -> Path:
    """Where the index of these shards lies: as configured, beside the first shard, or in the user's cache."""
    name = hashlib.sha256(json.dumps([sorted(config.files), index_rule(config)]).encode()).hexdigest()[:12]
    folder = Path(config.index_folder).expanduser() if config.index_folder else Path(shards[0]).parent
    if not config.index_folder and (is_url(shards[0]) or not os.access(folder, os.W_OK)):
        folder = CACHE_FOLDER.expanduser()
    return folder / f"kelip-{name}.index"


def open_index(
    config: SourceConfig, shards: Sequence[str], *, num_workers: int = 1, progress: Progress | None = None
) -> ShardIndex:
    """The index of the shards, built first where there is none or a shard has changed.

    Local shards are compared by size and time of change; those behind a URL when their samples are read.

    Raises:
        DataError: The index cannot be written.
    """
    file = index_file(config, shards)
    if (index := _opened(file, config, shards)) is not None:
        return index
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _locked(file):
            # Another process of the same run may have built it in the meantime.
            if (index := _opened(file, config, shards)) is not None:
                return index
            _build(file, config, shards, num_workers, progress)
            return ShardIndex(file)
    except OSError as error:
        raise DataError(
            f"the index {file} cannot be written ({error}); set index_folder to a folder that can"
        ) from error


def _opened(file: Path, config: SourceConfig, shards: Sequence[str]) -> ShardIndex | None:
    try:
        index = ShardIndex(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    fits = index.rule == index_rule(config) and index.shards == list(shards)
    # An index of before digests were kept is written anew from its own rows.
    fits = fits and all("digest" in entry for entry in index.entries)
    return index if fits and all(_is_current(entry) for entry in index.entries) else None


def _is_current(entry: dict[str, Any]) -> bool:
    if entry["size"] < 0:
        return not is_url(entry["path"]) and not os.access(entry["path"], os.R_OK)
    if is_url(entry["path"]):
        return True
    try:
        return tuple(file_state(entry["path"])) == (entry["size"], entry["version"])
    except OSError:
        return False


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    with file.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build(
    file: Path, config: SourceConfig, shards: Sequence[str], num_workers: int, progress: Progress | None
) -> None:
    rows_file, lines_file = file.with_suffix(".rows"), file.with_suffix(".lines")
    entries = _resume(rows_file, lines_file, config, shards)
    known = _known(file, config)
    if not entries:
        append_json_lines(lines_file, [index_rule(config)])
    with rows_file.open("ab") as rows:
        for scan in _scans(config, shards[len(entries) :], known, num_workers):
            rows.write(scan.rows.astype("<u4").tobytes())
            rows.flush()
            entries.append(_entry(scan))
            append_json_lines(lines_file, entries[-1:])
            if progress is not None:
                progress(len(entries), len(shards))
        description = json.dumps({"rule": index_rule(config), "shards": entries}).encode()
        rows.write(description + len(description).to_bytes(8, "little") + MAGIC)
        rows.flush()
        os.fsync(rows.fileno())
    os.replace(rows_file, file)
    lines_file.unlink()


def _entry(scan: ShardScan) -> dict[str, Any]:
    return {
        "path": scan.path,
        "size": scan.size,
        "version": scan.version,
        "samples": len(scan.rows),
        "faults": scan.faults,
        "digest": hashlib.sha256(scan.rows.astype("<u4").tobytes()).hexdigest()[:DIGEST_LENGTH],
    }


def _resume(rows_file: Path, lines_file: Path, config: SourceConfig, shards: Sequence[str]) -> list[dict[str, Any]]:
    """The entries of a build that was cut off, as far as its rows are there; the files are cut to match."""
    entries: list[dict[str, Any]] = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        size = rows_file.stat().st_size
        lines = read_json_lines(lines_file)
        rule = next(lines, None)
        for entry, shard in zip(lines, shards, strict=False):
            if rule != index_rule(config):
                break
            needed = (sum(one["samples"] for one in entries) + entry["samples"]) * ROW_BYTES
            if entry["path"] != shard or needed > size or "digest" not in entry or not _is_current(entry):
                break
            entries.append(entry)
    rows_file.touch()
    os.truncate(rows_file, sum(entry["samples"] for entry in entries) * ROW_BYTES)
    replace_json_lines(lines_file, [index_rule(config), *entries] if entries else [])
    return entries


def _known(file: Path, config: SourceConfig) -> dict[str, ShardScan]:
    """What an index of the same rule says of shards that have not changed."""
    try:
        old = ShardIndex(file)
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {
        entry["path"]: ShardScan(
            entry["path"],
            entry["size"],
            entry["version"],
            old.rows_of_shard(i),
            [(kind, key, detail) for kind, key, detail in entry["faults"]],
        )
        for i, entry in enumerate(old.entries)
        if old.rule == index_rule(config) and entry["size"] >= 0 and _is_current(entry)
    }


def _scans(
    config: SourceConfig, shards: Sequence[str], known: dict[str, ShardScan], num_workers: int
) -> Iterator[ShardScan]:
    scan = functools.partial(_scan_unless_known, config, known if num_workers < 2 else {})
    if num_workers < 2:
        yield from map(scan, shards)
        return
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as pool:
        # Known shards are not sent: their rows are read here.
        new = pool.map(scan, [shard for shard in shards if shard not in known], chunksize=1)
        for shard in shards:
            yield known[shard] if shard in known else next(new)


def _scan_unless_known(config: SourceConfig, known: dict[str, ShardScan], shard: str) -> ShardScan:
    return known[shard] if shard in known else scan_shard(config, shard)
