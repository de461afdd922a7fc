"""One pass over the headers of a shard: its members (ustar, GNU long names, pax), and which of them make a sample.

References: POSIX.1-2017 `pax`, ustar interchange format; GNU tar manual, "Basic Tar Format"; the WebDataset layout,
https://github.com/webdataset/webdataset: members of one sample share the name up to the first dot of its last part.
Python's `tarfile` reads headers at a seventh of the speed, and gives no offsets past a damaged one.
Deviation: members of a sample need not be adjacent; a second member of the same name is left out and counted.
"""

import contextlib
import functools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.image_files import IMAGE_ENDINGS
from data_modules.paths import is_url
from data_modules.sources.blobs import file_state
from data_modules.sources.config import SourceConfig, needs_language_marks
from data_modules.sources.remote import TIMEOUT_SECONDS, open_filesystem, with_retries
from data_modules.sources.rows import language_mark, text_fields

BLOCK = 512
_MAX_NAME_BYTES = 1 << 20
"""Longest extended header; a longer one counts as damage."""
TEXT, JSON = "txt", "json"
LANGUAGE_SHIFT = 30
"""The two highest bits of a text's size hold 1 + the row's language mark; 0: not determined."""
MAX_TEXT_BYTES = (1 << LANGUAGE_SHIFT) - 1
ROW_FIELDS = 6
"""uint32 each: header block and size of image, text and JSON; block 0 with size 0: missing. 24 bytes per sample."""

ReadAt = Callable[[int, int], bytes]
"""(start, length) -> bytes, fewer at the end of the file."""
FaultRow = tuple[str, str, str]
"""Kind, key, detail."""


class Member(NamedTuple):
    """A regular file in a tar."""

    name: str
    header_block: int
    """Number of the 512-byte block of its (last) header; the data follow."""
    size: int
    """Bytes of data."""


class TarDamage(Exception):  # noqa: N818  # it is counted, and the members before it are used
    """The rest of the tar cannot be read.

    Attributes:
        kind: `shard_cut` or `shard_damaged`, of `faults.SKIPPED`.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


def parse_size(field: bytes) -> int:
    """The number in a header field of 12 bytes: octal, or base 256 if its first bit is set.

    Raises:
        ValueError: It is neither.
    """
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
    return int(field.split(b"\0", 1)[0].strip() or b"0", 8)


def is_header(block: bytes) -> bool:
    """Whether a block of 512 bytes is a tar header by its checksum."""
    if len(block) != BLOCK:
        return False
    try:
        stored = int(block[148:156].split(b"\0", 1)[0].strip(), 8)
    except ValueError:
        return False
    return stored == sum(block) - sum(block[148:156]) + 8 * ord(" ")


def header_name(block: bytes) -> str:
    """The name in a single header, without extended headers: at most 255 bytes of it.

    Bytes that are not UTF-8 stay distinct, as in Python's names of files (`surrogateescape`).
    """
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", errors="surrogateescape")


def read_members(read_at: ReadAt, size: int) -> Iterator[Member]:
    """The regular files of a tar in their order.

    Args:
        read_at: Reads the tar.
        size: Its length in bytes.

    Raises:
        TarDamage: After the last whole member, if the tar is damaged or cut there.
    """
    position, long_name = 0, ""
    while True:
        block = read_at(position, BLOCK)
        if not block.strip(b"\0"):
            if len(block) < BLOCK:
                raise TarDamage("shard_cut", f"it ends at byte {size} without an end-of-archive mark")
            return
        if not is_header(block):
            kind = "shard_cut" if len(block) < BLOCK else "shard_damaged"
            raise TarDamage(kind, f"no tar header at byte {position} of {size}")
        try:
            length = parse_size(block[124:136])
        except ValueError as error:
            raise TarDamage("shard_damaged", f"the header at byte {position} has no readable size") from error
        if position + BLOCK + length > size:
            raise TarDamage("shard_cut", f"it ends inside the member at byte {position}")
        flag = block[156:157]
        if flag in (b"L", b"x"):
            long_name = _extended_name(flag, read_at, position, length) or long_name
        else:
            if flag in (b"0", b"\0", b"7"):
                yield Member(long_name or header_name(block), position // BLOCK, length)
            if flag not in (b"K", b"g"):
                long_name = ""
        position += BLOCK + -(-length // BLOCK) * BLOCK


def _extended_name(flag: bytes, read_at: ReadAt, position: int, length: int) -> str:
    """The name in a GNU long-name or pax header; empty if there is none."""
    if length > _MAX_NAME_BYTES:
        raise TarDamage("shard_damaged", f"the extended header at byte {position} has {length} bytes")
    content = read_at(position + BLOCK, length)
    if flag == b"L":
        return content.split(b"\0", 1)[0].decode("utf-8", errors="surrogateescape")
    while content:
        digits, _, rest = content.partition(b" ")
        if not digits.isdigit() or int(digits) <= len(digits):
            return ""
        record, content = rest[: int(digits) - len(digits) - 1], content[int(digits) :]
        keyword, _, value = record.partition(b"=")
        if keyword == b"path":
            return value.rstrip(b"\n").decode("utf-8", errors="surrogateescape")
    return ""


def key_and_ending(name: str) -> tuple[str, str]:
    """The key of the sample that a member belongs to, and its ending in lower case; empty if it belongs to none.

    The ending is what follows the first dot of the last part of the name: `a/b.seg.png` is the `seg.png` of `a/b`.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, ending = base.partition(".")
    return (folder + slash + stem, ending.lower()) if stem and ending else ("", "")


