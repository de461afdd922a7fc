"""Settings of the evaluation sets."""

from dataclasses import dataclass, field
from enum import Enum
from string import Formatter

from data_modules.config_roles import FILE_PATH, REPORTING, above, at_least, between, check_ranges
from data_modules.languages import LANGUAGES
from data_modules.sources.config import TABLE_ENDINGS, SourceConfig, SourceFormat


class Layout(Enum):
    """How the samples of an evaluation set are stored."""

    auto = "auto"
    """By the first file's ending: .tar is shards; .parquet, .csv, .tsv and .jsonl are a table; else dataset."""
    shards = "shards"
    """Tar files in the WebDataset layout; a member's ending is its column."""
    table = "table"
    """Parquet, CSV, TSV or JSONL with image bytes, or with image paths relative to the table."""
    dataset = "dataset"
    """Opened by Hugging Face `load_from_disk` or `load_dataset`."""
    clip_benchmark = "clip_benchmark"
    """A folder as CLIP_benchmark reads it: `test/*.tar`; columns `cls`, or `captions` (one text a line)."""
    image_folder = "image_folder"
    """A folder with a folder of images per class; column `class`."""
    karpathy = "karpathy"
    """Karpathy's `dataset_coco.json` or `dataset_flickr30k.json`; columns `captions`, `split`, `file_name`."""
    xtd10 = "xtd10"
    """A folder with `test_image_names.txt` and `test_1kcaptions_LANGUAGE.txt`; a column per language."""


class TieRule(Enum):
    """How a wrong item with the same score as the correct one counts."""

    pessimistic = "pessimistic"
    """It is ranked before the correct one: a collapsed model has recall 0."""
    topk = "topk"
    """As `torch.topk` orders them, as in CLIP_benchmark: a collapsed model has recall k / N."""


class CaptionChoice(Enum):
    """Which captions of an image are evaluated."""

    all = "all"
    """All of them."""
    first = "first"
    """The first one of each image, as CLIP_benchmark's first-caption protocols."""


class DuplicateRule(Enum):
    """Whether equal captions of different images are one caption."""

    separate = "separate"
    """No: the same text of another image is a wrong answer, as in CLIP_benchmark."""
    shared = "shared"
    """Yes: it is correct for all images that have it."""


@dataclass(kw_only=True, slots=True)
class TextTableConfig:
    """Captions in a file of their own, joined to the samples by key."""

    files: list[str] = field(metadata=FILE_PATH)
    """Parquet, CSV, TSV, JSONL or JSON files, or glob patterns; a JSON file holds a list of objects."""
    captions: str
    """Column of captions: a text or a list of texts."""
    key: str = "key"
    """Column whose values equal those of the samples' `key`; of values that are paths, the file names are compared."""
    encoding: str = "utf-8"
    """Encoding of CSV and TSV files, as that of a source."""
    separator: str | None = None
    """Separator of the columns of CSV files, as that of a source; null: detected."""

    def __post_init__(self) -> None:
        _check_source(self.files, encoding=self.encoding, separator=self.separator)


