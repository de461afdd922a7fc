"""One corpus of small pictures and captions, written in every format that is read."""

import csv
import io
import json
import tarfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
from PIL import Image

from data_modules.sources.config import SourceConfig


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
