"""Any source written as tar shards with images at the size that training needs.

A shard is written under a temporary name and renamed when it is whole: a run that was cut off goes on with the shards
that are missing. One sample per row; its JSON has `caption_ko`, `caption_en` (further ones `caption_ko_2`, ...),
`keywords_ko`, `keywords_en`, `language` and the `key` in the source; `txt` holds the first caption.
"""

import functools
import io
import json
import multiprocessing
import os
import pickle
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from data_modules.errors import DataError
from data_modules.faults import SampleFault, sample_errors
from data_modules.images.decoding import MAX_IMAGE_PIXELS, decode, open_image, to_picture
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from data_modules.sources.rows import PairSource, pairs_per_row

IMAGE_FORMATS = {"webp": "WEBP", "jpg": "JPEG", "png": "PNG"}
"""Ending -> Pillow's name."""
_LONGEST_SIDES = {"webp": 16_383, "jpg": 65_500}
"""Ending -> pixels that the format, as Pillow writes it, can hold."""


@dataclass(kw_only=True, slots=True, frozen=True)
class PackSettings:
    """How images are stored."""

    short_side: int = 256
    """Pixels; smaller images keep their size."""
    quality: int = 90
    """Of WebP and JPEG, 1 to 100."""
    image_format: str = "webp"
    """One of `IMAGE_FORMATS`."""
    samples_per_shard: int = 10_000
    """Rows of the source per shard; those that cannot be used are left out."""

    def __post_init__(self) -> None:
        if self.image_format not in IMAGE_FORMATS:
            raise DataError(f"format {self.image_format!r} is not written: use {', '.join(IMAGE_FORMATS)}")
        if self.short_side < 1 or self.samples_per_shard < 1 or not 1 <= self.quality <= 100:
            raise DataError("short side and samples per shard must be at least 1, and the quality from 1 to 100")


@dataclass(frozen=True, slots=True)
class PackedShard:
    """What became of one shard."""

    number: int
    samples: int
    """Written; 0 also where the shard was there already."""
    faults: dict[str, int]
    """Kind -> samples left out."""


_CAPTIONS = ("captions", "keywords")
"""Settings by language, which stages may divide among them."""
_WITHOUT_EFFECT = ("weight", "index_folder", "read_timeout_seconds")
"""Settings that change nothing about what is packed."""


def sources_to_pack(stages: Mapping[str, Mapping[str, SourceConfig]]) -> dict[str, SourceConfig]:
    """Name -> settings of what is to be packed for all stages.

    Sources of one name that read the same rows become one, with the captions and keywords of every stage. Where the
    rows differ, or two stages take another caption of the same language, each is packed as STAGE-NAME.

    Args:
        stages: Stage -> its sources by name.
    """
    by_name: dict[str, dict[str, SourceConfig]] = {}
    for stage, sources in stages.items():
        for name, config in sources.items():
            by_name.setdefault(name, {})[stage] = config
    packed: dict[str, SourceConfig] = {}
    for name, by_stage in by_name.items():
        first, *others = by_stage.values()
        if all(_agree(one, other) for one in by_stage.values() for other in others):
            captions, keywords = (
                {language: field for one in by_stage.values() for language, field in getattr(one, kind).items()}
                for kind in _CAPTIONS
            )
            packed[name] = replace(first, captions=captions, keywords=keywords)
        else:
            packed |= {f"{stage}-{name}": config for stage, config in by_stage.items()}
    return packed


def _agree(one: SourceConfig, other: SourceConfig) -> bool:
    """Whether both read the same rows, and no two captions of one language."""
    rows, other_rows = (
        {key: value for key, value in _content(config).items() if key not in _CAPTIONS} for config in (one, other)
    )
    pairs = [(getattr(one, kind), getattr(other, kind)) for kind in _CAPTIONS]
    return rows == other_rows and all(a[language] == b[language] for a, b in pairs for language in a.keys() & b.keys())


def _content(config: SourceConfig) -> dict[str, Any]:
    """What of a source's settings decides what is packed, as plain values."""
    plain = asdict(config) | {"format": config.format.value}
    return {key: value for key, value in plain.items() if key not in _WITHOUT_EFFECT}