@dataclass(kw_only=True, slots=True)
class TableConfig:
    """The samples of an evaluation set: images, texts, classes."""

    files: list[str] = field(metadata=FILE_PATH)
    """Files or glob patterns, for the layouts clip_benchmark, image_folder and xtd10 one folder, for dataset a folder
    or a name on the Hugging Face Hub; `package:` paths are relative to the installed `data_modules` folder, others to
    `evaluation.data_folder` or, without it, to the YAML file."""
    layout: Layout = Layout.auto
    """auto (by the files' ending), shards, table, dataset, clip_benchmark, image_folder, karpathy or xtd10."""
    image: str = "image"
    """Column of encoded images or of their paths; of tables and datasets alone."""
    image_root: str | None = field(default=None, metadata=FILE_PATH)
    """Folder that relative image paths of tables and datasets are resolved against; null: the table's folder."""
    allow_absolute_paths: bool = False
    """Whether image paths of tables may be absolute or leave their folder by `..`; false: they are refused."""
    encoding: str = "utf-8"
    """Encoding of CSV and TSV files, for example cp949; a file that does not decode is refused."""
    separator: str | None = None
    """Separator of the columns of CSV files, one character; null: detected, as of a source."""
    image_folder: str | None = field(default=None, metadata=FILE_PATH)
    """Folder of the image files of the layouts karpathy and xtd10; null: the folder of `files`."""
    captions: dict[str, str] = field(default_factory=dict)
    """Language -> caption column; a cell is a text or a list of texts."""
    texts: dict[str, TextTableConfig] = field(default_factory=dict)
    """Language -> captions in a file of their own."""
    concept: str | None = "concept"
    """Column of concepts: rows with equal values share their captions, those of the first row. null, or without the
    default column: rows of the same image (equal in the column `key`, else equal image paths) are one item with the
    captions of all of them, and every other row is an item of its own."""
    key: str = "key"
    """Column that identifies a sample in messages and panels. Without the default column, the layout's own key or the
    row number does."""
    split: str = "test"
    """Split of a Hugging Face dataset, or of the layout clip_benchmark."""
    subset: str | None = None
    """Configuration name of a Hugging Face dataset."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files is empty: name at least one file")
        for language in (*self.captions, *self.texts):
            if language not in LANGUAGES:
                raise ValueError(f"language {language!r} is not known: use {' or '.join(LANGUAGES)}")
        if both := sorted(set(self.captions) & set(self.texts)):
            raise ValueError(f"captions and texts both give {both[0]}: keep one of them")
        if any(file.lower().endswith(TABLE_ENDINGS) for file in self.files):  # layouts without tables refuse both
            _check_source(self.files, encoding=self.encoding, separator=self.separator)


def _check_source(files: list[str], *, encoding: str, separator: str | None) -> None:
    """The rules of a source about the settings of its text tables.

    Raises:
        ValueError: An encoding or a separator is not known, or is of no file.
    """
    if (encoding, separator) != ("utf-8", None):
        SourceConfig(files=files, format=SourceFormat.table, encoding=encoding, separator=separator)


@dataclass(kw_only=True, slots=True)
class GalleryConfig:
    """Images that an analysis searches, from parquet files."""

    files: list[str] = field(metadata=FILE_PATH)
    """Parquet files or glob patterns; `package:` paths are relative to the installed `data_modules` folder."""
    image: str = "image"
    """Column of encoded images."""
    key: str = "key"
    """Column that identifies an image; its values are unique among the selected rows."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows, column -> allowed values; empty: all rows."""


@dataclass(kw_only=True, slots=True)
class IntervalConfig:
    """When a set is evaluated; step 0 and the last step always are."""

    every_n_steps: int | None = field(default=None, metadata=REPORTING | at_least(1))
    """Optimizer steps between evaluations; null: see every_n_minutes and every_n_epochs."""
    every_n_minutes: float | None = field(default=None, metadata=REPORTING | above(0))
    """Minutes of training after which it is evaluated, counted from the last time; null: not by time."""
    every_n_epochs: float | None = field(default=None, metadata=REPORTING | above(0))
    """Passes over the training mixture between evaluations, fractions allowed; null: not by epochs."""

    def __post_init__(self) -> None:
        check_ranges(self)

    @property
    def is_given(self) -> bool:
        """Whether any of the three is."""
        return any(one is not None for one in (self.every_n_steps, self.every_n_minutes, self.every_n_epochs))


@dataclass(kw_only=True, slots=True)
class SetConfig:
    """What all evaluation sets have in common."""

    table: TableConfig
    """Images, texts and classes; caption sets need no images."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows, of a retrieval set on those whose images are queries; rows of classes missing from a
    classes file are left out and counted."""
    tie_rule: TieRule = TieRule.pessimistic
    """pessimistic (a tie counts as wrong) or topk (as CLIP_benchmark counts; of equal options the first)."""
    interval: IntervalConfig = field(default_factory=IntervalConfig, metadata=REPORTING)
    """When this set is evaluated in training; by default with the others."""


