"""The settings of one source of pairs."""

from dataclasses import dataclass, field
from enum import Enum


class SourceFormat(Enum):
    """How a source is stored."""

    auto = "auto"
    """By the first file's ending: .tar is shards; .csv, .tsv, .jsonl and .parquet are a table; else dataset."""
    shards = "shards"
    """Tar files in the WebDataset layout."""
    table = "table"
    """CSV, TSV, JSONL or parquet with image bytes, or with image paths relative to the table."""
    dataset = "dataset"
    """What Hugging Face `load_from_disk` or `load_dataset` opens."""


@dataclass(kw_only=True, slots=True)
class SourceConfig:
    """One set of images with captions in one or more languages: tar shards, tables, or a Hugging Face dataset.

    A field is a column of a table, `txt` (the text file of a sample in a shard) or a key of the JSON beside it.
    """

    files: list[str]
    """Files, glob or brace patterns (`{000..099}.tar`), for shards any fsspec URL; a folder or name of a Hugging Face
    dataset; `package:` paths are relative to the installed `data_modules` folder."""
    format: SourceFormat = SourceFormat.auto
    """auto (by the files' ending), shards, table or dataset."""
    image: str = "image"
    """Field of images in tables and datasets: encoded bytes, a struct with `bytes`, or a path."""
    captions: dict[str, str] = field(default_factory=dict)
    """Language (`ko`, `en`) -> caption field: each row gives one pair per language; empty: `caption_fields`. A field
    with a list of texts holds several captions, one of which is drawn each time."""
    caption_fields: list[str] = field(default_factory=list)
    """Captions of the same language, one of which is drawn each time; each row gives one pair. Empty ones are left out,
    a list of texts holds several."""
    language: str = "detect"
    """Of `caption_fields`: ko, en, or detect (by `min_hangul_share`)."""
    language_field: str | None = None
    """Field with the language of `caption_fields`, before `language`; other languages are left out."""
    min_hangul_share: float = 0.2
    """Share of Hangul among a caption's letters from which on it counts as Korean, in (0, 1]."""
    keywords: dict[str, str] = field(default_factory=dict)
    """Language -> field with a list of keywords, or a text with a `keyword_separator`; a language without one draws
    captions only."""
    keyword_separator: str | None = None
    """What stands between keywords in one text, for example `,`; null: such a text is refused, only lists are read."""
    key: str = "key"
    """Field that identifies an image in logs (tables: the row's number where it is missing)."""
    where: dict[str, list[str]] = field(default_factory=dict)
    """Field -> allowed values, compared as text (`true`/`false` for booleans), all to be met; not for shards."""
    weight: float = 1.0
    """Passes over this source per epoch of the mixture, > 0 (0.2: each pair once in five epochs)."""
    split: str = "train"
    """Split of a Hugging Face dataset."""
    subset: str | None = None
    """Configuration name of a Hugging Face dataset."""
    stream_length: int | None = None
    """Rows of a Hugging Face dataset that is to be streamed; null: random access (see docs/data.md)."""
    read_timeout_seconds: float = 60.0
    """How long one read of a shard behind a URL may take; then it is tried again, four times in all, and counted."""
    index_folder: str | None = None
    """Folder for the index of the shards; null: beside the first shard, or ~/.cache/kelip where that cannot be."""

    def __post_init__(self) -> None:
        if not self.files:
            raise ValueError("files is empty: name at least one file")
        if bool(self.captions) == bool(self.caption_fields):
            state = "are both given" if self.captions else "is empty, and so is caption_fields"
            raise ValueError(
                f"captions {state}: name a caption column for ko, en or both in captions, or columns of one "
                "language in caption_fields"
            )
        unknown = sorted((set(self.captions) | set(self.keywords)) - {"ko", "en"})
        if unknown:
            raise ValueError(f"language {unknown[0]!r} is not known: use ko or en")
        if self.language not in ("ko", "en", "detect"):
            raise ValueError(f"language = {self.language!r} must be ko, en or detect")
        if not 0 < self.min_hangul_share <= 1:
            raise ValueError(f"min_hangul_share = {self.min_hangul_share} is a share: give a number in (0, 1]")
        if self.keyword_separator == "":
            raise ValueError("keyword_separator is empty: give at least one character, or null")
        if self.weight <= 0:
            raise ValueError(f"weight = {self.weight} must be above 0: remove the source to leave it out")
        if self.read_timeout_seconds <= 0:
            raise ValueError(f"read_timeout_seconds = {self.read_timeout_seconds} must be above 0")
        if self.stream_length is not None and self.stream_length < 1:
            raise ValueError(f"stream_length = {self.stream_length} must be at least 1; null reads at random")
