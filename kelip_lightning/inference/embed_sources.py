"""From DATA of the command line to items: folders, text files, tables, shards, and the sets of a YAML file."""

import codecs
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from data_modules.benchmarks.config import EvaluationConfig, TableConfig
from data_modules.benchmarks.evaluation_sets import (
    CaptionSet,
    EvaluationSet,
    build_caption_set,
    build_choice_set,
    build_classification_set,
    build_retrieval_set,
)
from data_modules.benchmarks.layouts.fingerprints import sample_fingerprints
from data_modules.benchmarks.layouts.opening import open_samples
from data_modules.benchmarks.sample_table import SampleTable
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.languages import LANGUAGES
from data_modules.paths import resolve_path
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.fingerprint import short_digest, source_fingerprints
from data_modules.sources.opening import is_saved, open_source
from data_modules.sources.rows import PairSource
from data_modules.text.cleaning import clean_texts
from kelip_lightning.config.evaluation import EvaluationExperiment
from kelip_lightning.config.experiment import SCHEMAS
from kelip_lightning.config.load import find_schema, load_experiment
from kelip_lightning.inference.embed_items import EmbedItems, folder_items, table_items, text_items
from kelip_lightning.inference.evaluation_file import with_included

FORMS = (
    "a folder of images, a .txt file with a text per line, a table (.parquet, .csv, .tsv, .jsonl), tar shards, or a "
    "YAML file with a data source or an evaluation set"
)
YAML = (".yaml", ".yml")
_ROWS_AT_A_TIME = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class DataChoice:
    """DATA, and what of it is meant."""

    data: str
    """One of `FORMS`."""
    set_name: str | None = None
    """The set or source of a YAML file; `None`: its only one."""
    texts: str | None = None
    """Column of texts, or in a YAML file their language; `None`: images."""
    image: str | None = None
    """Column of images of a table; `None`: `image`."""
    key: str | None = None
    """Column that identifies a row; `None`: `key` if there is one, else the row number does."""


def open_items(choice: DataChoice) -> EmbedItems:
    """The items that a command line names; images are not read yet.

    Raises:
        DataError: There are none, they cannot be opened, or an option has no effect on DATA.
        ConfigError: A YAML file is wrong.
    """
    path = resolve_path(choice.data)
    if not path.exists() and not any(mark in choice.data for mark in "*{"):
        raise DataError(f"{choice.data} does not exist; give {FORMS}")
    if path.suffix in YAML:
        return _set_items(choice, path)
    if choice.set_name is not None:
        raise DataError(f"--set has no effect on {choice.data}; leave it out, or give a YAML file with sets")
    if path.is_dir() and not is_saved(path):
        _refuse(choice, "a folder of images", "texts", "image", "key")
        return folder_items(path)
    if path.suffix == ".txt":
        _refuse(choice, "a text file", "texts", "image", "key")
        return _line_items(path)
    return _table_items(choice)


def _refuse(choice: DataChoice, what: str, *settings: str) -> None:
    """Refuse options without effect."""
    for name in settings:
        if getattr(choice, name) is not None:
            raise DataError(f"--{name} has no effect on {what} such as {choice.data}; leave it out")


def _line_items(file: Path) -> EmbedItems:
    """The lines of a UTF-8 text file; keys are line numbers from 1, empty lines are left out."""
    data = file.read_bytes().removeprefix(codecs.BOM_UTF8)
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file} is not UTF-8 text (byte {error.start}); convert it first, for example a Korean Windows file with "
            f"`iconv -f CP949 -t UTF-8 {file.name}`"
        ) from error
    texts = [(str(number), [line.strip()]) for number, line in enumerate(lines, start=1) if line.strip()]
    return text_items(str(file), [key for key, _ in texts], [text for _, text in texts])


def _table_items(choice: DataChoice) -> EmbedItems:
    """The images or the texts of a table, of tar shards or of a saved Hugging Face dataset."""
    if choice.texts is not None:
        _refuse(choice, "texts", "image")
    settings: dict[str, Any] = {"image": choice.image, "key": choice.key}
    config = TableConfig(files=[choice.data], **{name: value for name, value in settings.items() if value is not None})
    columns = [] if choice.texts is None else [choice.texts]
    try:
        table = open_samples(config, choice.data, needs_images=choice.texts is None, columns=columns)
    except DataError as error:
        hint = "" if choice.texts or choice.image else "; name its images with --image COLUMN or its texts with --texts"
        raise DataError(f"{error}{hint}") from error
    rows = np.arange(len(table), dtype=np.int64)
    if choice.texts is None:
        return table_items(choice.data, table, rows, table_version(config, None))
    return text_items(f"the column '{choice.texts}' of {choice.data}", table.keys(rows), _texts(table, choice.texts))


def _texts(table: SampleTable, column: str) -> list[tuple[str, ...]]:
    """The clean texts of each row.

    Raises:
        DataError: A cell is neither a text nor a list of texts.
    """
    found = []
    for row, cell in enumerate(table.cells(column, np.arange(len(table), dtype=np.int64))):
        try:
            found.append(clean_texts(cell, column, []))
        except SampleFault as fault:
            raise DataError(f"row {row}: {fault.detail}; name a column of texts") from fault
    return found


def table_version(config: TableConfig, data_folder: str | None) -> str:
    """Differs once the files of a table do, as far as `sample_fingerprints` tells without reading them."""
    return short_digest(json.dumps([one.to_plain() for one in sample_fingerprints(config, data_folder)]).encode())


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedSet:
    """A set or a source of a YAML file, not opened yet."""

    name: str
    """Dotted key: `evaluation.retrieval.coco`, `data.sources.web`."""
    data_folder: str | None
    config: Any
    """A set's or a source's section."""
    build: Callable[[str, Any, str | None], EvaluationSet] | None
    """Opens a set; `None`: a source."""

    def open(self) -> EvaluationSet:
        """The set, opened and checked; DataError as `build_evaluation_sets`."""
        assert self.build is not None
        return self.build(self.name.rpartition(".")[2], self.config, self.data_folder)


