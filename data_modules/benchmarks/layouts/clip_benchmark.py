"""The layout `clip_benchmark`: a folder of WebDataset shards as CLIP_benchmark exports and reads it.

    SPLIT/0.tar, SPLIT/1.tar, ...                   images with a `.cls`, or with a `.txt` of one caption a line
    SPLIT/nshards.txt                               the number of tar files
    dataset_type.txt                                `retrieval`; absent for classification
    classnames.txt                                  a class name a line
    zeroshot_classification_templates.txt           a template with `{c}` a line

Reference: CLIP_benchmark 1.6, `build_wds_dataset` (https://github.com/LAION-AI/CLIP_benchmark).
Deviation: blank captions are dropped; labels are texts; multilabel sets (`.npy`) are refused.
"""

import re
from pathlib import Path

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.listed import ListedSamples
from data_modules.benchmarks.layouts.settings import identity_of, key_column, only_folder
from data_modules.benchmarks.layouts.shards import CLASS, ShardSamples, read_shards
from data_modules.errors import DataError
from data_modules.paths import resolve_path
from data_modules.sources.tables import check_columns
from data_modules.sources.tar_scan import TEXT
from data_modules.text.particles import check_template

CAPTIONS = "captions"
CLASS_NAMES_FILE = "classnames.txt"
TEMPLATES_FILE = "zeroshot_classification_templates.txt"
TYPE_FILE, COUNT_FILE = "dataset_type.txt", "nshards.txt"
PLACEHOLDER = "{c}"


def open_clip_benchmark(
    config: TableConfig, context: str, data_folder: str | None, needs_images: bool, needed: list[str]
) -> ListedSamples:
    """The samples of a split, with the column `cls` or `captions`.

    Raises:
        DataError: A file is missing or damaged, or a sample has no label, captions or image.
    """
    folder = only_folder(config, Layout.clip_benchmark, data_folder)
    shards = numbered_shards(folder / config.split)
    found = read_shards([str(one) for one in shards])
    if _dataset_type(folder) == "retrieval":
        _require_member(found, TEXT, folder)
        found.values[CAPTIONS] = [[line for line in text.splitlines() if line.strip()] for text in found.values[TEXT]]
    else:
        _require_member(found, CLASS, folder)
        found.values[CLASS] = [_label(name, text) for name, text in zip(found.names, found.values[CLASS], strict=True)]
    if needs_images and None in found.images.places:
        name = found.names[found.images.places.index(None)]
        raise DataError(f"{folder}: the sample '{name}' has no image; write {config.split} again")
    check_columns(folder, found.values, needed)
    return ListedSamples(
        identity=identity_of(Layout.clip_benchmark, [folder], split=config.split),
        context=context,
        values=found.values,
        names=found.names,
        images=found.images,
        key=key_column(config, found.values),
    )


def numbered_shards(folder: Path) -> list[Path]:
    """The tar files of a split in the order of their numbers.

    Raises:
        DataError: `nshards.txt` is missing, or states another number of files than 0.tar to N-1.tar.
    """
    count_file = folder / COUNT_FILE
    if not count_file.is_file():
        raise DataError(f"{count_file} does not exist, and holds the number of tar files; correct files or split")
    stated = _read_text(count_file).strip()
    if not re.fullmatch(r"\d+", stated, flags=re.ASCII):
        raise DataError(f"{count_file} holds {stated[:40]!r}, not the number of tar files; correct it")
    shards = [folder / f"{number}.tar" for number in range(int(stated))]
    present = sorted(folder.glob("*.tar"))
    if set(present) != set(shards):
        unknown = sorted(set(present) ^ set(shards))[0].name
        raise DataError(
            f"{count_file} states {stated} tar files, 0.tar to {int(stated) - 1}.tar, and there are {len(present)} "
            f"({unknown} differs); restore the files, or correct {COUNT_FILE}"
        )
    if not shards:
        raise DataError(f"{count_file} states no tar file; write the split again")
    return shards


def read_class_files(folder: str | Path) -> tuple[list[str], list[str]]:
    """Class names in the order of the labels, and templates that hold `{c}` where the name goes.

    Args:
        folder: The folder of the layout, `package:` and `~` allowed.

    Raises:
        DataError: A file is missing, empty, has a blank line, or a template has no `{c}`, or two, or another slot.
    """
    place = resolve_path(str(folder))
    names, templates = _lines(place / CLASS_NAMES_FILE, "class name"), _lines(place / TEMPLATES_FILE, "template")
    for number, template in enumerate(templates, start=1):
        if PLACEHOLDER not in template:
            raise DataError(
                f"{place / TEMPLATES_FILE}: line {number}, {template!r}, lacks {PLACEHOLDER}, which the class name "
                "replaces; add it"
            )
        check_template(template, f"{place / TEMPLATES_FILE}: line {number}")
    return names, templates


def _lines(file: Path, what: str) -> list[str]:
    if not file.is_file():
        raise DataError(f"{file} does not exist; write one {what} a line, or name a classes_file")
    lines = [line.strip() for line in _read_text(file).splitlines()]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise DataError(f"{file} is empty; write one {what} a line")
    if "" in lines:
        raise DataError(f"{file}: line {lines.index('') + 1} is blank; each line is one {what}: fill or remove it")
    return lines


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file} cannot be read as UTF-8 text ({error}); restore or convert it") from error


def _dataset_type(folder: Path) -> str:
    file = folder / TYPE_FILE
    found = _read_text(file).strip().lower() if file.is_file() else "classification"
    if found not in ("retrieval", "classification"):
        raise DataError(
            f"{file} states '{found[:40]}', and this layout reads retrieval or classification; evaluate another set"
        )
    return found


def _require_member(found: ShardSamples, ending: str, folder: Path) -> None:
    cells = found.values.get(ending, [None] * len(found.names))
    missing = [name for name, cell in zip(found.names, cells, strict=True) if cell is None]
    if missing:
        other, kind = (TEXT, "retrieval") if ending == CLASS else (CLASS, "classification")
        hint = f"write {kind} into {TYPE_FILE}" if other in found.values else "write the split again"
        raise DataError(
            f"{folder}: {len(missing)} of {len(found.names)} samples have no .{ending}, for example '{missing[0]}'; "
            f"{hint}"
        )


def _label(name: str, text: str) -> str:
    try:
        return str(int(text))
    except ValueError as error:
        raise DataError(
            f"the sample '{name}' has the label {text[:40]!r}, which is no integer; correct its .cls"
        ) from error