UNSAFE = "absolute, or it leaves its folder"


def is_unsafe(name: str) -> bool:
    """Whether a member's name is absolute or leaves its folder."""
    return name.startswith("/") or ".." in name.split("/")[:-1]


def are_plain_headers(headers: bytes, sizes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether each block of 512 bytes is a header, by its checksum, of a member of this size.

    It takes a tenth of the time of `check_member`, and knows only the notation that most programs write: six octal
    digits and a null byte for the checksum, eleven digits for the size. `check_member` decides about other headers.
    """
    blocks = np.frombuffer(headers, dtype=np.uint8).reshape(-1, BLOCK)
    stored, end = blocks[:, 148:154], blocks[:, 154]
    sums = blocks.sum(axis=1, dtype=np.int64) - blocks[:, 148:156].sum(axis=1, dtype=np.int64) + 8 * ord(" ")
    size_ends = blocks[:, 135]
    are_ended = (end == 0) & ((size_ends == 0) | (size_ends == ord(" ")))
    fits: NDArray[np.bool_] = (_octal(stored) == sums) & (_octal(blocks[:, 124:135]) == sizes) & are_ended
    return fits


def _octal(digits: NDArray[np.uint8]) -> NDArray[np.int64]:
    """The numbers that rows of octal digits spell, int64 (N,); -1 for a row with another character."""
    values = digits - np.uint8(ord("0"))
    numbers = values.astype(np.int64) @ (1 << 3 * np.arange(digits.shape[1])[::-1])
    return np.where((values < 8).all(axis=1), numbers, -1)


def check_member(shard: str, header: bytes, content: bytes, size: int) -> None:
    """Check a member of `size` bytes against its header.

    Raises:
        SampleFault: They are not what the index of the shard describes (`shard_changed`).
    """
    try:
        fits = is_header(header) and parse_size(header[124:136]) == size == len(content)
    except ValueError:
        fits = False
    if not fits:
        raise SampleFault("shard_changed", f"{shard} no longer holds the member that its index describes")


@dataclass(slots=True)
class ShardScan:
    """The samples of one shard."""

    path: str
    size: int = -1
    """Bytes; -1: it could not be read."""
    version: str = ""
    rows: NDArray[np.uint32] = field(default_factory=lambda: np.empty((0, ROW_FIELDS), np.uint32))
    """uint32 (N, 6), see `ROW_FIELDS`, in the order of the images."""
    faults: list[FaultRow] = field(default_factory=list)
    """Members and samples that are left out."""


def parse_row(text: bytes | None, metadata: bytes | None) -> dict[str, Any]:
    """The fields of a sample: `txt` and the keys of its JSON.

    Raises:
        SampleFault: The JSON is no object, or not UTF-8 (`metadata_undecodable`).
    """
    row: dict[str, Any] = {}
    if metadata is not None:
        try:
            loaded = json.loads(metadata.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            raise SampleFault("metadata_undecodable", str(error)) from error
        if not isinstance(loaded, Mapping):
            raise SampleFault("metadata_undecodable", f"a {type(loaded).__name__}, not an object")
        row.update(loaded)
    if text is not None:
        row[TEXT] = text
    return row


def scan_shard(config: SourceConfig, path: str) -> ShardScan:
    """The samples of a shard; of one that cannot be read, a single fault.

    Raises:
        DataError: There is no such shard.
    """
    try:
        found = ShardScan(path, *file_state(path, config.read_timeout_seconds))
        with open_shard(path, config.read_timeout_seconds) as read_at:
            return _scan(config, found, read_at)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist; correct the source's `files`, or leave the shard out") from error
    except Exception as error:  # every filesystem has its own errors
        return ShardScan(path, faults=[("shard_unreadable", path, str(error) or type(error).__name__)])


@contextlib.contextmanager
def open_shard(path: str, timeout: float = TIMEOUT_SECONDS) -> Iterator[ReadAt]:
    """A function that reads a local or remote shard.

    Args:
        path: Path or URL.
        timeout: Seconds of one remote read before it is abandoned and tried again.

    Raises:
        Exception: The file cannot be opened; every filesystem has its own errors.
    """
    if is_url(path):
        filesystem, inner = open_filesystem(path)
        with filesystem.open(inner, "rb") as stream:
            yield functools.partial(_read_stream, stream, timeout)
    else:
        with open(path, "rb") as file:
            yield lambda start, length: os.pread(file.fileno(), length, start)


def _read_stream(stream: Any, timeout: float, start: int, length: int) -> bytes:
    def read() -> bytes:
        stream.seek(start)
        return bytes(stream.read(length))

    return bytes(with_retries(read, timeout=timeout))


def _scan(config: SourceConfig, found: ShardScan, read_at: ReadAt) -> ShardScan:
    samples = _group(found, read_at)
    fields = set(text_fields(config))
    kinds = [kind for kind, is_read in ((TEXT, TEXT in fields), (JSON, bool(fields - {TEXT}))) if is_read]
    rows = []
    for key, members in samples.items():
        if "image" not in members:
            found.faults.append(("image_missing", key, "no image beside its other members"))
        elif kinds and not any(kind in members for kind in kinds):
            found.faults.append(("caption_missing", key, f"no .{' or .'.join(kinds)} beside the image"))
        else:
            rows.append(_row(config, members, kinds, read_at))
    rows.sort()
    found.rows = np.array(rows, dtype=np.uint32).reshape(-1, ROW_FIELDS)
    return found


def _group(found: ShardScan, read_at: ReadAt) -> dict[str, dict[str, Member]]:
    """Key -> `image`, `txt`, `json` -> member; adds unusable members to `found.faults`."""
    samples: dict[str, dict[str, Member]] = {}
    try:
        for member in read_members(read_at, found.size):
            key, ending = key_and_ending(member.name)
            kind = ending if ending in (TEXT, JSON) else "image"
            if kind == "image" and ending not in IMAGE_ENDINGS:
                continue  # other members, such as a .npy or a checksum, are ignored
            if is_unsafe(member.name):
                found.faults.append(("unsafe_name", member.name, UNSAFE))
                continue
            members = samples.setdefault(key, {})
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
        present = {kind: members[kind] for kind in kinds if kind in members}
        contents = {kind: read_at((one.header_block + 1) * BLOCK, one.size) for kind, one in present.items()}
        try:
            fields = parse_row(contents.get(TEXT), contents.get(JSON))
        except SampleFault:
            fields = {}
        row[3] |= (1 + language_mark(config, fields)) << LANGUAGE_SHIFT
    return row
