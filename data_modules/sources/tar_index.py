"""The index of a set of shards: one file with 24 bytes per sample, of which only the requested rows are read.

Layout: the rows of all shards (`tar_scan.ROW_FIELDS`, little-endian uint32), a JSON description of the shards, its
length as a little-endian uint64, and `MAGIC`.
"""

import contextlib
import errno
import functools
import hashlib
import json
import multiprocessing
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.file_locks import locked
from data_modules.json_lines import append_json_lines, read_json_lines, replace_json_lines
from data_modules.paths import is_url
from data_modules.sources.blobs import BlobReader, file_state
from data_modules.sources.config import SourceConfig, needs_language_marks
from data_modules.sources.rows import text_fields
from data_modules.sources.tar_scan import ROW_FIELDS, TEXT, ShardScan, scan_shard

MAGIC = b"KELIPIX1"
ROW_BYTES = 4 * ROW_FIELDS
DIGEST_LENGTH = 16
"""Hexadecimal digits of the SHA-256 of a shard's rows."""
SHARD_BYTES = 600
"""Memory of the description of a shard without faults, as `tracemalloc` counts it."""
_MAX_GAP_ROWS = 4096 // ROW_BYTES
"""Rows with at most this many between them are read at once: most often they are in one page of memory."""
CACHE_FOLDER = Path("~/.cache/kelip/index")
"""Folder of indices whose shards are remote or in a read-only folder."""
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""Errors of a file system without locks."""
_ABANDONED_SECONDS = 24 * 3600.0
"""Age of a partial index that nobody writes any more: a shard takes minutes."""

Progress = Callable[[int, int], None]
"""(finished shards, all shards) -> None."""
ScanOf = Callable[[], ShardScan]
"""Reads the scan of a shard from where it is kept, since those of a billion samples are 24 GB together."""


class ShardIndex:
    """An opened index.

    Raises:
        ValueError: The file is no index, or incomplete.
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
        self._num_rows = int(self.ends[-1]) if len(self.ends) else 0
        if self._num_rows * ROW_BYTES != size - 16 - length:
            raise ValueError(f"{file} does not hold the rows that it describes")
        # Not memory-mapped: a mapped file may count as resident memory of every worker.
        self._reader = BlobReader()

    def __len__(self) -> int:
        return self._num_rows

    def rows(self, start: int, stop: int) -> NDArray[np.uint32]:
        """The rows [start, stop), uint32 (N, 6), see `tar_scan.ROW_FIELDS`.

        Raises:
            SampleFault: The index can no longer be read.
        """
        return np.frombuffer(self._read(start, stop), dtype="<u4").reshape(-1, ROW_FIELDS)

    def _read(self, start: int, stop: int) -> bytes:
        return self._reader.read(str(self.file), start * ROW_BYTES, (stop - start) * ROW_BYTES)

    def take(self, numbers: NDArray[np.int64]) -> NDArray[np.uint32]:
        """The rows of these samples, uint32 (N, 6), in any order; rows close to each other are read at once.

        Raises:
            SampleFault: The index can no longer be read.
        """
        wanted = np.unique(numbers)
        begins_run = np.diff(wanted, prepend=-_MAX_GAP_ROWS - 1) > _MAX_GAP_ROWS
        starts, stops = wanted[begins_run], wanted[np.roll(begins_run, -1)] + 1
        content = b"".join(map(self._read, starts.tolist(), stops.tolist()))
        rows: NDArray[np.uint32] = np.frombuffer(content, dtype="<u4").reshape(-1, ROW_FIELDS)
        runs = np.searchsorted(starts, numbers, side="right") - 1
        first_rows = np.cumsum(stops - starts) - (stops - starts)
        found: NDArray[np.uint32] = rows[first_rows[runs] + numbers - starts[runs]]
        return found

    def shards_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The positions in `shards` of the shards of these samples, int64 (N,)."""
        return np.searchsorted(self.ends, numbers, side="right")

    def rows_of_shard(self, number: int) -> NDArray[np.uint32]:
        stop = int(self.ends[number])
        return self.rows(stop - self.entries[number]["samples"], stop)


def index_rule(config: SourceConfig) -> str:
    """The settings that an index depends on, as JSON; an index with another rule is not used."""
    fields = set(text_fields(config))
    rule: dict[str, object] = {"txt": TEXT in fields, "json": bool(fields - {TEXT})}
    if needs_language_marks(config):
        rule |= {
            "captions": config.caption_fields,
            "language_field": config.language_field,
            "min_hangul_share": config.min_hangul_share,
        }
    return json.dumps(rule, sort_keys=True)


def index_file(config: SourceConfig, shards: Sequence[str]) -> Path:
    """Path of the index of these shards: as configured, beside the first shard, or in the user's cache."""
    name = hashlib.sha256(json.dumps([sorted(config.files), index_rule(config)]).encode()).hexdigest()[:12]
    return index_folder(config, shards[0]) / f"kelip-{name}.index"


