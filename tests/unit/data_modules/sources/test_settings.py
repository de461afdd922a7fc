"""Every setting of a source in the table of docs/data.md: each kind heeds it, or refuses it before it is opened."""

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_modules.errors import DataError
from data_modules.order.mixture import OrderConfig, build_order
from data_modules.sources.config import KINDS_OF, SourceConfig, SourceFormat, SourceKind
from data_modules.sources.opening import open_source
from data_modules.sources.tar_source import TarSource
from tests.unit.data_modules.sources.kinds import (
    COLUMN_OF,
    FILE_OF,
    FORMATS,
    OTHERS,
    ROWS,
    TABLE,
    opened,
    records,
    write,
)

SETTINGS = [one.name for one in fields(SourceConfig)]


def _files(kind: str, folder: Path) -> None:
    files = [write(kind, folder, ROWS[:4], "a"), write(kind, folder, ROWS[4:], "b")]
    if kind in ("dataset", "stream"):  # one folder, all of whose files are read
        Path(files[1], "b.parquet").rename(Path(files[0], "b.parquet"))
        files = files[:1]
    source, _ = opened(kind, files)
    assert [one.caption for one in records(source)] == [row[lang] for row in ROWS for lang in ("ko", "en")]


def _format(kind: str, folder: Path) -> None:
    file = Path(write(kind, folder))
    odd = file.rename(folder / {"shards": "a.bin", "csv": "odd.data", "parquet": "odd.data"}.get(kind, "odd.tar"))
    named = {"csv": "table", "parquet": "table", "stream": "dataset"}.get(kind, kind)
    if named == "table":  # the ending also says which kind of table
        odd = odd.rename(file)
    source, _ = opened(kind, [str(odd)], format=SourceFormat[named])
    assert len(source) == 12


def _image(kind: str, folder: Path) -> None:
    source, _ = opened(kind, [write(kind, folder)], image="photo")
    assert [one.image for one in records(source)][::2] == OTHERS


def _captions(kind: str, folder: Path) -> None:
    source, _ = opened(kind, [write(kind, folder)], captions={"en": "mixed"})
    assert [(one.language, one.caption) for one in records(source)] == [("en", row["mixed"]) for row in ROWS]


def _caption_fields(kind: str, folder: Path) -> None:
    source, _ = opened(kind, [write(kind, folder)], caption_fields=["en", "mixed"], language="en")
    assert [(one.caption, *one.more_captions) for one in records(source)] == [(row["en"], row["mixed"]) for row in ROWS]


def _language(kind: str, folder: Path) -> None:
    source, _ = opened(kind, [write(kind, folder)], caption_fields=["mixed"], language="en")
    assert {one.language for one in records(source)} == {"en"}
    assert (len(source.rows_of("ko")), len(source.rows_of("en"))) == (0, 6)


def _language_field(kind: str, folder: Path) -> None:
    source, _ = opened(kind, [write(kind, folder)], caption_fields=["mixed"], language_field="lang")
    assert [one.language for one in records(source)] == ["ko", "en"] * 3


def _min_hangul_share(kind: str, folder: Path) -> None:
    file = write(kind, folder)
    for share, language in ((0.2, "ko"), (0.9, "en")):
        changed = {} if share == 0.2 else {"min_hangul_share": share}
        source, _ = opened(kind, [file], caption_fields=["mixed"], **changed)
        assert {one.language for one in records(source)} == {language}


def _keywords(kind: str, folder: Path) -> None:
    source, _ = opened(kind, [write(kind, folder)], keywords={"en": "tags"}, keyword_separator=";")
    found = [one.keywords for one in records(source)]
    assert found == [words for row in ROWS for words in ((), tuple(row["tags"].split("; ")))]


def _key(kind: str, folder: Path) -> None:
    source, _ = opened(kind, [write(kind, folder)], key="name")
    assert [one.key for one in records(source)][::2] == [row["name"] for row in ROWS]


def _where(kind: str, folder: Path) -> None:
    source, config = opened(kind, [write(kind, folder)], length=3, where={"split": ["train"]})
    assert len(source) == 6
    assert [one.key for one in records(source)] == [row["key"] for row in ROWS[::2] for _ in range(2)]
    assert [text for _, text in source.captions()] == [row[lang] for row in ROWS[::2] for lang in ("ko", "en")]
    misspelt = SourceConfig(**{name: getattr(config, name) for name in SETTINGS} | {"where": {"spilt": ["train"]}})
    with pytest.raises(DataError, match="'spilt'"):
        open_source("s", misspelt, 4)


def _weight(kind: str, folder: Path) -> None:
    source, config = opened(kind, [write(kind, folder)], weight=0.5)
    order = build_order([source], {"s": config}, 6, 0, OrderConfig(shuffle_window=4, run_length=1))
    ids = np.concatenate([order.batch(step) for step in range(2)])
    assert order.epoch_length == 6
    assert sorted(ids.tolist()) == list(range(12)), "each pair once in two epochs"


