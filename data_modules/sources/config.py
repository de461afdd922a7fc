"""Settings of one source of pairs, and the rule that gives its pairs their language."""

import codecs
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import Enum

from data_modules.config_roles import FILE_PATH, PERFORMANCE, above, at_least, between, check_ranges
from data_modules.image_files import is_image_folder
from data_modules.paths import resolve_path


class SourceFormat(Enum):
    """Storage format of a source."""

    auto = "auto"
    """By the first file: .tar is shards; .csv, .tsv, .jsonl and .parquet are a table; a folder of image files is a
    folder; else dataset."""
    shards = "shards"
    """Tar files in the WebDataset layout."""
    table = "table"
    """CSV, TSV, JSONL or parquet with image bytes, or with image paths relative to the table."""
    dataset = "dataset"
    """Opened by Hugging Face `load_from_disk` or `load_dataset`."""
    folder = "folder"
    """A folder of image files, with captions in its `metadata.csv` or `metadata.jsonl` (`imagefolder`), or without."""


NAME_CAPTIONS = "name a caption column for ko, en or both in captions, or columns of one language in caption_fields"


class SourceKind(Enum):
    """How a source is read; the values are plural nouns for messages."""

    shards = "shards"
    table = "tables"
    dataset = "datasets"
    """Hugging Face datasets by random access."""
    stream = "streams"
    """Hugging Face datasets read sequentially."""
    folder = "image folders"


class LanguageRule(Enum):
    """What decides the language of a pair."""

    both = "both"
    """Nothing: every image is paired with captions of every language that it has."""
    by_image = "by_image"
    """A hash of the image's key: each image is paired with one language."""
    by_concept = "by_concept"
    """A hash of the column `concept`: each concept is paired with one language."""
    by_design = "by_design"
    """A hash of the column `design`: each style of drawing is paired with one language."""
    ko = "ko"
    """Korean only."""
    en = "en"
    """English only."""

    @property
    def column(self) -> str | None:
        """The column that is hashed; `None`: the rule reads none."""
        return {LanguageRule.by_concept: "concept", LanguageRule.by_design: "design"}.get(self)

    @property
    def by_hash(self) -> bool:
        """Whether a hash gives each pair its language."""
        return self in (LanguageRule.by_image, LanguageRule.by_concept, LanguageRule.by_design)