def index_folder(config: SourceConfig, first_file: str) -> Path:
    """Folder of a source's indices: as configured, that of its first file, or in the user's cache."""
    folder = Path(config.index_folder).expanduser() if config.index_folder else Path(first_file).parent
    if not config.index_folder and (is_url(first_file) or not os.access(folder, os.W_OK)):
        folder = CACHE_FOLDER.expanduser()
    return folder


def open_index(
    config: SourceConfig, shards: Sequence[str], *, num_workers: int = 1, progress: Progress | None = None
) -> ShardIndex:
    """The index of the shards, built first if there is none or a shard has changed.

    Local shards are compared by size and time of change; remote ones when their samples are read.

    Raises:
        DataError: The index cannot be written.
    """
    file = index_file(config, shards)
    if (index := _current_index(file, config, shards)) is not None:
        return index
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _only_builder(file):
            # Another process of the same run may have built it in the meantime.
            if (index := _current_index(file, config, shards)) is not None:
                return index
            _build(file, config, shards, num_workers, progress)
            return ShardIndex(file)
    except OSError as error:
        raise DataError(
            f"the index {file} cannot be written ({error}); set index_folder to a folder that can"
        ) from error


@contextlib.contextmanager
def _only_builder(file: Path) -> Iterator[None]:
    """Holds the locks under which an index is built, which the system releases if this process dies.

    One is on a disk of this machine, where locks always work, so that one of its processes builds. The other is beside
    the index, so that one machine does; a network file system may have no locks, or only a machine's own. Then every
    machine builds in files of its own, and each puts the same whole index in place.
    """
    name = hashlib.sha256(os.path.abspath(file).encode()).hexdigest()[:16]
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(Path(tempfile.gettempdir()) / f"kelip-{os.getuid()}-{name}.lock"))
        try:
            stack.enter_context(locked(file.with_suffix(".lock")))
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield


def _partial_files(file: Path, host: str) -> tuple[Path, Path]:
    """The rows and the lines of an index that a machine is building."""
    return file.with_suffix(f".{host}.rows"), file.with_suffix(f".{host}.lines")


def _any_index(file: Path) -> ShardIndex | None:
    try:
        return ShardIndex(file)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _current_index(file: Path, config: SourceConfig, shards: Sequence[str]) -> ShardIndex | None:
    index = _any_index(file)
    if index is None or index.rule != index_rule(config) or index.shards != list(shards):
        return None
    # Older indices have no digests; they are rebuilt from their own rows.
    return index if all("digest" in entry and _is_current(entry) for entry in index.entries) else None


def _is_current(entry: Mapping[str, Any]) -> bool:
    """Whether a shard is the one that an entry describes; a remote one that was readable is taken to be."""
    if entry["size"] < 0:
        return not is_url(entry["path"]) and not os.access(entry["path"], os.R_OK)
    if is_url(entry["path"]):
        return True
    try:
        return tuple(file_state(entry["path"])) == (entry["size"], entry["version"])
    except OSError:
        return False


def _build(
    file: Path, config: SourceConfig, shards: Sequence[str], num_workers: int, progress: Progress | None
) -> None:
    """Builds the index; an interrupted build continues after its last finished shard.

    Each finished shard is appended to two files beside the index: its rows to `.HOST.rows`, then its entry as one JSON
    line to `.HOST.lines`. In the end the description is appended to the rows, and the file becomes the index. What
    another machine has scanned is taken over.

    Example: shards a, b, c with 10, 5 and 7 samples. A build killed while it writes c leaves the entries of a and b,
    and 15 to 22 rows. The next build cuts the rows to 15 of 24 bytes and scans c only.
    """
    rule = index_rule(config)
    rows_file, lines_file = _partial_files(file, socket.gethostname())
    entries = _finished_entries(rows_file, lines_file, rule, shards)
    rows_file.touch()
    os.truncate(rows_file, sum(entry["samples"] for entry in entries) * ROW_BYTES)
    replace_json_lines(lines_file, [rule, *entries])
    known = _scanned_elsewhere(config, file, shards) | _unchanged_shards(file, rule)
    with rows_file.open("ab") as rows:
        for scan in _scans(config, shards[len(entries) :], known, num_workers):
            content = scan.rows.astype("<u4").tobytes()
            rows.write(content)
            rows.flush()
            entries.append(
                {
                    "path": scan.path,
                    "size": scan.size,
                    "version": scan.version,
                    "samples": len(scan.rows),
                    "faults": scan.faults,
                    "digest": hashlib.sha256(content).hexdigest()[:DIGEST_LENGTH],
                }
            )
            append_json_lines(lines_file, entries[-1:])
            if progress is not None:
                progress(len(entries), len(shards))
        description = json.dumps({"rule": rule, "shards": entries}).encode()
        rows.write(description + len(description).to_bytes(8, "little") + MAGIC)
        rows.flush()
        os.fsync(rows.fileno())
    os.replace(rows_file, file)
    lines_file.unlink()
    _remove_abandoned(file)


