"""Fingerprints of evaluation sets: sizes and parts of their files, without reading all of them."""

from collections.abc import Iterator
from pathlib import Path

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.clip_benchmark import (
    CLASS_NAMES_FILE,
    TEMPLATES_FILE,
    TYPE_FILE,
    numbered_shards,
)
from data_modules.benchmarks.layouts.image_folder import class_images
from data_modules.benchmarks.layouts.joined_texts import caption_files
from data_modules.benchmarks.layouts.karpathy import karpathy_images
from data_modules.benchmarks.layouts.listed import ImageFiles
from data_modules.benchmarks.layouts.settings import default_of, only_folder, sample_layout
from data_modules.benchmarks.layouts.table import dataset_place
from data_modules.benchmarks.layouts.xtd10 import NAMES_FILE, language_files, xtd10_images
from data_modules.errors import DataError
from data_modules.paths import in_folder, resolve_path
from data_modules.sources.fingerprint import (
    FileFingerprint,
    dataset_fingerprint,
    shard_fingerprint,
    short_digest,
    table_fingerprint,
    text_fingerprint,
)
from data_modules.sources.opening import load_dataset_rows


def sample_fingerprints(config: TableConfig, data_folder: str | None = None) -> tuple[FileFingerprint, ...]:
    """The files of an evaluation set, those of `texts` included.

    Image files are counted together: their number, total size, and a digest of their names and sizes. An image that is
    replaced by one of the same size is not detected, nor are images beside a table.

    Args:
        config: Files and layout.
        data_folder: Folder or URL that relative paths are in; `None`: the working directory.

    Raises:
        DataError: A file is missing or damaged.
    """
    found = list(_of_samples(config, data_folder))
    for texts in config.texts.values():
        found += table_fingerprint([str(file) for file in caption_files(texts, data_folder)])
    return tuple(found)


def _of_samples(config: TableConfig, data_folder: str | None) -> Iterator[FileFingerprint]:
    patterns = [in_folder(one, data_folder) for one in config.files]
    match layout := sample_layout(config):
        case Layout.shards:
            yield from shard_fingerprint(patterns)
        case Layout.table:
            yield from table_fingerprint(patterns)
        case Layout.clip_benchmark:
            folder = only_folder(config, layout, data_folder)
            yield from shard_fingerprint([str(one) for one in numbered_shards(folder / config.split)])
            for name in (TYPE_FILE, CLASS_NAMES_FILE, TEMPLATES_FILE):
                if (folder / name).is_file():
                    yield text_fingerprint(str(folder / name))
        case Layout.image_folder:
            folder = only_folder(config, layout, data_folder)
            yield _of_images(ImageFiles(folder, [(path,) for path in class_images(folder)]))
        case Layout.karpathy:
            file, store = karpathy_images(config, data_folder)
            yield from table_fingerprint([str(file)])
            yield _of_images(store)
        case Layout.xtd10:
            folder, store = xtd10_images(config, data_folder)
            for file in (folder / NAMES_FILE, *language_files(folder).values()):
                yield text_fingerprint(str(file))
            yield _of_images(store)
        case _:
            yield from _of_dataset(config, data_folder)


def _of_images(store: ImageFiles) -> FileFingerprint:
    """Missing images count as -1 bytes in the digest."""
    files = [store.find(row) for row in range(len(store))]
    sizes = [file.stat().st_size if file is not None else -1 for file in files]
    names = [file.relative_to(store.folder).as_posix() if file is not None else "" for file in files]
    lines = [f"{name}\0{size}\n" for name, size in zip(names, sizes, strict=True)]
    total = sum(size for size in sizes if size > 0)
    digest = short_digest("".join(lines).encode("utf-8", errors="surrogateescape"))
    return FileFingerprint(name="images", size=total, num_rows=len(sizes) - sizes.count(-1), digest=digest)


def _of_dataset(config: TableConfig, data_folder: str | None) -> tuple[FileFingerprint, ...]:
    name = dataset_place(config, data_folder)
    place: Path = resolve_path(name)
    if place.exists():
        try:
            return dataset_fingerprint(place, config.split)[0]
        except (OSError, ValueError, KeyError) as error:
            raise DataError(f"the dataset {place} is damaged ({error!r}); restore it") from error
    loaded, version = load_dataset_rows(
        f"the dataset {name}", name, split=config.split, subset=config.subset, default_split=str(default_of("split"))
    )
    return (FileFingerprint(name=name, size=int(loaded.dataset_size or 0), num_rows=len(loaded), digest=version),)
