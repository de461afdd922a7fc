"""One corpus of small pictures and captions in every supported format, and members with every fault of a sample."""

import csv
import io
import json
import struct
import tarfile
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
from PIL import Image

from data_modules.faults import FaultReport, SampleFault
from data_modules.languages import LANGUAGES
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.languages import Marked, marked_rows
from data_modules.sources.rows import EveryNth, records_one_by_one


class FakeSource:
    """A source of generated records without images; pair `index` is in the language `languages[index]`."""

    def __init__(self, name: str, languages: Sequence[str], attributes: dict[str, str] | None = None) -> None:
        self.name, self.languages, self.attributes = name, languages, attributes or {}
        self._marks = np.array([(*LANGUAGES, "unknown").index(one) for one in languages], dtype=np.int8)

    def __len__(self) -> int:
        return len(self.languages)

    def __getitem__(self, index: int) -> PairRecord:
        assert 0 <= index < len(self)
        key, language = f"{self.name}/{index}", self.languages[index]
        return PairRecord(key=key, image=b"", language=language, caption="", attributes=self.attributes)

    def records(self, indices: Sequence[int]) -> list[PairRecord | SampleFault]:
        return records_one_by_one(self.__getitem__, indices)

    @property
    def reads_ahead(self) -> bool:
        return False

    def prefetch(self, indices: Sequence[int]) -> None:
        pass

    def rows_of(self, language: str) -> Marked:
        return marked_rows(lambda start, stop: self._marks[start:stop], len(self))[language]

    def pairs(self) -> EveryNth:
        return EveryNth(0, 1, len(self))

    def captions(self, every: int = 1) -> Iterator[tuple[str, str]]:
        return iter(())

    def opening_faults(self) -> list[FaultReport]:
        return []


class Sample(NamedTuple):
    """A picture with its caption."""

    key: str
    image: bytes
    ending: str
    caption: str
    language: str


