"""Which files of an evaluation set are not on this machine, without opening any."""

import glob
import re
from collections.abc import Iterator

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.settings import sample_layout
from data_modules.paths import expand_braces, in_folder, is_url, resolve_path

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def missing_files(config: TableConfig, data_folder: str | None, classes_file: str | None = None) -> list[str]:
    """The paths and patterns that match nothing, below `data_folder`; URLs and names on the Hub count as present."""
    places = [*_places(config, data_folder), *([in_folder(classes_file, data_folder)] if classes_file else [])]
    return [place for place in places if not (is_url(place) or glob.glob(str(resolve_path(place))))]


def _places(config: TableConfig, data_folder: str | None) -> Iterator[str]:
    given = [*config.files, *(file for texts in config.texts.values() for file in texts.files)]
    if config.image_folder is not None:
        given.append(config.image_folder)
    for pattern in (one for whole in given for one in expand_braces(whole)):
        place = in_folder(pattern, data_folder)
        is_hub = sample_layout(config) is Layout.dataset and _HUB_NAME.fullmatch(pattern)
        if not is_hub or resolve_path(place).exists():
            yield place
