"""Writes sources as tar shards with resized images."""

import contextlib
import functools
import io
import json
import math
import multiprocessing
import os
import pickle
import tarfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from data_modules.errors import DataError
from data_modules.faults import ABSENT, SampleFault, sample_errors
from data_modules.images.decoding import MAX_REDUCTION, decode, jpeg_ycbcr, open_image, to_picture
from data_modules.images.planes import encode_planes, file_size
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from data_modules.sources.rows import PairSource, pairs_per_row
from data_modules.sources.streaming import StreamSource

IMAGE_FORMATS = {"webp": "WEBP", "jpg": "JPEG", "png": "PNG"}
"""File extension -> Pillow's name."""
PLANES_ENDING = "yuv"
"""File extension of undecoded planes."""
_LONGEST_SIDES = {"webp": 16_383, "jpg": 65_500}
"""File extension -> largest side in pixels that Pillow writes."""


@dataclass(kw_only=True, slots=True, frozen=True)
class PackSettings:
    """Format and size of the packed images."""

    short_side: int = 256
    """Pixels; smaller images are not enlarged."""
    quality: int = 90
    """Of WebP and JPEG, 1 to 100."""
    image_format: str = "webp"
    """One of `IMAGE_FORMATS`, or `PLANES_ENDING`: undecoded planes, see `images.planes`."""
    samples_per_shard: int = 10_000
    """Rows of the source per shard, including faulty rows, which are skipped."""

    def __post_init__(self) -> None:
        if self.image_format not in (*IMAGE_FORMATS, PLANES_ENDING):
            raise DataError(f"format {self.image_format!r} is not supported: use {', '.join(IMAGE_FORMATS)}")
        if self.short_side < 1 or self.samples_per_shard < 1 or not 1 <= self.quality <= 100:
            raise DataError("short side and samples per shard must be at least 1, and the quality from 1 to 100")


class PackedShard(NamedTuple):
    """Counts of one shard."""

    number: int
    samples: int
    """Written; 0 if the shard existed."""
    faults: dict[str, int]
    """Kind -> skipped samples."""


_CAPTIONS = ("captions", "keywords")
"""Settings by language, which stages may divide among them."""
_WITHOUT_EFFECT = (
    "weight",
    "index_folder",
    "read_timeout_seconds",
    "reads_in_flight",
    "cache_folder",
    "check_languages",
)
"""Settings that do not change the packed samples."""


def sources_to_pack(stages: Mapping[str, Mapping[str, SourceConfig]]) -> dict[str, SourceConfig]:
    """Merge the sources of all stages, stage -> name -> settings.

    Sources of one name that read the same rows become one, with the captions and keywords of every stage. If the rows
    differ, or two stages use different captions of one language, each is packed as STAGE-NAME.
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
    """Whether both read the same rows, and the same captions of shared languages."""
    if one.has_captions != other.has_captions:  # rows without captions are images of the one, and nothing of the other
        return False
    rows, other_rows = (
        {key: value for key, value in _content(config).items() if key not in _CAPTIONS} for config in (one, other)
    )
    pairs = [(getattr(one, kind), getattr(other, kind)) for kind in _CAPTIONS]
    return rows == other_rows and all(a[language] == b[language] for a, b in pairs for language in a.keys() & b.keys())


def _content(config: SourceConfig) -> dict[str, Any]:
    """The settings that determine the packed samples, as plain values."""
    plain = asdict(config) | {"format": config.format.value}
    return {key: value for key, value in plain.items() if key not in _WITHOUT_EFFECT}


def pack_source(
    source: PairSource, config: SourceConfig, folder: Path, settings: PackSettings, num_workers: int = 1
) -> Iterator[PackedShard]:
    """Write a source as tar shards `folder/NAME-000000.tar`, ...; yields each completed shard.

    One sample per row: the image; a JSON with `caption_ko`, `caption_en` (further ones `caption_ko_2`, ...),
    `keywords_ko`, `keywords_en`, `language` and the `key` in the source; and `txt`, the first caption. Of a source
    without captions, the image and a JSON with its `key`. A shard is renamed when complete, so that an interrupted run
    continues with the missing ones.

    Raises:
        DataError: The folder holds shards of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    description = {"settings": repr(settings), "source": _content(config), "pairs": len(source)}
    note, text = folder / f"{source.name}.json", json.dumps(description, ensure_ascii=False, indent=2)
    if note.is_file() and note.read_text(encoding="utf-8") != text:
        raise DataError(f"{folder} holds shards packed with other settings (see {note.name}); use another folder")
    note.write_text(text, encoding="utf-8")
    numbers = range(num_shards(source, config, settings))
    write = functools.partial(_write_shard, source.name, config, folder, settings)
    if num_workers < 2:
        yield from (write(number, source) for number in numbers)
        return
    with ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, numbers)


