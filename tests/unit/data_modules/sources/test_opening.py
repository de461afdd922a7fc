"""Settings of the pair set in the table of docs/data.md, and what only opening a source can tell."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest

from data_modules.errors import DataError
from data_modules.image import ImageDataConfig
from data_modules.image_text import ImageTextDataConfig
from data_modules.order.mixture import OrderConfig, build_order
from data_modules.sources.config import SourceConfig
from data_modules.sources.languages import LanguageRule, apply_language_rule, hashed_language
from data_modules.sources.opening import open_source
from data_modules.sources.streaming import StreamSource
from tests.unit.data_modules.sources.kinds import (
    COLUMN_OF,
    FILE_OF,
    FORMATS,
    IMAGES,
    ROWS,
    TABLE,
    opened,
    records,
    write,
)


def _by_concept(kind: str, folder: Path) -> None:
    source, config = opened(kind, [write(kind, folder)])
    ImageTextDataConfig(sources={"s": config}, languages=LanguageRule.by_concept, order=OrderConfig(shuffle_window=4))
    ruled = apply_language_rule([source], {"s": config}, LanguageRule.by_concept)[0]
    expected = [hashed_language(row["concept"]) for row in ROWS for _ in range(2)]
    assert [one.language for one in records(ruled)] == expected


def _whole_epochs(kind: str, folder: Path) -> None:
    source, config = opened(kind, [write(kind, folder)])
    for section in (ImageDataConfig, ImageTextDataConfig):
        section(sources={"s": config}, order=OrderConfig(shuffle_window=0))
    assert sorted(build_order([source], {"s": config}, 12, 0).batch(0).tolist()) == list(range(12))


def _by_language(kind: str, folder: Path) -> None:
    source, config = opened(kind, [write(kind, folder)], caption_fields=["mixed"], language_field="lang")
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
    "`data.order`: `temperature`, `language_weights`, `single_language_batches`, where the rows tell their language": (
        _by_language,
        "need languages in advance, and those of the streamed source 's'",
        {"caption_fields": ["mixed"]},
        {"order": OrderConfig(shuffle_window=4, temperature=2.0)},
    ),
}


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name in DATA_CHECKS for kind in FORMATS])
def test_table__settings_of_the_pair_set(tmp_path: Path, name: str, kind: str) -> None:
    check, message, source, settings = DATA_CHECKS[name]
    if TABLE[name, COLUMN_OF[kind]]:
        check(kind, tmp_path)
        return
    config = SourceConfig(files=[FILE_OF[kind]], **source, **({"stream_length": 4} if kind == "stream" else {}))
    with pytest.raises(ValueError, match=message):
        ImageTextDataConfig(sources={"s": config}, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subset": "b"}, "saved by save_to_disk, which has no subset"),
        ({"stream_length": 3}, "saved by save_to_disk, which has no stream_length"),
        ({"split": "test"}, "saved without splits; remove split = test"),
    ],
)
def test_saved_dataset__refuses_what_it_has_not(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    rows = [row | {"image": {"bytes": IMAGES[0]}} for row in ROWS]
    datasets.Dataset.from_list(rows).save_to_disk(str(tmp_path / "saved"))
    config = SourceConfig(files=[str(tmp_path / "saved")], captions={"ko": "ko"}, **settings)
    with pytest.raises(DataError, match=message):
        open_source("s", config)


def test_saved_dataset__has_its_splits(tmp_path: Path) -> None:
    rows = [row | {"image": {"bytes": IMAGES[0]}} for row in ROWS]
    splits = {"train": datasets.Dataset.from_list(rows[:4]), "test": datasets.Dataset.from_list(rows[4:])}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    source, _ = opened("dataset", [str(tmp_path / "saved")], split="test")
    assert [one.key for one in records(source)] == ["key4", "key4", "key5", "key5"]


def test_stream__a_column_that_is_missing_is_told_when_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="source 's' has no column 'titel'"):
        opened("stream", [write("stream", tmp_path)], captions={"ko": "titel"})


def test_stream__a_column_that_the_first_row_lacks_ends_the_run() -> None:
    config = SourceConfig(files=["a/b"], captions={"ko": "ko"}, where={"split": ["train"]}, stream_length=1)
    with pytest.raises(DataError, match="has no column 'split'"):
        StreamSource("s", config, lambda: iter([{"image": b"", "ko": "a"}]), 4)[0]


def test_stream__fewer_rows_satisfy_where_than_it_says(tmp_path: Path) -> None:
    source, _ = opened("stream", [write("stream", tmp_path)], length=4, where={"split": ["train"]})
    with pytest.raises(DataError, match="ended after 3 rows that satisfy its `where`; stream_length = 4"):
        source[7]
