"""What the columns of a data set are: images, captions with their language by script, keys, splits."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.image_files import IMAGE_ENDINGS
from data_modules.languages import LANGUAGES
from data_modules.preparation.survey.rows import SampledRows
from data_modules.text.cleaning import hangul_share, language_code

Rows = Sequence[Mapping[str, Any]]

MIN_HANGUL = 0.2
"""Least share of Hangul among the letters of a Korean caption: the default of `min_hangul_share`."""
MIN_SHARE = {"ko": 0.8, "en": 0.9}
"""Least share of a language among a column's captions, by script, for the column to be in this language. Korean product
names may be written in Latin letters; English captions hardly ever in Hangul."""
_CAPTION_NAMES = re.compile(
    r"caption|text|txt|title|name|desc|alt|sentence|label|prompt|캡션|제목|설명|이름|문장|한글|영문|한국어|영어|상품명|"
    r"(^|_)(ko|kor|kr|en|eng|korean|english)($|_)",
    re.IGNORECASE,
)
_OTHER_NAMES = re.compile(
    r"(^|_)(url|uri|path|file|filename|hash|md5|sha256|license|licence|lang|language|split|width|height|exif|status|"
    r"error|message|date|id|key|code|author|user|source)($|_)",
    re.IGNORECASE,
)
_KEY_NAMES = ("id", "image_id", "img_id", "uid", "uuid", "item_id", "product_id", "sku", "code")
_SPLIT_NAMES = ("split", "subset", "set", "partition", "phase")
_TRAIN_VALUES = ("train", "training")
_HELD_OUT_VALUES = ("validation", "valid", "val", "dev", "test", "testing", "heldout", "held_out", "eval", "evaluation")


@dataclass(frozen=True, slots=True, kw_only=True)
class TextColumn:
    """A column of texts in the sample."""

    name: str
    filled: int
    """Cells with text."""
    shares: Mapping[str, float]
    """`ko`, `en`, `other` -> share of the filled cells, by script: `other` has letters of neither."""
    mean_length: float
    """Characters."""

    @property
    def language(self) -> str | None:
        """`ko`, `en`, `mixed`, or `None`: neither language."""
        for language, least in MIN_SHARE.items():
            if self.shares[language] >= least:
                return language
        return "mixed" if self.shares["ko"] + self.shares["en"] >= 0.8 else None

    @property
    def described(self) -> str:
        """Name and languages, for a comment."""
        found = [f"{share:.0%} {name}" for name, share in self.shares.items() if share]
        return f"{self.name} ({', '.join(found)})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Captions:
    """The caption columns of a data set."""

    by_language: dict[str, str] = field(default_factory=dict)
    """Language -> its column."""
    mixed: str | None = None
    """A column with both languages, if there is no column for each."""
    language_field: str | None = None
    """Column with the language of `mixed`; `None`: by script."""
    language_values: dict[str, list[str]] = field(default_factory=dict)
    """Language -> its values in `language_field`."""
    chosen: list[TextColumn] = field(default_factory=list)
    others: list[TextColumn] = field(default_factory=list)
    """Columns that would do as well."""

    @property
    def columns(self) -> list[str]:
        """All caption columns."""
        return [*self.by_language.values(), *([self.mixed] if self.mixed is not None else [])]


def find_image_column(found: SampledRows) -> str:
    """The column of images: bytes, structs with `bytes` or `path`, or names of image files.

    Raises:
        DataError: There is none.
    """
    for name in found.columns:
        cells = _cells(found.rows, name)
        if cells and all(_is_image(cell) for cell in cells):
            return name
    named = {name: _file_share(found.rows, name) for name in found.columns}
    best = max(named, key=lambda name: named[name], default="")
    if best and named[best] >= 0.5:
        return best
    urls = [name for name in found.columns if _url_share(_texts(_cells(found.rows, name))) >= 0.5]
    remedy = (
        f"column '{urls[0]}' holds addresses: download the images first, for example with img2dataset"
        if urls
        else f"their names would end in .{', .'.join(sorted(IMAGE_ENDINGS)[:5])}, ..."
    )
    raise DataError(f"no column holds images, neither bytes nor paths, among {', '.join(found.columns)}; {remedy}")


def find_image_root(found: SampledRows, column: str, folders: Sequence[Path]) -> Path | None:
    """The folder that the image paths are relative to; `None`: that of each table, or the paths are absolute.

    Args:
        found: The sample.
        column: Its column of images.
        folders: Where the images may lie as well.

    Raises:
        DataError: No folder holds the images.
    """
    paths = [
        (folder, path) for folder, row in zip(found.folders, found.rows, strict=True) if (path := _path(row[column]))
    ]
    paths = paths[:: max(1, len(paths) // 50)]
    if not paths or 2 * sum((folder / path).is_file() for folder, path in paths) > len(paths):
        return None
    bases = list(dict.fromkeys([*folders, *found.folders]))
    near = [base / sub for base in bases for sub in _folders_below(base)]
    candidates = list(dict.fromkeys([*bases, *near, *(base.parent for base in bases)]))
    counts = {one: sum((one / path).is_file() for _, path in paths) for one in candidates}
    best = max(counts, key=lambda one: counts[one])
    if not counts[best]:
        raise DataError(
            f"column '{column}' names images such as '{paths[0][1]}', which are in none of the folders looked at "
            f"({', '.join(map(str, candidates[:3]))}, ...); give the folder of the images as a further argument"
        )
    return best


def has_absolute_paths(found: SampledRows, column: str) -> bool:
    """Whether image paths of the sample are absolute or leave their folder."""
    paths = [Path(path) for row in found.rows if (path := _path(row.get(column)))]
    return any(path.is_absolute() or ".." in path.parts for path in paths)


def find_captions(found: SampledRows, image: str) -> Captions:
    """The caption columns: one for each language if there is one, else one with both.

    Of several columns in a language, one whose name says so is preferred, then the one with the longest texts. The
    captions are empty if no column holds texts in Korean or English.
    """
    columns = [one for name in found.columns if name != image and (one := _text_column(found.rows, name)) is not None]
    ranked = sorted(columns, key=lambda one: (not _CAPTION_NAMES.search(one.name), -one.mean_length))
    by_language: dict[str, TextColumn] = {}
    for one in ranked:
        if one.language in LANGUAGES:
            by_language.setdefault(one.language, one)
    mixed = next((one for one in ranked if one.language == "mixed"), None)
    if mixed is not None and len(by_language) < len(LANGUAGES):
        rank = ranked.index
        if all(rank(mixed) < rank(one) for one in by_language.values()):
            name, values = _language_field(found)
            others = [one for one in ranked if one is not mixed]
            chosen = [mixed]
            return Captions(mixed=mixed.name, language_field=name, language_values=values, chosen=chosen, others=others)
    chosen = [by_language[language] for language in LANGUAGES if language in by_language]
    return Captions(
        by_language={one.language: one.name for one in chosen if one.language is not None},
        chosen=chosen,
        others=[one for one in ranked if one not in chosen and one.language is not None],
    )


def find_key(found: SampledRows) -> str | None:
    """A column that identifies the rows of the sample; `None`: none, or the default `key`."""
    if "key" in found.columns:
        return None
    for name in found.columns:
        if name.lower() in _KEY_NAMES:
            cells = [str(row.get(name)) for row in found.rows if row.get(name) not in (None, "")]
            if len(cells) == len(found.rows) == len(set(cells)):
                return name
    return None


def find_split(found: SampledRows) -> tuple[str, list[str], list[str]] | None:
    """The column of splits, its values for training, and those for evaluation; `None`: there is none."""
    for name in found.columns:
        values = {str(row.get(name)) for row in found.rows}
        if name.lower() not in _SPLIT_NAMES or len(values) > 10:
            continue
        train = sorted(value for value in values if value.lower() in _TRAIN_VALUES)
        held_out = next((one for wanted in _HELD_OUT_VALUES for one in values if one.lower() == wanted), None)
        if train and held_out is not None:
            return name, train, [held_out]
    return None


def empty_columns(found: SampledRows) -> list[str]:
    """Columns without a value in the sample."""
    return [name for name in found.columns if not _cells(found.rows, name)]


def script_of(text: str) -> str | None:
    """`ko`, `en` or `other` by the letters of a text; `None`: it has none."""
    letters = [character for character in text if character.isalpha()]
    if not letters:
        return None
    if hangul_share(text) >= MIN_HANGUL:
        return "ko"
    latin = sum(character < "\u0250" for character in letters)
    return "en" if 2 * latin >= len(letters) else "other"


def _text_column(rows: Rows, name: str) -> TextColumn | None:
    """The column if it may hold captions."""
    if _OTHER_NAMES.search(name) and not _CAPTION_NAMES.search(name):
        return None
    cells = _cells(rows, name)
    texts = _texts(cells)
    scripts = [script for text in texts if (script := script_of(text)) is not None]
    if not scripts or _url_share(texts) >= 0.5 or _file_share(rows, name) >= 0.5:
        return None
    has_words = sum(len(text.split()) > 1 for text in texts) >= 0.2 * len(texts)
    is_korean = scripts.count("ko") >= 0.5 * len(scripts)
    # Single words without Hangul under another name are codes: colours, categories, hashes.
    if not (_CAPTION_NAMES.search(name) or has_words or is_korean):
        return None
    return TextColumn(
        name=name,
        filled=len(cells),
        shares={one: scripts.count(one) / len(scripts) for one in (*LANGUAGES, "other")},
        mean_length=sum(map(len, texts)) / len(texts),
    )


def _language_field(found: SampledRows) -> tuple[str | None, dict[str, list[str]]]:
    """A column of names of languages that are all Korean or English, and its values by language."""
    for name in found.columns:
        cells = _cells(found.rows, name)
        if "lang" not in name.lower() or not cells or not all(isinstance(cell, str) for cell in cells):
            continue
        values: dict[str, list[str]] = {}
        try:
            for cell in sorted(set(cells)):
                values.setdefault(language_code(cell), []).append(cell)
        except SampleFault:
            continue
        return name, values
    return None, {}


def _cells(rows: Rows, name: str) -> list[Any]:
    return [cell for row in rows if (cell := row.get(name)) not in (None, "", b"", [])]


def _texts(cells: Sequence[Any]) -> list[str]:
    """The texts of cells that are texts or lists of texts; empty if one is of another type."""
    texts = [text for cell in cells for text in (cell if isinstance(cell, list) else [cell])]
    return [text for text in texts if text.strip()] if all(isinstance(text, str) for text in texts) else []


def _is_image(cell: object) -> bool:
    return isinstance(cell, bytes) or (isinstance(cell, Mapping) and bool({"bytes", "path"} & cell.keys()))


def _path(cell: object) -> str | None:
    if isinstance(cell, Mapping):
        cell = None if cell.get("bytes") else cell.get("path")
    return cell if isinstance(cell, str) and cell.strip() else None


def _file_share(rows: Rows, name: str) -> float:
    """Share of the filled cells that name an image file."""
    cells = _cells(rows, name)
    texts = [cell for cell in cells if isinstance(cell, str) and "://" not in cell]
    files = [text for text in texts if Path(text).suffix.lower().lstrip(".") in IMAGE_ENDINGS]
    return len(files) / len(cells) if cells else 0.0


def _url_share(texts: Sequence[str]) -> float:
    return sum("://" in text[:12] for text in texts) / len(texts) if texts else 0.0


def _folders_below(folder: Path) -> list[str]:
    """Folders at most two levels below a folder."""
    first = [one for one in sorted(folder.iterdir()) if one.is_dir() and not one.name.startswith(".")][:50]
    second = [two for one in first for two in sorted(one.iterdir()) if two.is_dir()][:200]
    return [str(one.relative_to(folder)) for one in (*first, *second)]