def picture(seed: int, side: int = 40, file_format: str = "JPEG") -> bytes:
    """A smooth picture, different for every seed."""
    generator = np.random.default_rng(seed)
    small = Image.fromarray(generator.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    buffer = io.BytesIO()
    small.resize((side * 5 // 4, side), Image.Resampling.BICUBIC).save(buffer, file_format)
    return buffer.getvalue()


def samples(number: int, start: int = 0) -> list[Sample]:
    """Korean and English pairs in turn, three image formats in turn."""
    kinds = (("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp"))
    made = []
    for i in range(start, start + number):
        file_format, ending = kinds[i % 3]
        language = ("ko", "en")[i % 2]
        caption = f"그림 {i} 번" if language == "ko" else f"picture number {i}"
        made.append(Sample(f"{i:09d}", picture(i, file_format=file_format), ending, caption, language))
    return made


def write_tar(file: Path, members: Iterable[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> Path:
    """A tar with these members in their order."""
    with tarfile.open(file, "w", format=tar_format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file


def members(corpus: Iterable[Sample]) -> list[tuple[str, bytes]]:
    """The members that img2dataset would write: image, text and JSON."""
    found = []
    for one in corpus:
        metadata = {"caption": one.caption, "lang": one.language, "width": 50}
        found += [
            (f"{one.key}.{one.ending}", one.image),
            (f"{one.key}.json", json.dumps(metadata, ensure_ascii=False).encode()),
            (f"{one.key}.txt", one.caption.encode()),
        ]
    return found


def write_shards(folder: Path, corpus: Sequence[Sample], per_shard: int) -> str:
    """Shards of a corpus; returns the pattern that finds them."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, first in enumerate(range(0, len(corpus), per_shard)):
        write_tar(folder / f"{number:05d}.tar", members(corpus[first : first + per_shard]))
    return str(folder / "*.tar")


def write_csv(folder: Path, corpus: Sequence[Sample], separator: str = ",") -> str:
    """A CSV or TSV beside a folder of images; returns its path."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    file = folder / ("table.csv" if separator == "," else "table.tsv")
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter=separator)
        writer.writerow(["key", "image", "caption", "lang"])
        for one in corpus:
            name = f"images/{one.key}.{one.ending}"
            (folder / name).write_bytes(one.image)
            writer.writerow([one.key, name, one.caption, one.language])
    return str(file)


def write_dataset(folder: Path, corpus: Sequence[Sample]) -> str:
    """A Hugging Face dataset on disk; returns its folder."""
    columns = {
        "key": [one.key for one in corpus],
        "image": [{"bytes": one.image, "path": None} for one in corpus],
        "caption": [one.caption for one in corpus],
        "lang": [one.language for one in corpus],
    }
    features = datasets.Features(
        key=datasets.Value("string"),
        image=datasets.Image(),
        caption=datasets.Value("string"),
        lang=datasets.Value("string"),
    )
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(folder))
    return str(folder)


FORMATS = ("shards", "table", "dataset")


def write_source(kind: str, folder: Path, corpus: Sequence[Sample], per_shard: int = 7) -> SourceConfig:
    """The corpus as a source of this kind; languages by column."""
    if kind == "shards":
        return SourceConfig(files=[write_shards(folder, corpus, per_shard)], caption_fields=["txt"], language="detect")
    file = write_csv(folder, corpus) if kind == "table" else write_dataset(folder, corpus)
    return SourceConfig(files=[file], caption_fields=["caption"], language_field="lang")


def _saved(image: Image.Image, file_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _bomb() -> bytes:
    """A PNG of a few hundred bytes with a header of 20000 x 20000 pixels."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 999)) + chunk(b"IEND", b"")
    )


def _rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _saved(Image.open(io.BytesIO(picture(1))), "JPEG", exif=exif)


RGB = Image.open(io.BytesIO(picture(2)))
DEEP = Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 160)
SHARES = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)

IMAGES: dict[str, tuple[str, Callable[[], bytes]]] = {
    "image_undecodable": ("jpg", lambda: picture(3)[:300]),
    "image_undecodable ": ("jpg", lambda: b"<html>404 not found</html>"),
    "image_missing": ("jpg", lambda: b""),
    "image_too_large": ("png", _bomb),
    "image_cmyk": ("jpg", lambda: _saved(RGB.convert("CMYK"), "JPEG")),
    "image_16_bit": ("png", lambda: _saved(DEEP, "PNG")),
    "image_32_bit": ("tif", lambda: _saved(Image.fromarray(SHARES), "TIFF")),
    "image_range_unknown": ("tif", lambda: _saved(Image.fromarray(SHARES * 99), "TIFF")),
    "image_palette": ("png", lambda: _saved(RGB.convert("P"), "PNG")),
    "image_animated": ("webp", lambda: _saved(RGB, "WEBP", save_all=True, append_images=[RGB.rotate(90)])),
    "image_rotated": ("jpg", _rotated),
    "wrong_extension": ("jpg", lambda: picture(4, file_format="PNG")),
}
CAPTIONS: dict[str, bytes] = {
    "caption_missing": b"",
    "caption_missing ": b"  \n ",
    "caption_cut": b"long " * 20_000,
    "caption_not_utf8": "좋은".encode("cp949") + b" text",
    "caption_not_nfc": unicodedata.normalize("NFD", "한글 사진").encode(),
}


def faulty_members(num_good: int, per_kind: int) -> tuple[list[tuple[str, bytes]], Counter[str]]:
    """Every fault `per_kind` times behind good samples, and the counts to be found."""
    content, expected = list(members(samples(num_good))), Counter[str]()
    for number in range(per_kind):
        for kind, (ending, image) in IMAGES.items():
            key = f"{kind.strip()}-{len(kind)}-{number}"
            content += [(f"{key}.{ending}", image()), (f"{key}.txt", b"an odd image")]
            expected[kind.strip()] += 1
        for kind, caption in CAPTIONS.items():
            key = f"{kind.strip()}-{len(kind)}-{number}"
            content += [(f"{key}.jpg", picture(number)), (f"{key}.txt", caption)]
            expected[kind.strip()] += 1
    return content, expected