def pack_source(
    source: PairSource, config: SourceConfig, folder: Path, settings: PackSettings, num_workers: int = 1
) -> Iterator[PackedShard]:
    """Write a source as `folder/NAME-000000.tar`, ...; yields each shard when it is done.

    Args:
        source: Opened; its name is part of the files' names.
        config: Its settings.
        folder: Made if it is not there.
        settings: How images are stored. The shards of a folder must all be of the same settings.
        num_workers: Processes.

    Raises:
        DataError: The folder holds shards of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = {"settings": repr(settings), "source": _content(config), "pairs": len(source)}
    _check_folder(folder / f"{source.name}.json", description)
    numbers = range(num_shards(source, config, settings))
    write = functools.partial(_write_shard, source.name, config, folder, settings)
    if num_workers < 2:
        yield from (write(number, source) for number in numbers)
        return
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, numbers)


def num_shards(source: PairSource, config: SourceConfig, settings: PackSettings) -> int:
    """How many shards a source gives."""
    rows = len(source) // pairs_per_row(config)
    return -(-rows // settings.samples_per_shard)


def _check_folder(note: Path, description: dict[str, object]) -> None:
    text = json.dumps(description, ensure_ascii=False, indent=2)
    if note.is_file() and note.read_text(encoding="utf-8") != text:
        raise DataError(f"{note.parent} holds shards that were packed otherwise (see {note.name}); use another folder")
    note.write_text(text, encoding="utf-8")


@functools.lru_cache(maxsize=1)
def _reopened(name: str, settings: bytes) -> PairSource:
    """The source in a worker process, opened once."""
    return open_source(name, pickle.loads(settings))


def _write_shard(
    name: str, config: SourceConfig, folder: Path, settings: PackSettings, number: int, source: PairSource | None = None
) -> PackedShard:
    file = folder / f"{name}-{number:06d}.tar"
    if file.is_file():
        return PackedShard(number, 0, {})
    source = source or _reopened(name, pickle.dumps(config))
    partial = file.with_suffix(f".{os.getpid()}.partial")
    pairs, faults, written = pairs_per_row(config), Counter[str](), 0
    first, last = number * settings.samples_per_shard, (number + 1) * settings.samples_per_shard
    try:
        with tarfile.open(partial, "w") as archive:
            for row in range(first, min(last, len(source) // pairs)):
                try:
                    for ending, content in _members(source, range(row * pairs, (row + 1) * pairs), settings, faults):
                        info = tarfile.TarInfo(f"{row:010d}.{ending}")
                        info.size = len(content)
                        archive.addfile(info, io.BytesIO(content))
                    written += 1
                except SampleFault as fault:
                    faults[fault.kind] += 1
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)
    return PackedShard(number, written, dict(faults))


def _members(
    source: PairSource, indices: range, settings: PackSettings, faults: Counter[str]
) -> list[tuple[str, bytes]]:
    """The members of one row, from those of its pairs that can be used.

    Raises:
        SampleFault: None can, or the image cannot.
    """
    records: list[PairRecord] = []
    last: SampleFault | None = None
    for index in indices:
        try:
            records.append(source[index])
        except SampleFault as fault:
            faults.update([fault.kind] if last is not None else [])
            last = fault
    if not records:
        assert last is not None
        raise last
    faults.update([last.kind] if last is not None else [])
    with sample_errors(records[0].key):
        image = _packed_image(records[0], settings)
    metadata: dict[str, object] = {"key": records[0].key, "language": records[0].language}
    for record in records:
        for number, caption in enumerate((record.caption, *record.more_captions), start=1):
            metadata[f"caption_{record.language}" + (f"_{number}" if number > 1 else "")] = caption
        if record.keywords:
            metadata[f"keywords_{record.language}"] = list(record.keywords)
    return [
        (settings.image_format, image),
        ("json", json.dumps(metadata, ensure_ascii=False).encode()),
        ("txt", records[0].caption.encode()),
    ]


def _packed_image(record: PairRecord, settings: PackSettings) -> bytes:
    encoded = open_image(record.image, record.file_name, max_pixels=MAX_IMAGE_PIXELS)
    reduction = 1
    while reduction < 8 and min(encoded.width, encoded.height) >= 4 * reduction * settings.short_side:
        reduction *= 2  # at least twice the size that is kept, so that the last step decides on the quality
    picture = to_picture(decode(encoded, reduction=reduction))
    scale = settings.short_side / min(picture.size)
    if scale < 1:
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        picture = picture.resize(size, Image.Resampling.BICUBIC)
    if max(picture.size) > _LONGEST_SIDES.get(settings.image_format, max(picture.size)):
        raise SampleFault(
            "image_too_large", f"{settings.image_format} holds no {picture.width} x {picture.height} pixels"
        )
    buffer = io.BytesIO()
    picture.save(buffer, IMAGE_FORMATS[settings.image_format], quality=settings.quality)
    return buffer.getvalue()