def _remove_abandoned(file: Path) -> None:
    """Remove what builds of the same index have left on other machines that no longer write it."""
    for partial in (*file.parent.glob(f"{file.stem}.*.rows"), *file.parent.glob(f"{file.stem}.*.lines")):
        with contextlib.suppress(OSError):
            if time.time() - partial.stat().st_mtime > _ABANDONED_SECONDS:
                partial.unlink()


def _finished_entries(rows_file: Path, lines_file: Path, rule: str, shards: Sequence[str]) -> list[dict[str, Any]]:
    """Entries of the leading shards that an interrupted build has finished and that have not changed since."""
    entries: list[dict[str, Any]] = []
    with contextlib.suppress(OSError, ValueError, KeyError):
        rows_present, rows_needed = rows_file.stat().st_size // ROW_BYTES, 0
        lines = read_json_lines(lines_file)
        if next(lines, None) != rule:
            return []
        for entry, shard in zip(lines, shards, strict=False):
            rows_needed += entry["samples"]
            is_finished = entry["path"] == shard and "digest" in entry and rows_needed <= rows_present
            if not is_finished or not _is_current(entry):
                break
            entries.append(entry)
    return entries


def _scanned_elsewhere(config: SourceConfig, file: Path, shards: Sequence[str]) -> dict[str, ScanOf]:
    """Path -> scan of the shards that other machines have finished in a build of the same index."""
    found: dict[str, ScanOf] = {}
    for lines_file in file.parent.glob(f"{file.stem}.*.lines"):
        host = lines_file.name.removeprefix(f"{file.stem}.").removesuffix(".lines")
        if host == socket.gethostname():
            continue
        rows_file, _ = _partial_files(file, host)
        start = 0
        for entry in _finished_entries(rows_file, lines_file, index_rule(config), shards):
            found[entry["path"]] = functools.partial(_partial_scan, config, entry, rows_file, start)
            start += entry["samples"]
    return found


def _partial_scan(config: SourceConfig, entry: Mapping[str, Any], rows_file: Path, start: int) -> ShardScan:
    """The scan of a shard by another machine, whose rows begin at `start`; made here if they are gone or damaged."""
    number = entry["samples"]
    with contextlib.suppress(OSError):
        rows = np.fromfile(rows_file, dtype="<u4", count=number * ROW_FIELDS, offset=start * ROW_BYTES)
        if hashlib.sha256(rows.tobytes()).hexdigest()[:DIGEST_LENGTH] == entry["digest"]:
            return _scan_of(entry, rows.reshape(-1, ROW_FIELDS))
    return scan_shard(config, entry["path"])


def _scan_of(entry: Mapping[str, Any], rows: NDArray[np.uint32]) -> ShardScan:
    """The scan that an entry of an index and its rows stand for."""
    faults = [(kind, key, detail) for kind, key, detail in entry["faults"]]
    return ShardScan(entry["path"], entry["size"], entry["version"], rows, faults)


def _unchanged_shards(file: Path, rule: str) -> dict[str, ScanOf]:
    """Path -> scan, from an earlier index with the same rule, of shards that have not changed since."""
    old = _any_index(file)
    if old is None or old.rule != rule:
        return {}

    def scan_of(number: int) -> ShardScan:
        return _scan_of(old.entries[number], old.rows_of_shard(number))

    return {
        entry["path"]: functools.partial(scan_of, number)
        for number, entry in enumerate(old.entries)
        if entry["size"] >= 0 and _is_current(entry)
    }


def _scans(
    config: SourceConfig, shards: Sequence[str], known: Mapping[str, ScanOf], num_workers: int
) -> Iterator[ShardScan]:
    """Scans of the shards in their order; those that are known are not read again."""
    changed = [shard for shard in shards if shard not in known]
    with contextlib.ExitStack() as stack:
        if num_workers < 2:
            new: Iterator[ShardScan] = map(functools.partial(scan_shard, config), changed)
        else:
            context = multiprocessing.get_context("spawn")
            pool = stack.enter_context(ProcessPoolExecutor(num_workers, context))
            new = pool.map(functools.partial(scan_shard, config), changed, chunksize=1)
        for shard in shards:
            yield known[shard]() if shard in known else next(new)
