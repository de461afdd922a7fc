"""Every setting of a source in every format, against the table of docs/data.md: it has an effect, or is refused."""

import json
import re
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.config import ImageDataConfig, ImageTextDataConfig, OrderConfig
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.loading import open_sources
from data_modules.order.mixture import build_order
from data_modules.records import PairRecord
from data_modules.sources.config import KINDS_OF, LanguageRule, SourceConfig, SourceFormat, SourceKind, source_kind
from data_modules.sources.languages import apply_language_rule, hashed_language
from data_modules.sources.opening import open_source
from data_modules.sources.rows import PairSource
from data_modules.sources.streaming import StreamSource
from data_modules.sources.tables import TableSource
from data_modules.sources.tar_source import TarSource
from tests.paths import ROOT
from tests.unit.data_modules.corpora import picture, write_tar

KIND_OF = {
    "shards": "shards",
    "csv": "table",
    "parquet": "table",
    "dataset": "dataset",
    "stream": "stream",
    "folder": "folder",
}
"""Format of the test's files -> kind of source."""
CLASS_OF = {
    "shards": TarSource,
    "table": TableSource,
    "dataset": TableSource,
    "stream": StreamSource,
    "folder": TableSource,
}
FILE_OF = {
    "shards": "a.tar",
    "csv": "a.csv",
    "parquet": "a.parquet",
    "dataset": "hub/name",
    "stream": "hub/name",
    "folder": "a",
}
"""A name of each kind that need not exist."""
ROWS = [
    {
        "key": f"key{number}",
        "name": f"name{number}",
        "ko": f"고양이 {number}",
        "en": f"cat {number}",
        "mixed": f"고양이 cat and dog {number}",
        "lang": ("korean", "en-US")[number % 2],
        "tags": f"red{number}; round",
        "concept": f"c{number // 2}",
        "split": ("train", "test")[number % 2],
    }
    for number in range(6)
]
IMAGES = [picture(number) for number in range(6)]
OTHERS = [picture(number + 50) for number in range(6)]
SETTINGS = [one.name for one in fields(SourceConfig)]


def documented() -> dict[tuple[str, str], bool]:
    """(Setting, kind) -> whether it has an effect, according to the page."""
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    section = page.partition("### Settings by format")[2].partition("\n\nOf a dataset")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    found = {}
    for name, *cells in rows[2:]:
        for kind, cell in zip(rows[0][1:], cells, strict=True):
            assert re.match("(yes|refused)(:|$)", cell), (name, cell)
            found[name if name.startswith("`data") else name.strip("`"), kind] = cell.startswith("yes")
    return found


TABLE = documented()