def _split(kind: str, folder: Path) -> None:
    for name, rows in (("train", ROWS[:4]), ("test", ROWS[4:])):
        file = Path(write(kind, folder / name, rows), "a.parquet")
        (folder / "all").mkdir(exist_ok=True)
        file.rename(folder / "all" / f"{name}.parquet")
    source, _ = opened(kind, [str(folder / "all")], length=2, split="test")
    assert [one.key for one in records(source)] == ["key4", "key4", "key5", "key5"]


def _subset(kind: str, folder: Path) -> None:
    place = Path(write(kind, folder))
    pq.write_table(pq.read_table(place / "a.parquet").slice(4), place / "b.parquet")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in "ab")
    (place / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    source, _ = opened(kind, [str(place)], length=2, subset="b")
    assert [one.key for one in records(source)] == ["key4", "key4", "key5", "key5"]


def _stream_length(kind: str, folder: Path) -> None:
    file = write(kind, folder)
    assert len(opened("stream", [file], length=4)[0]) == 8
    if kind == "dataset":
        assert len(opened("dataset", [file])[0]) == 12


def _read_timeout_seconds(kind: str, folder: Path) -> None:
    source, _ = opened(kind, [write(kind, folder)], read_timeout_seconds=7.0)
    if isinstance(source, TarSource):  # that it ends a read is seen in test_blobs
        assert source._reader._timeout == 7.0
    assert len(records(source)) == 12


def _index_folder(kind: str, folder: Path) -> None:
    opened(kind, [write(kind, folder)], index_folder=str(folder / "own"))
    assert len(list((folder / "own").glob("*.index"))) == 1


CHECKS: dict[str, Callable[[str, Path], None]] = {
    "files": _files,
    "format": _format,
    "image": _image,
    "captions": _captions,
    "caption_fields": _caption_fields,
    "language": _language,
    "language_field": _language_field,
    "min_hangul_share": _min_hangul_share,
    "keywords": _keywords,
    "keyword_separator": _keywords,
    "key": _key,
    "where": _where,
    "weight": _weight,
    "split": _split,
    "subset": _subset,
    "stream_length": _stream_length,
    "read_timeout_seconds": _read_timeout_seconds,
    "index_folder": _index_folder,
}
REFUSED: dict[str, Any] = {
    "image": "photo",
    "key": "name",
    "where": {"split": ["train"]},
    "split": "test",
    "subset": "b",
    "stream_length": 4,
    "read_timeout_seconds": 7.0,
    "index_folder": "own",
}


def test_table__has_every_setting_and_says_what_the_code_does() -> None:
    assert [name for name in dict.fromkeys(name for name, _ in TABLE) if not name.startswith("`data")] == SETTINGS
    for name in SETTINGS:
        kinds = [kind for kind in SourceKind if TABLE[name, kind.name]]
        assert kinds == [kind for kind in SourceKind if kind in KINDS_OF.get(name, tuple(SourceKind))], name


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in SETTINGS for kind in FORMATS if TABLE[name, COLUMN_OF[kind]]]
)
def test_table__heeded(tmp_path: Path, name: str, kind: str) -> None:
    CHECKS[name](kind, tmp_path)


@pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name in SETTINGS for kind in FORMATS if not TABLE[name, COLUMN_OF[kind]]]
)
def test_table__refused(name: str, kind: str) -> None:
    settings = {name: REFUSED[name]} | ({"stream_length": 4} if kind == "stream" else {})
    with pytest.raises(ValueError, match=rf"^{name} = .* is a setting of .*, and \w+ ignore it: remove it"):
        SourceConfig(files=[FILE_OF[kind]], captions={"ko": "ko"}, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"captions": {"ko": "a"}, "language": "ko"}, "language is about caption_fields"),
        ({"captions": {"ko": "a"}, "language_field": "l"}, "language_field is about caption_fields"),
        ({"captions": {"ko": "a"}, "min_hangul_share": 0.5}, "min_hangul_share is about caption_fields"),
        ({"caption_fields": ["a"], "language": "ko", "language_field": "l"}, "language = 'ko' has no effect"),
        ({"caption_fields": ["a"], "language": "ko", "min_hangul_share": 0.5}, "min_hangul_share is for language"),
        ({"captions": {"ko": "a"}, "keywords": {"en": "b"}}, "keywords names 'en', a language without captions"),
        ({"caption_fields": ["a"], "language": "ko", "keywords": {"en": "b"}}, "keywords names 'en'"),
        ({"captions": {"ko": "a"}, "keyword_separator": ","}, "keyword_separator = ',' is about keywords"),
        ({"captions": {"ko": "a"}, "keywords": {"ko": "b"}, "keyword_separator": ""}, "keyword_separator is empty"),
        ({"captions": {"ko": "a"}, "files": ["a.csv", "b.tar"]}, "files mixes shards and table"),
    ],
)
def test_source_config__settings_without_a_meaning_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SourceConfig(**{"files": ["a.csv"]} | settings)