def num_shards(source: PairSource, config: SourceConfig, settings: PackSettings) -> int:
    """Number of shards of a source."""
    return math.ceil(len(source) // pairs_per_row(config) / settings.samples_per_shard)


@functools.lru_cache(maxsize=1)
def _reopened(name: str, settings: bytes) -> PairSource:
    """The source, opened once per worker process."""
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
    """The files of one row, from its usable pairs: extension and content.

    Raises:
        SampleFault: No pair or not the image is usable.
    """
    read = source.records(indices)
    records = [one for one in read if isinstance(one, PairRecord)]
    found = [one for one in read if isinstance(one, SampleFault) and one.kind not in ABSENT]
    if not records:
        faults.update(fault.kind for fault in found[:-1])  # the caller counts the last
        raise found[-1]
    faults.update(fault.kind for fault in found)
    with sample_errors(records[0].key):
        image = _packed_image(records[0], settings)
    metadata: dict[str, object] = {"key": records[0].key}
    if not records[0].caption:  # of a source of images alone
        return [(settings.image_format, image), ("json", json.dumps(metadata, ensure_ascii=False).encode())]
    metadata["language"] = records[0].language
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
    encoded, has_planes = open_image(record.image, record.file_name), settings.image_format == PLANES_ENDING
    if has_planes and min(encoded.width, encoded.height) <= settings.short_side:
        stored = jpeg_ycbcr(encoded)
        if stored is not None:
            return encode_planes(stored)
    reduction = 1
    while reduction < MAX_REDUCTION and min(encoded.width, encoded.height) >= 4 * reduction * settings.short_side:
        reduction *= 2  # to at least twice the final size, so that the bicubic resizing determines the quality
    picture = to_picture(decode(encoded, reduction=reduction))
    if min(picture.size) > settings.short_side:
        picture = picture.resize(_packed_size(*picture.size, settings.short_side), Image.Resampling.BICUBIC)
    if has_planes:
        return encode_planes(picture.convert("YCbCr"))
    if max(picture.size) > _LONGEST_SIDES.get(settings.image_format, max(picture.size)):
        size_text = f"{picture.width} x {picture.height} pixels"
        raise SampleFault("image_too_large", f"{settings.image_format} does not support {size_text}")
    buffer = io.BytesIO()
    picture.save(buffer, IMAGE_FORMATS[settings.image_format], quality=settings.quality)
    return buffer.getvalue()


def _packed_size(width: int, height: int, short_side: int) -> tuple[int, int]:
    """Width and height of an image with this short side, unless it is smaller."""
    scale = min(1.0, short_side / min(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def planes_bytes(source: PairSource, config: SourceConfig, short_side: int, num_rows: int = 256) -> int:
    """Bytes that a source takes as planes, estimated from the headers of up to `num_rows` images."""
    pairs = pairs_per_row(config)
    rows = np.arange(len(source) // pairs)
    # Evenly spaced; a stream would have to be read to its end.
    chosen = rows[:num_rows] if isinstance(source, StreamSource) else rows[:: math.ceil(len(rows) / num_rows)]
    sizes: list[int] = []
    for row in chosen.tolist():
        record = next((one for one in source.records(range(row * pairs, (row + 1) * pairs)) if _is_pair(one)), None)
        with contextlib.suppress(SampleFault):
            if isinstance(record, PairRecord):
                image = open_image(record.image)
                sizes.append(file_size(*_packed_size(image.width, image.height, short_side)))
    return round(sum(sizes) / max(1, len(chosen)) * len(rows))


def _is_pair(found: PairRecord | SampleFault) -> bool:
    return isinstance(found, PairRecord)