@dataclass(kw_only=True, slots=True)
class PlantedConfig:
    """Word pairs whose images are split by language on purpose, and control pairs.

    For measuring whether `kelip analyze culture` finds them (docs/analyses.md). For tables with keywords in both
    languages.
    """

    column: str = "concept"
    """Column that identifies the concepts that are divided between the languages."""
    num_pairs: int = field(default=24, metadata=at_least(1))
    """Planted pairs: one half of their concepts is captioned in Korean alone, the other half in English alone."""
    num_controls: int = field(default=56, metadata=at_least(1))
    """Control pairs, which name the same concepts in both languages. The more, the finer the test of `kelip analyze
    culture`, which needs at least 21."""
    split_controls: bool = True
    """Whether half of the images of each concept of a control are captioned in Korean alone, the others in English
    alone: then its words are learnt from as few different images as those of a planted pair, and differ by them. Else
    controls keep both languages on every image. A word has as many captions either way."""
    seed: int = field(default=0, metadata=at_least(0))
    """Chooses the pairs, and the language of each half; independent of the seed of the run."""
    min_concepts: int = field(default=2, metadata=at_least(2))
    """Fewest concepts that the words of a pair name in either language."""
    max_concepts: int = field(default=40, metadata=at_least(2))
    """Most of them."""
    min_overlap: float = field(default=0.9, metadata=between(0, 1))
    """Least share of those concepts that both words name before anything is planted, in [0, 1]. Below 1, controls
    differ by themselves."""
    kind: str | None = None
    """Column of what is pictured, such as `subgroup`: the words of every pair then name concepts of several kinds, and
    the halves of a planted pair have no kind in common, since between two camels there is no difference to be found.
    null: any concepts, halved in the order of their identifiers."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.max_concepts < self.min_concepts:
            raise ValueError(
                f"max_concepts = {self.max_concepts} is below min_concepts = {self.min_concepts}: raise it, or lower "
                "min_concepts"
            )


PARQUET_ENDING = ".parquet"
TABLE_ENDINGS = (PARQUET_ENDING, ".csv", ".tsv", ".jsonl")
TEXT_ENDINGS = (".csv", ".tsv")
"""Tables that have an encoding."""

_ROWS = (SourceKind.table, SourceKind.dataset, SourceKind.stream)
_HUB = (SourceKind.dataset, SourceKind.stream)
KINDS_OF: Mapping[str, tuple[SourceKind, ...]] = {
    "image": _ROWS,
    "image_root": _ROWS,
    "allow_absolute_paths": (*_ROWS, SourceKind.folder),
    "encoding": (SourceKind.table, SourceKind.folder),
    "separator": (SourceKind.table, SourceKind.folder),
    "key": (*_ROWS, SourceKind.folder),
    "where": (*_ROWS, SourceKind.folder),
    "attributes": _ROWS,
    "split": _HUB,
    "subset": _HUB,
    "stream_length": _HUB,
    "read_timeout_seconds": (SourceKind.shards, SourceKind.table, SourceKind.dataset),
    "reads_in_flight": (SourceKind.shards, SourceKind.table),
    "cache_folder": (SourceKind.shards, SourceKind.table),
    "index_folder": (SourceKind.shards, SourceKind.table),
    "check_languages": (SourceKind.shards, SourceKind.table, SourceKind.dataset, SourceKind.folder),
}
"""Setting -> the kinds of sources that have it; others refuse it. All kinds have the settings not listed here."""


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """One set of images with captions: tar shards, tables, a folder of images, or a Hugging Face dataset.

    A field is a column of a table, `txt` (the text file of a sample in a shard) or a key of the JSON beside it.
    """

    files: list[str] = field(metadata=FILE_PATH)
    """Files, glob or brace patterns (`{000..099}.tar`), for shards and parquet any fsspec URL; a folder of images; a
    folder or name of a Hugging Face dataset; `package:` paths are relative to the installed `data_modules` folder."""
    format: SourceFormat = SourceFormat.auto
    """auto (by the first file), shards, table, dataset, or folder (of image files)."""
    image: str = "image"
    """Field of images in tables and datasets: encoded bytes, a struct with `bytes`, or a path. Shards go by endings."""
    image_root: str | None = field(default=None, metadata=FILE_PATH)
    """Folder that relative image paths are resolved against; null: the table's folder, of a dataset the working
    directory."""
    allow_absolute_paths: bool = False
    """Whether image paths may be absolute or leave their folder by `..`; false: such rows are counted as faults."""
    encoding: str = "utf-8"
    """Encoding of CSV and TSV files, for example cp949; utf-8 reads files with and without a byte order mark. A file
    that does not decode is refused."""
    separator: str | None = None
    """Separator of the columns of CSV files, one character; null: detected among comma, semicolon, tab and |, the one
    that splits the header line (see docs/data.md). TSV files are separated by tabs."""
    captions: dict[str, str] = field(default_factory=dict)
    """Language (`ko`, `en`) -> caption field: each row gives one pair per language in which it is not empty; empty:
    `caption_fields`, or, for MAE pre-training, images without captions. A field with a list of texts holds several
    captions, one of which is sampled each time."""
    caption_fields: list[str] = field(default_factory=list)
    """Fields of captions in one language, one of which is sampled each time; each row gives one pair. Empty fields are
    ignored, a list of texts holds several captions."""
    language: str = "detect"
    """Language of `caption_fields`: ko, en, or detect (by `min_hangul_share`); detect beside a `language_field`."""
    language_field: str | None = None
    """Field with the language of `caption_fields`; rows in languages other than Korean and English are skipped."""
    min_hangul_share: float = field(default=0.2, metadata=between(0, 1, "right"))
    """Least fraction of Hangul among the letters of a Korean caption, in (0, 1]."""
    keywords: dict[str, str] = field(default_factory=dict)
    """Language -> field with a list of keywords, or a text with a `keyword_separator`."""
    keyword_separator: str | None = None
    """Separator of keywords in a text, for example `,`; null: keywords must be lists."""
    key: str = "key"
    """Field of tables and datasets that identifies an image; if it is null, the row number does. In shards, the file
    name does."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Field -> allowed values, compared as text (`true`/`false` for booleans); a row must meet all. Not for shards."""
    attributes: list[str] = field(default_factory=list)
    """Further columns of a table that its records keep, of which parquet reads no others than the settings name."""
    weight: float = field(default=1.0, metadata=above(0, "remove the source to leave it out"))
    """Passes over this source per epoch of the mixture, > 0 (0.2: each pair once in five epochs)."""
    split: str = "train"
    """Split of a Hugging Face dataset."""
    subset: str | None = None
    """Configuration name of a Hugging Face dataset."""
    stream_length: int | None = field(default=None, metadata=at_least(1))
    """Number of rows that satisfy `where`, of a Hugging Face dataset that is streamed; null: random access (see
    docs/data.md)."""
    read_timeout_seconds: float = field(default=60.0, metadata=PERFORMANCE | above(0))
    """Timeout of one read of a remote shard or table; it is tried four times, then counted as a fault. Without effect
    on local files; not for streams, which `datasets` reads."""
    reads_in_flight: int = field(default=32, metadata=PERFORMANCE | at_least(1))
    """Reads of a loader process at a time, of shards or parquet in a store or on a network file system; without effect
    on local disks."""
    cache_folder: str | None = field(default=None, metadata=PERFORMANCE | FILE_PATH)
    """Folder on a local disk for the runs of an `order.shuffle_window` of shards in a store, and for row groups of
    parquet there, shared by all processes of a machine (size: docs/data.md); null: a folder of this user in that for
    temporary files."""
    index_folder: str | None = field(default=None, metadata=PERFORMANCE | FILE_PATH)
    """Folder of the index of shards or parquet; null: beside the first file, or ~/.cache/kelip if it is remote or
    read-only."""

    check_languages: bool = field(default=True, metadata=PERFORMANCE)
    """Whether a caption column whose script contradicts its language is refused at the start: by the letters of up to
    1,000 rows (shards: 256), a Korean column with less than 5 % Hangul, or an English one with more than 50 %; and a
    field of shards that is empty in all of them."""

    def __post_init__(self) -> None:
        check_ranges(self)
        checks = (self._wrong_values, self._ignored_by_kind, self._ignored_by_content, self._ignored_by_others)
        for problem in (problem for check in checks for problem in check()):
            raise ValueError(problem)

    @property
    def has_captions(self) -> bool:
        """Whether there are captions; without them, the images serve MAE pre-training."""
        return bool(self.captions or self.caption_fields)

    def _wrong_values(self) -> Iterator[str]:
        if not self.files:
            yield "files is empty: name at least one file"
        if self.captions and self.caption_fields:
            yield f"captions and caption_fields are both given: {NAME_CAPTIONS}"
        if unknown := sorted((set(self.captions) | set(self.keywords)) - {"ko", "en"}):
            yield f"language {unknown[0]!r} is not known: use ko or en"
        if self.language not in ("ko", "en", "detect"):
            yield f"language = {self.language!r} must be ko, en or detect"
        if self.keyword_separator == "":
            yield "keyword_separator is empty: give at least one character, or null"
        if not _is_known_encoding(self.encoding):
            yield f"encoding = {self.encoding!r} is not known: use utf-8, cp949, utf-16, or another text encoding"
        if self.separator is not None and (len(self.separator) != 1 or self.separator in '"\r\n'):
            yield f"separator = {self.separator!r} must be one character, for example ';', or null"

    def _ignored_by_kind(self) -> Iterator[str]:
        """Settings that this kind of source refuses."""
        if not self.files:
            return
        kinds = {kind_of_file(file) for file in self.files}
        if self.format is SourceFormat.auto and len(kinds) > 1:
            names = " and ".join(sorted(kind.name for kind in kinds))
            yield f"files mixes {names}, by their endings: make them sources of their own"
        kind = source_kind(self)
        for name in _changed(self):
            if kind not in KINDS_OF.get(name, tuple(SourceKind)):
                owners = ", ".join(one.value for one in KINDS_OF[name])
                value = getattr(self, name)
                yield f"{name} = {value!r} is a setting of {owners}, and {kind.value} ignore it: remove it"

    def _ignored_by_content(self) -> Iterator[str]:
        """Settings about captions or text files, where there are none."""
        changed = _changed(self)
        about = ("language", "language_field", "min_hangul_share", "keywords", "check_languages")
        for name in (name for name in about if name in changed and not self.has_captions):
            yield f"{name} is about captions, and neither captions nor caption_fields names any: remove it"
        endings = {"encoding": TEXT_ENDINGS, "separator": TEXT_ENDINGS[:1]}
        endings |= dict.fromkeys(("reads_in_flight", "cache_folder", "index_folder"), (PARQUET_ENDING,))
        for name in (name for name in endings if name in changed and source_kind(self) is SourceKind.table):
            if not any(file.lower().endswith(endings[name]) for file in self.files):
                value, owners = getattr(self, name), " and ".join(one[1:].upper() for one in endings[name])
                yield f"{name} = {value!r} is about {owners} files, and files names none: remove it"

    def _ignored_by_others(self) -> Iterator[str]:
        """Settings without effect beside the others."""
        changed = _changed(self)
        known = set(self.captions) or ({self.language} - {"detect"} if self.language_field is None else set())
        for name in ("language", "language_field", "min_hangul_share"):
            if self.captions and name in changed:
                yield f"{name} is about caption_fields, and captions names the language of each field: remove it"
        if self.language_field is not None and "language" in changed:
            yield f"language = {self.language!r} has no effect beside language_field: remove one of them"
        if "min_hangul_share" in changed and (self.language != "detect" or self.language_field is not None):
            yield "min_hangul_share is for language = detect, and the language is given: remove it"
        if known and (extra := sorted(set(self.keywords) - known)):
            yield f"keywords names {extra[0]!r}, a language without captions: remove it"
        if self.keyword_separator is not None and not self.keywords:
            yield f"keyword_separator = {self.keyword_separator!r} is about keywords, and there are none: remove it"