@dataclass(kw_only=True, slots=True)
class RetrievalSetConfig(SetConfig):
    """Images and a gallery of captions in one or both languages."""

    gallery: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the rows whose captions form the gallery; empty: the rows of `where` if `concept` is no column of
    the table, else all rows."""
    use_captions: CaptionChoice = CaptionChoice.all
    """all or first: which captions of an image are used."""
    duplicates: DuplicateRule = DuplicateRule.separate
    """separate or shared: whether equal captions of different images are wrong or right answers."""


@dataclass(kw_only=True, slots=True)
class CaptionSetConfig(SetConfig):
    """Captions of the same concepts in both languages, without images: cross-lingual retrieval."""


@dataclass(kw_only=True, slots=True)
class ClassificationSetConfig(SetConfig):
    """Zero-shot classification: images with a class column, and class names with templates per language."""

    label: str | None = None
    """Column of class ids or numbers; null: `cls` of the layout clip_benchmark, `class` of image_folder."""
    classes_file: str | None = field(default=None, metadata=FILE_PATH)
    """YAML with `classes` (id -> language -> names) and `templates` (language -> texts with `{}`), each a text or a
    list of them; relative as `files`; null: the English names and templates in a folder of the layout
    clip_benchmark."""


@dataclass(kw_only=True, slots=True)
class ChoiceSetConfig(SetConfig):
    """Questions about images with several answers: the text that is nearest to the image is chosen."""

    language: str
    """Language of the texts, ko or en."""
    question: str | None = "question"
    """Column of the question; null: there is none."""
    options: list[str]
    """One column of lists of texts, or several columns of one text each."""
    answer: str = "answer"
    """Column of the correct option: its number (see answer_base), its letter (A, B, ...) or its text."""
    answer_base: int = field(default=0, metadata=between(0, 1))
    """Number of the first option if answers are numbers, 0 or 1."""
    template: str = "{question} {option}"
    """Text of an option that is compared with the image."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.language not in LANGUAGES:
            raise ValueError(f"language = {self.language!r} must be {' or '.join(LANGUAGES)}")
        if not self.options:
            raise ValueError("options is empty: name the column or columns that hold the options")
        slots = {name for _, name, _, _ in Formatter().parse(self.template) if name is not None}
        if "option" not in slots or not slots <= ({"option", "question"} if self.question else {"option"}):
            may = ", and may hold {question}" if self.question else " alone, as there is no question"
            raise ValueError(f"template = {self.template!r} must hold {{option}}{may}")


@dataclass(kw_only=True, slots=True)
class EvaluationConfig(IntervalConfig):
    """Evaluation sets, and when those without an interval of their own are evaluated: without any, every 500 steps."""

    data_folder: str | None = field(default=None, metadata=REPORTING | FILE_PATH)
    """Folder that relative `files`, image and classes files are in; null: that of the YAML file that names them."""
    batch_size: int = field(default=64, metadata=REPORTING | at_least(1))
    """Most images or texts per forward pass of an evaluation."""
    cache_mib: int = field(default=256, metadata=REPORTING | at_least(0))
    """MiB of each process for the preprocessed images of tables that a run evaluates again and again, those that fit as
    a whole; 0: they are read and decoded each time."""
    retrieval: dict[str, RetrievalSetConfig] = field(default_factory=dict)
    """Name -> image–caption retrieval set."""
    captions: dict[str, CaptionSetConfig] = field(default_factory=dict)
    """Name -> cross-lingual caption retrieval set."""
    classification: dict[str, ClassificationSetConfig] = field(default_factory=dict)
    """Name -> zero-shot classification set."""
    choices: dict[str, ChoiceSetConfig] = field(default_factory=dict)
    """Name -> multiple-choice questions about images."""

    @property
    def has_sets(self) -> bool:
        """Whether there is anything to evaluate."""
        return bool(self.retrieval or self.captions or self.classification or self.choices)


@dataclass(kw_only=True, slots=True)
class TermConfig:
    """One value of an attribute: its parts in image keys, and its words."""

    parts: list[str]
    """Key parts that encode it; each is replaced by the other term's part with the same index."""
    ko: list[str]
    """Korean words; their embeddings are averaged."""
    en: list[str]
    """English words."""

    def __post_init__(self) -> None:
        for name, values in (("parts", self.parts), ("ko", self.ko), ("en", self.en)):
            if not values:
                raise ValueError(f"{name} is empty: give at least one")


@dataclass(kw_only=True, slots=True)
class RelationConfig:
    """An attribute: its terms, and the changes between them."""

    terms: dict[str, TermConfig]
    """Name -> term."""
    changes: dict[str, str]
    """Source term -> target term."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Conditions on the query images, column -> allowed values; empty: all images."""

    def __post_init__(self) -> None:
        for source, target in self.changes.items():
            if unknown := [one for one in (source, target) if one not in self.terms]:
                raise ValueError(f"changes names '{unknown[0]}', which is none of the terms {', '.join(self.terms)}")
            if len(self.terms[source].parts) != len(self.terms[target].parts):
                raise ValueError(f"changes {source} to {target}, which must have as many parts")


@dataclass(kw_only=True, slots=True)
class AnalogySetConfig:
    """A gallery with keys made of parts, and the relations to query."""

    gallery: GalleryConfig
    """Images; `key` is the column of keys made of parts."""
    separator: str = "-"
    """Separator between the parts of a key."""
    cluster: str
    """Column of clusters: images with equal values are dependent (variants of one drawing)."""
    relations: dict[str, RelationConfig]
    """Name -> relation."""
