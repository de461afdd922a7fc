"""The layout `shards`: samples in tar files of the WebDataset layout, texts in memory, images read from their place.

Reference: https://github.com/webdataset/webdataset: members with the same name up to the first dot are one sample.
Deviation: members of a sample need not be adjacent; a damaged shard is an error, since no row may be dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.listed import ListedSamples
from data_modules.benchmarks.layouts.settings import identity_of, key_column
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.image_files import IMAGE_ENDINGS
from data_modules.paths import in_folder, resolve_shards
from data_modules.sources.blobs import BlobReader, file_state
from data_modules.sources.config import SourceFormat, kind_of_file
from data_modules.sources.tables import check_columns
from data_modules.sources.tar_scan import (
    BLOCK,
    JSON,
    UNSAFE,
    Member,
    ReadAt,
    TarDamage,
    check_member,
    is_unsafe,
    key_and_ending,
    open_shard,
    parse_row,
    read_members,
)

CLASS = "cls"
_TEXT_ENDINGS = frozenset({"txt", "text", "transcript", CLASS, JSON})
"""Last parts of the endings that are read as texts: the ending `ko.txt` is a column too."""
_IMAGE = "image"


@dataclass(frozen=True, slots=True)
class ShardImages:
    """The images of samples in shards; see `ImageStore`."""

    shards: list[str]
    places: list[tuple[int, int, int] | None]
    """For each row the shard's number, the block of the image's header and its size; `None`: it has no image."""
    reader: BlobReader = field(default_factory=BlobReader)

    def problem(self, row: int) -> str | None:
        return None if self.places[row] is not None else "no image beside the other members of the sample"

    def read(self, row: int) -> bytes:
        place = self.places[row]
        if place is None:
            raise SampleFault("image_missing", str(self.problem(row)))
        number, block, size = place
        shard = self.shards[number]
        part = self.reader.read(shard, block * BLOCK, BLOCK + size)
        header, content = part[:BLOCK], part[BLOCK:]
        check_member(shard, header, content, size)
        if not content:
            raise SampleFault("image_missing", f"{shard}: the image has no bytes")
        return content


@dataclass(slots=True)
class ShardSamples:
    """The samples of a list of shards, in the order of the shards and of the first member of each."""

    names: list[str]
    """N keys."""
    values: dict[str, list[Any]]
    """Column -> N cells; null where a sample has no such member."""
    images: ShardImages


def open_shard_samples(
    config: TableConfig, context: str, data_folder: str | None, needs_images: bool, needed: list[str]
) -> ListedSamples:
    """The samples of tar files.

    Raises:
        DataError: A shard is missing or damaged, or a column is missing.
    """
    shards = resolve_shards([in_folder(one, data_folder) for one in config.files])
    for shard in shards:
        if kind_of_file(shard) is SourceFormat.table:
            raise DataError(f"{shard} is a table, and the layout shards reads tar files; set layout = table")
    found = read_shards(shards)
    check_columns(", ".join(config.files), found.values, needed)
    if needs_images and not any(found.images.places):
        raise DataError(
            f"{shards[0]} holds no image: an image's ending must be one of {', '.join(sorted(IMAGE_ENDINGS))}; "
            "correct files, or the names in the shards"
        )
    return ListedSamples(
        identity=identity_of(Layout.shards, shards),
        context=context,
        values=found.values,
        names=found.names,
        images=found.images,
        key=key_column(config, found.values),
    )


def read_shards(shards: list[str]) -> ShardSamples:
    """All samples of the shards: their texts, and the places of their images.

    Raises:
        DataError: A shard cannot be read, is damaged, or holds a member twice, or one that is no text.
    """
    names: list[str] = []
    rows: list[Mapping[str, Any]] = []
    places: list[tuple[int, int, int] | None] = []
    for number, shard in enumerate(shards):
        for key, members in _open_and_group(shard):
            image = members.pop(_IMAGE, None)
            names.append(key)
            rows.append(members)
            places.append((number, image.header_block, image.size) if image is not None else None)
    if not names:
        raise DataError(f"{', '.join(shards)} holds no sample; correct files")
    columns = list(dict.fromkeys(column for row in rows for column in row))
    values = {column: [row.get(column) for row in rows] for column in columns}
    return ShardSamples(names, values, ShardImages(shards, places))


def _open_and_group(shard: str) -> list[tuple[str, dict[str, Any]]]:
    """Key, and `image` -> member and column -> cell, of each sample."""
    try:
        size = file_state(shard).size
        with open_shard(shard) as read_at:
            samples = _group(shard, read_at, size)
            return [(key, _cells(shard, members, read_at)) for key, members in samples.items()]
    except DataError:
        raise
    except TarDamage as damage:
        raise DataError(f"{shard} is no whole, uncompressed tar file ({damage}); restore or rewrite it") from damage
    except Exception as error:  # every filesystem has its own errors
        raise DataError(f"{shard} cannot be read ({error}); correct the path, or the access rights") from error


def _group(shard: str, read_at: ReadAt, size: int) -> dict[str, dict[str, Member]]:
    samples: dict[str, dict[str, Member]] = {}
    for member in read_members(read_at, size):
        key, ending = key_and_ending(member.name)
        kind = _IMAGE if ending in IMAGE_ENDINGS else ending
        if kind != _IMAGE and ending.rpartition(".")[2] not in _TEXT_ENDINGS:
            continue  # other members, such as a .npy or a checksum, are ignored
        if is_unsafe(member.name):
            raise DataError(f"{shard} holds '{member.name}', a name that is {UNSAFE}; rename the member")
        members = samples.setdefault(key, {})
        if kind in members:
            raise DataError(
                f"{shard}: image '{key}' is listed twice, as {members[kind].name} and {member.name}; remove one of them"
            )
        members[kind] = member
    return samples


def _cells(shard: str, members: Mapping[str, Member], read_at: ReadAt) -> dict[str, Any]:
    """Column -> cell; keys of the JSON come first, since members of the same name replace them."""
    contents = {
        ending: read_at((member.header_block + 1) * BLOCK, member.size)
        for ending, member in members.items()
        if ending != _IMAGE
    }
    cells: dict[str, Any] = {}
    if JSON in contents:
        try:
            cells = parse_row(None, contents[JSON])
        except SampleFault as fault:
            raise DataError(f"{shard}: {members[JSON].name} is no JSON object ({fault.detail}); correct it") from fault
        cells.pop(_IMAGE, None)
    for ending, content in contents.items():
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise DataError(f"{shard}: {members[ending].name} is not UTF-8 text ({error}); convert it") from error
        cells[ending] = text.strip() if ending == CLASS else text
    return cells | ({_IMAGE: members[_IMAGE]} if _IMAGE in members else {})