_BUILDERS: dict[str, Callable[..., EvaluationSet]] = {
    "retrieval": build_retrieval_set,
    "captions": build_caption_set,
    "classification": build_classification_set,
    "choices": build_choice_set,
}


def find_set(path: Path, wanted: str | None) -> NamedSet:
    """The set or source of a YAML file with this name, or its only one.

    Args:
        path: An evaluation file, or an experiment.
        wanted: The name of a set or source (`coco`), or its dotted key (`evaluation.retrieval.coco`).

    Raises:
        DataError: There is no such set, or more than one.
        ConfigError: The file is wrong.
    """
    sets = _named_sets(path)
    names = [one.name for one in sets]
    fitting = [one for one in sets if wanted is None or wanted in (one.name, one.name.rpartition(".")[2])]
    if len(fitting) == 1:
        return fitting[0]
    if not sets:
        raise DataError(f"{path} has neither evaluation sets nor data sources; give {FORMS}")
    if not fitting:
        raise DataError(f"{path} has no set or source '{wanted}'; --set may be {', '.join(names)}")
    several = ", ".join(one.name for one in fitting)
    raise DataError(f"{path} has several sets and sources; choose one with --set: {several}")


def _named_sets(path: Path) -> list[NamedSet]:
    loaded: Any = load_experiment(path, [], find_schema(path, SCHEMAS), on_this_machine=False).experiment
    experiment = getattr(loaded, "contrastive", loaded)
    if isinstance(experiment, EvaluationExperiment):
        experiment = with_included(experiment, path)
    evaluation: EvaluationConfig | None = getattr(experiment, "evaluation", None)
    found = []
    folder = None if evaluation is None else evaluation.data_folder
    for kind, build in _BUILDERS.items() if evaluation is not None else ():
        found += [
            NamedSet(name=f"evaluation.{kind}.{name}", data_folder=folder, config=section, build=build)
            for name, section in getattr(evaluation, kind).items()
        ]
    sources = {} if isinstance(experiment, EvaluationExperiment) else experiment.data.sources
    found += [
        NamedSet(name=f"data.sources.{name}", data_folder=None, config=section, build=None)
        for name, section in sources.items()
    ]
    return found


def _set_items(choice: DataChoice, path: Path) -> EmbedItems:
    """The images or captions of a set or source."""
    _refuse(choice, "a YAML file", "image", "key")
    if choice.texts is not None and choice.texts not in LANGUAGES:
        raise DataError(f"--texts {choice.texts} is no language; of a YAML file, give {' or '.join(LANGUAGES)}")
    named = find_set(path, choice.set_name)
    name = f"{named.name} of {path}"
    if named.build is None:
        return _source_items(name, named, choice.texts)
    opened: Any = named.open()
    if choice.texts is None:
        if isinstance(opened, CaptionSet):
            raise DataError(f"{name} has no images; give --texts {' or --texts '.join(LANGUAGES)}")
        version = table_version(named.config.table, named.data_folder)
        return table_items(name, opened.images.table, opened.images.rows, version)
    captions = getattr(opened, "captions", {}).get(choice.texts)
    if captions is None:
        raise DataError(f"{name} has no captions in {choice.texts}; choose another set or language")
    return text_items(name, [str(number) for number in range(len(captions))], [[text] for text in captions])


@dataclass(frozen=True, slots=True)
class SourceImages:
    """Images of some pairs of a source."""

    source: PairSource
    indices: list[int]

    def read(self, position: int) -> bytes:
        """The bytes of an image; SampleFault as in `EncodedImages`."""
        return self.source[self.indices[position]].image


def _source_items(name: str, named: NamedSet, language: str | None) -> EmbedItems:
    """The images of a source, or its captions in a language, by the keys of its records, each key once.

    Records are read once for their keys; those that cannot be used are left out, as in training.

    Raises:
        DataError: The source is a stream, cannot be opened, or has nothing that can be used.
    """
    config: SourceConfig = named.config
    if config.stream_length is not None:
        raise DataError(f"{name} is a stream, which has no random access; embed a source that is stored")
    source = open_source(named.name.rpartition(".")[2], config)
    indices, records = _distinct_records(source, language)
    if not records:
        raise DataError(f"{name} holds nothing that can be used; `kelip data inspect` says why")
    keys = [one.key for one in records]
    if language is not None:
        return text_items(name, keys, [[one.caption, *one.more_captions] for one in records])
    version = source_fingerprints({source.name: config}, [source])[source.name].digest
    return EmbedItems(name=name, keys=keys, content=[version] * len(keys), images=SourceImages(source, indices))


def _distinct_records(source: PairSource, language: str | None) -> tuple[list[int], list[PairRecord]]:
    """The first record of each key, in a language unless it is `None`, without its image; and its index."""
    found: dict[str, tuple[int, PairRecord]] = {}
    for start in range(0, len(source), _ROWS_AT_A_TIME):
        indices = range(start, min(start + _ROWS_AT_A_TIME, len(source)))
        for index, record in zip(indices, source.records(indices), strict=True):
            if isinstance(record, PairRecord) and language in (None, record.language):
                found.setdefault(record.key, (index, replace(record, image=b"")))
    return [index for index, _ in found.values()], [record for _, record in found.values()]
