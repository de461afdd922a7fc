"""Opens the samples of an evaluation set in the layout of its configuration."""

from collections.abc import Sequence

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.clip_benchmark import open_clip_benchmark
from data_modules.benchmarks.layouts.image_folder import open_image_folder
from data_modules.benchmarks.layouts.karpathy import open_karpathy
from data_modules.benchmarks.layouts.settings import check_settings, needed_columns, sample_layout
from data_modules.benchmarks.layouts.shards import open_shard_samples
from data_modules.benchmarks.layouts.table import open_dataset_samples, open_table_samples
from data_modules.benchmarks.layouts.xtd10 import open_xtd10
from data_modules.benchmarks.sample_table import SampleTable
from data_modules.errors import DataError


def open_samples(
    config: TableConfig,
    context: str,
    *,
    data_folder: str | None = None,
    needs_images: bool = True,
    columns: Sequence[str] = (),
) -> SampleTable:
    """The samples of an evaluation set. Files, columns and their types are checked; images are read later.

    Args:
        config: Files and layout.
        context: Dotted key of the set (`evaluation.retrieval.coco`), the subject of error messages.
        data_folder: Folder or URL that relative paths are in; `None`: the working directory.
        needs_images: Whether images must be there.
        columns: Columns that the caller reads, besides those of `captions`, `key` and `concept`.

    Raises:
        DataError: A file is missing, damaged or of another layout, a column is missing or of a wrong type, an image is
            listed twice, or a setting has no effect in this layout.
    """
    try:
        return _open(config, context, data_folder, needs_images, needed_columns(config, columns))
    except DataError as error:
        raise DataError(f"{context}: {error}") from error


def _open(
    config: TableConfig, context: str, data_folder: str | None, needs_images: bool, needed: list[str]
) -> SampleTable:
    layout = sample_layout(config)
    check_settings(config, layout)
    image = config.image if needs_images else None
    match layout:
        case Layout.shards:
            found = open_shard_samples(config, context, data_folder, needs_images, needed)
        case Layout.table:
            return open_table_samples(config, context, data_folder, image, needed)
        case Layout.clip_benchmark:
            found = open_clip_benchmark(config, context, data_folder, needs_images, needed)
        case Layout.image_folder:
            found = open_image_folder(config, context, data_folder, needed)
        case Layout.karpathy:
            found = open_karpathy(config, context, data_folder, needs_images, needed)
        case Layout.xtd10:
            found = open_xtd10(config, context, data_folder, needs_images, needed)
        case _:
            return open_dataset_samples(config, context, data_folder, image, needed)
    for column in config.captions.values():
        found.require_texts(column)
    return found