def write(kind: str, folder: Path, rows: list[dict[str, Any]] = ROWS, name: str = "a") -> str:
    """Writes the rows in a format; returns the file or folder."""
    folder.mkdir(parents=True, exist_ok=True)
    numbered = [(int(row["key"][3:]), row) for row in rows]
    if kind == "shards":
        members = [(f"{row['key']}.jpg", IMAGES[i]) for i, row in numbered]
        members += [(f"{row['key']}.json", json.dumps(row).encode()) for row in rows]
        return str(write_tar(folder / f"{name}.tar", members))
    if kind == "csv":
        for number, _ in numbered:
            (folder / f"{number}.jpg").write_bytes(IMAGES[number])
            (folder / f"other{number}.jpg").write_bytes(OTHERS[number])
        lines = [",".join([*rows[0], "image", "photo"])]
        lines += [",".join([*row.values(), f"{i}.jpg", f"other{i}.jpg"]) for i, row in numbered]
        (folder / f"{name}.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(folder / f"{name}.csv")
    if kind == "folder":
        place = Path(folder, f"{name}_folder")
        (place / "below").mkdir(parents=True)
        for number, _ in numbered:
            (place / "below" / f"{number}.jpg").write_bytes(IMAGES[number])
        lines = [
            ",".join(["file_name", *rows[0]]),
            *(",".join([f"below/{i}.jpg", *row.values()]) for i, row in numbered),
        ]
        (place / "metadata.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return str(place)
    cells = [row | {"image": {"bytes": IMAGES[i]}, "photo": {"bytes": OTHERS[i]}} for i, row in numbered]
    place = folder if kind == "parquet" else folder / f"{name}_{kind}"
    place.mkdir(exist_ok=True)
    pq.write_table(pa.Table.from_pylist(cells), place / f"{name}.parquet")
    return str(place / f"{name}.parquet") if kind == "parquet" else str(place)


def opened(kind: str, *files: str, length: int = 6, **settings: Any) -> tuple[PairSource, SourceConfig]:
    """The source of these files, by default with captions in both languages."""
    if not settings.keys() & {"captions", "caption_fields"}:
        settings["captions"] = {"ko": "ko", "en": "en"}
    settings |= {"stream_length": length} if kind == "stream" else {}
    config = SourceConfig(files=list(files), **settings)
    assert source_kind(config).name == KIND_OF[kind]
    source = open_source("s", config, 4)
    assert isinstance(source, CLASS_OF[KIND_OF[kind]])
    return source, config


def records(source: PairSource) -> list[PairRecord]:
    return [source[index] for index in range(len(source))]


def keys(source: PairSource) -> list[str]:
    """The key of each row, which has two pairs."""
    return [one.key for one in records(source)][::2]


def _files(kind: str, folder: Path) -> None:
    files = [write(kind, folder, ROWS[:4], "a"), write(kind, folder, ROWS[4:], "b")]
    if kind == "folder":
        with pytest.raises(DataError, match="files names 2 places: name one folder"):
            opened(kind, *files)
        files = [write(kind, folder, ROWS, "c")]
    if kind in ("dataset", "stream"):  # one folder with all files
        Path(files[1], "b.parquet").rename(Path(files[0], "b.parquet"))
        files = files[:1]
    source, _ = opened(kind, *files)
    assert [one.caption for one in records(source)] == [row[lang] for row in ROWS for lang in ("ko", "en")]


def _format(kind: str, folder: Path) -> None:
    file = Path(write(kind, folder))
    if kind == "folder":
        assert source_kind(SourceConfig(files=[str(file)])).name == "folder", "auto"
        assert len(opened(kind, str(file), format=SourceFormat.folder)[0]) == 12
        return
    odd = file.rename(folder / {"shards": "a.bin", "csv": "odd.data", "parquet": "odd.data"}.get(kind, "odd.tar"))
    named = {"csv": "table", "parquet": "table", "stream": "dataset"}.get(kind, kind)
    if named == "table":  # the ending also determines the kind of table
        odd = odd.rename(file)
    source, _ = opened(kind, str(odd), format=SourceFormat[named])
    assert len(source) == 12


def _image(kind: str, folder: Path) -> None:
    source, _ = opened(kind, write(kind, folder), image="photo")
    assert [one.image for one in records(source)][::2] == OTHERS


def _captions(kind: str, folder: Path) -> None:
    source, _ = opened(kind, write(kind, folder), captions={"en": "mixed"})
    assert [(one.language, one.caption) for one in records(source)] == [("en", row["mixed"]) for row in ROWS]


def _caption_fields(kind: str, folder: Path) -> None:
    source, _ = opened(kind, write(kind, folder), caption_fields=["en", "mixed"], language="en")
    assert [(one.caption, *one.more_captions) for one in records(source)] == [(row["en"], row["mixed"]) for row in ROWS]


def _language(kind: str, folder: Path) -> None:
    source, _ = opened(kind, write(kind, folder), caption_fields=["mixed"], language="en")
    assert {one.language for one in records(source)} == {"en"}
    assert (len(source.rows_of("ko")), len(source.rows_of("en"))) == (0, 6)


def _language_field(kind: str, folder: Path) -> None:
    source, _ = opened(kind, write(kind, folder), caption_fields=["mixed"], language_field="lang")
    assert [one.language for one in records(source)] == ["ko", "en"] * 3


def _min_hangul_share(kind: str, folder: Path) -> None:
    file = write(kind, folder)
    for share, language in ((0.2, "ko"), (0.9, "en")):
        changed = {} if share == 0.2 else {"min_hangul_share": share}
        source, _ = opened(kind, file, caption_fields=["mixed"], **changed)
        assert {one.language for one in records(source)} == {language}


def _keywords(kind: str, folder: Path) -> None:
    source, _ = opened(kind, write(kind, folder), keywords={"en": "tags"}, keyword_separator=";")
    found = [one.keywords for one in records(source)]
    assert found == [words for row in ROWS for words in ((), tuple(row["tags"].split("; ")))]


def _key(kind: str, folder: Path) -> None:
    source, _ = opened(kind, write(kind, folder), key="name")
    assert keys(source) == [row["name"] for row in ROWS]


def _where(kind: str, folder: Path) -> None:
    source, config = opened(kind, write(kind, folder), length=3, where={"split": ["train"]})
    assert len(source) == 6
    assert keys(source) == [row["key"] for row in ROWS[::2]]
    assert [text for _, text in source.captions()] == [row[lang] for row in ROWS[::2] for lang in ("ko", "en")]
    with pytest.raises(DataError, match="'spilt'"):
        open_source("s", replace(config, where={"spilt": ["train"]}), 4)


def _attributes(kind: str, folder: Path) -> None:
    source, config = opened(kind, write(kind, folder), attributes=["split"])
    assert [one.attributes["split"] for one in records(source)][::2] == [row["split"] for row in ROWS]
    with pytest.raises(DataError, match="'spilt'"):
        open_source("s", replace(config, attributes=["spilt"]), 4)[0]


def _weight(kind: str, folder: Path) -> None:
    source, config = opened(kind, write(kind, folder), weight=0.5)
    order = build_order([source], {"s": config}, 6, 0, OrderConfig(shuffle_window=4, run_length=1))
    ids = np.concatenate([order.batch(step) for step in range(2)])
    assert order.epoch_length == 6
    assert sorted(ids.tolist()) == list(range(12)), "each pair once in two epochs"


def _split(kind: str, folder: Path) -> None:
    for name, rows in (("train", ROWS[:4]), ("test", ROWS[4:])):
        file = Path(write(kind, folder / name, rows), "a.parquet")
        (folder / "all").mkdir(exist_ok=True)
        file.rename(folder / "all" / f"{name}.parquet")
    source, _ = opened(kind, str(folder / "all"), length=2, split="test")
    assert keys(source) == ["key4", "key5"]


def _subset(kind: str, folder: Path) -> None:
    place = Path(write(kind, folder))
    pq.write_table(pq.read_table(place / "a.parquet").slice(4), place / "b.parquet")
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.parquet\n" for name in "ab")
    (place / "README.md").write_text(f"---\nconfigs:\n{configs}---\n")
    source, _ = opened(kind, str(place), length=2, subset="b")
    assert keys(source) == ["key4", "key5"]


def _stream_length(kind: str, folder: Path) -> None:
    file = write(kind, folder)
    assert len(opened("stream", file, length=4)[0]) == 8
    if kind == "dataset":
        assert len(opened("dataset", file)[0]) == 12


def _read_timeout_seconds(kind: str, folder: Path) -> None:
    source, _ = opened(kind, write(kind, folder), read_timeout_seconds=7.0)
    if isinstance(source, TarSource):  # test_blobs checks its effect
        assert source._reader._timeout == 7.0
    assert len(records(source)) == 12


def _is_refused(kind: str, **setting: Any) -> bool:
    """Whether a table is not parquet, which is then seen to refuse the setting."""
    if kind == "csv":
        with pytest.raises(ValueError, match=f"{next(iter(setting))} = .* is about PARQUET files"):
            opened(kind, FILE_OF[kind], **setting)
    return kind == "csv"


def _reads_in_flight(kind: str, folder: Path) -> None:
    if not _is_refused(kind, reads_in_flight=7):
        source, _ = opened(kind, write(kind, folder), reads_in_flight=7)
        reader = source._reader if isinstance(source, TarSource) else source.table.groups._reader
        assert reader._in_flight == 7  # test_remote checks its effect
        assert len(records(source)) == 12


def _cache_folder(kind: str, folder: Path) -> None:
    if _is_refused(kind, cache_folder="own"):
        return
    file = write(kind, folder)
    memory, name = fsspec.filesystem("memory"), Path(file).name
    memory.pipe_file(f"/cached/{name}", Path(file).read_bytes())
    settings = {"index_folder": str(folder), "cache_folder": str(folder / "own")}
    config = SourceConfig(files=[f"memory://cached/{name}"], captions={"ko": "ko", "en": "en"}, **settings)
    assert len(records(open_source("s", config, 8, 2))) == 12
    assert any(one.is_file() for one in (folder / "own").rglob("*"))  # test_tar_runs looks at the files
    assert len(records(opened(kind, file, cache_folder=str(folder / "unused"))[0])) == 12
    assert not (folder / "unused").exists(), "local files are read where they are"


def _index_folder(kind: str, folder: Path) -> None:
    if _is_refused(kind, index_folder="own"):
        return
    file = write(kind, folder)
    if kind == "parquet":  # small images need no index
        cells = pq.read_table(file).to_pylist()
        large = [row | {"image": {"bytes": row["image"]["bytes"] + bytes(2000)}} for row in cells]
        pq.write_table(pa.Table.from_pylist(large), file)
    assert len(records(opened(kind, file, index_folder=str(folder / "own"))[0])) == 12
    assert (".index" if kind == "shards" else ".places") in [one.suffix for one in (folder / "own").iterdir()]


_keyword_separator = _keywords


def _by_paths(kind: str, file: str, path: Callable[[int], str]) -> None:
    """Replaces the images of a table by paths."""
    if kind == "folder":
        file = str(Path(file, "metadata.csv"))
    if kind in ("csv", "folder"):
        table = Path(file)
        lines = table.read_text(encoding="utf-8").splitlines()
        cells = [re.sub(rf"(below/)?\b{i}\.jpg", path(i), line, count=1) for i, line in enumerate(lines[1:])]
        table.write_text("\n".join([lines[0], *cells]) + "\n", encoding="utf-8")
        return
    table = Path(file) if kind == "parquet" else Path(file, "a.parquet")
    rows = [row | {"image": path(i), "photo": path(i)} for i, row in enumerate(ROWS)]
    pq.write_table(pa.Table.from_pylist(rows), table)


def _image_root(kind: str, folder: Path) -> None:
    file = write(kind, folder)
    (folder / "elsewhere").mkdir()
    for number, image in enumerate(OTHERS):
        (folder / "elsewhere" / f"{number}.jpg").write_bytes(image)
    _by_paths(kind, file, lambda i: f"{i}.jpg")
    source, _ = opened(kind, file, image_root=str(folder / "elsewhere"))
    assert [one.image for one in records(source)][::2] == OTHERS


def _allow_absolute_paths(kind: str, folder: Path) -> None:
    file = write(kind, folder)
    for number, image in enumerate(OTHERS):
        (folder / f"{number}.jpg").write_bytes(image)
    _by_paths(kind, file, lambda i: str(folder / f"{i}.jpg"))
    source, _ = opened(kind, file)
    with pytest.raises(SampleFault, match=r"unsafe_name: .*allow_absolute_paths: true"):
        source[0]
    source, _ = opened(kind, file, allow_absolute_paths=True)
    assert [one.image for one in records(source)][::2] == OTHERS


def _encoding(kind: str, folder: Path) -> None:
    place = write(kind, folder)
    file = Path(place, "metadata.csv") if kind == "folder" else Path(place)
    if kind == "parquet":
        with pytest.raises(ValueError, match="encoding = 'cp949' is about CSV and TSV files"):
            opened(kind, str(file), encoding="cp949")
        return
    file.write_bytes(file.read_text(encoding="utf-8").encode("cp949"))
    source, _ = opened(kind, place, encoding="cp949")
    assert source[0].caption == ROWS[0]["ko"]


def _separator(kind: str, folder: Path) -> None:
    place = write(kind, folder)
    file = Path(place, "metadata.csv") if kind == "folder" else Path(place)
    if kind == "parquet":
        with pytest.raises(ValueError, match="separator = '#' is about CSV files"):
            opened(kind, str(file), separator="#")
        return
    file.write_text(file.read_text(encoding="utf-8").replace(",", "#"), encoding="utf-8")
    source, _ = opened(kind, place, separator="#")
    assert source[0].caption == ROWS[0]["ko"]


def _check_languages(kind: str, folder: Path) -> None:
    file, swapped = write(kind, folder), {"ko": "en", "en": "ko"}
    with pytest.raises(DataError, match=r"source 's': .*'en', named as Korean, is 0% Hangul and 'ko'.* 100% Hangul"):
        open_sources({"s": opened(kind, file, captions=swapped)[1]})
    open_sources({"s": opened(kind, file, captions=swapped, check_languages=False)[1]})


def test_table__has_every_setting_and_says_what_the_code_does() -> None:
    assert [name for name in dict.fromkeys(name for name, _ in TABLE) if not name.startswith("`data")] == SETTINGS
    for name in SETTINGS:
        kinds = [kind for kind in SourceKind if TABLE[name, kind.name]]
        assert kinds == [kind for kind in SourceKind if kind in KINDS_OF.get(name, tuple(SourceKind))], name


REFUSED: dict[str, Any] = {
    "image": "photo",
    "image_root": "photos",
    "allow_absolute_paths": True,
    "encoding": "cp949",
    "separator": ";",
    "check_languages": False,
    "key": "name",
    "where": {"split": ["train"]},
    "attributes": ["split"],
    "split": "test",
    "subset": "b",
    "stream_length": 4,
    "read_timeout_seconds": 7.0,
    "reads_in_flight": 7,
    "cache_folder": "own",
    "index_folder": "own",
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in SETTINGS for kind in KIND_OF])
def test_table__settings_of_a_source(tmp_path: Path, name: str, kind: str) -> None:
    if TABLE[name, KIND_OF[kind]]:
        globals()[f"_{name}"](kind, tmp_path)  # the function above that checks the effect of this setting
        return
    settings = {name: REFUSED[name]} | ({"stream_length": 4} if kind == "stream" else {})
    settings |= {"format": SourceFormat.folder} if kind == "folder" else {}
    with pytest.raises(ValueError, match=rf"^{name} = .* is a setting of .*, and [\w ]+ ignore it: remove it"):
        SourceConfig(files=[FILE_OF[kind]], captions={"ko": "ko"}, **settings)


def _by_concept(kind: str, folder: Path) -> None:
    source, config = opened(kind, write(kind, folder))
    ImageTextDataConfig(sources={"s": config}, languages=LanguageRule.by_concept, order=OrderConfig(shuffle_window=4))
    ruled = apply_language_rule([source], {"s": config}, LanguageRule.by_concept)[0]
    expected = [hashed_language(row["concept"]) for row in ROWS for _ in range(2)]
    assert [one.language for one in records(ruled)] == expected


def _whole_epochs(kind: str, folder: Path) -> None:
    source, config = opened(kind, write(kind, folder))
    for section in (ImageDataConfig, ImageTextDataConfig):
        section(sources={"s": config}, order=OrderConfig(shuffle_window=0))
    assert sorted(build_order([source], {"s": config}, 12, 0).batch(0).tolist()) == list(range(12))


def _by_language(kind: str, folder: Path) -> None:
    source, config = opened(kind, write(kind, folder), caption_fields=["mixed"], language_field="lang")
    order = OrderConfig(shuffle_window=4, run_length=1, single_language_batches=True)
    ImageTextDataConfig(sources={"s": config}, order=order)
    batches = build_order([source], {"s": config}, 3, 0, order)
    assert {frozenset(source[int(i)].language for i in batches.batch(step)) for step in range(2)} == {
        frozenset({"ko"}),
        frozenset({"en"}),
    }


DATA_CHECKS: dict[str, tuple[Callable[[str, Path], None], str, dict[str, Any], dict[str, Any]]] = {
    "`data.languages: by_concept` or `by_design`": (
        _by_concept,
        "languages = by_concept reads the column 'concept', and source 's' is shards",
        {"captions": {"ko": "ko", "en": "en"}},
        {"languages": LanguageRule.by_concept},
    ),
    "`data.order.shuffle_window: 0`": (
        _whole_epochs,
        r"order\.shuffle_window = 0 mixes whole epochs, and source 's' is streamed",
        {"captions": {"ko": "ko"}},
        {},
    ),
    "`data.order`: `temperature`, `language_weights`, `single_language_batches`, languages known per row": (
        _by_language,
        "need languages in advance, and those of the streamed source 's'",
        {"caption_fields": ["mixed"]},
        {"order": OrderConfig(shuffle_window=4, temperature=2.0)},
    ),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in DATA_CHECKS for kind in KIND_OF])
def test_table__settings_of_the_pair_set(tmp_path: Path, name: str, kind: str) -> None:
    check, message, source, settings = DATA_CHECKS[name]
    if TABLE[name, KIND_OF[kind]]:
        check(kind, tmp_path)
        return
    config = SourceConfig(files=[FILE_OF[kind]], **source, **({"stream_length": 4} if kind == "stream" else {}))
    with pytest.raises(ValueError, match=message):
        ImageTextDataConfig(sources={"s": config}, **settings)


def test_stream__opening_names_a_missing_column(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="source 's' has no column 'titel'"):
        opened("stream", write("stream", tmp_path), captions={"ko": "titel"})


def test_stream__too_few_rows_satisfy_where(tmp_path: Path) -> None:
    source, _ = opened("stream", write("stream", tmp_path), length=4, where={"split": ["train"]})
    with pytest.raises(DataError, match="ended after 3 rows that satisfy its `where`; stream_length = 4"):
        source[7]