def _is_known_encoding(name: str) -> bool:
    try:
        return codecs.lookup(name)._is_text_encoding
    except LookupError:
        return False


def _changed(config: SourceConfig) -> list[str]:
    """The settings that differ from their defaults."""
    return [
        one.name
        for one in fields(config)
        if getattr(config, one.name) != (one.default if one.default_factory is MISSING else one.default_factory())
    ]


def kind_of_file(file: str) -> SourceFormat:
    """The format by the file's ending; of a local folder, by what it holds."""
    if file.lower().endswith(".tar"):
        return SourceFormat.shards
    if file.lower().endswith(TABLE_ENDINGS):
        return SourceFormat.table
    return SourceFormat.folder if is_image_folder(resolve_path(file)) else SourceFormat.dataset


def source_format(config: SourceConfig) -> SourceFormat:
    """The configured format; `auto` is resolved by the first file."""
    if config.format is not SourceFormat.auto:
        return config.format
    found = kind_of_file(config.files[0])
    return SourceFormat.dataset if found is SourceFormat.folder and config.stream_length is not None else found


def source_kind(config: SourceConfig) -> SourceKind:
    found = source_format(config)
    is_stream = found is SourceFormat.dataset and config.stream_length is not None
    return SourceKind.stream if is_stream else SourceKind[found.name]


def needs_language_marks(config: SourceConfig) -> bool:
    """Whether the language is known only from the rows."""
    return bool(config.caption_fields) and (config.language_field is not None or config.language == "detect")
