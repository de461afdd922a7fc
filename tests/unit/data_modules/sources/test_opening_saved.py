"""Datasets that `save_to_disk` wrote."""

from pathlib import Path
from typing import Any

import datasets
import pytest

from data_modules.errors import DataError
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from tests.unit.data_modules.corpora import picture

SAVED = datasets.Dataset.from_list(
    [{"key": f"key{number}", "ko": f"고양이 {number}", "image": {"bytes": picture(number)}} for number in range(6)]
)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subset": "b"}, "saved by save_to_disk, which has no subset"),
        ({"stream_length": 3}, "saved by save_to_disk, which has no stream_length"),
        ({"split": "test"}, "saved without splits; remove split = test"),
    ],
)
def test_saved_dataset__refuses_settings_without_effect(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    SAVED.save_to_disk(str(tmp_path / "saved"))
    config = SourceConfig(files=[str(tmp_path / "saved")], captions={"ko": "ko"}, **settings)
    with pytest.raises(DataError, match=message):
        open_source("s", config)


def test_saved_dataset__has_its_splits(tmp_path: Path) -> None:
    splits = {"train": SAVED.select(range(4)), "test": SAVED.select(range(4, 6))}
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    source = open_source("s", SourceConfig(files=[str(tmp_path / "saved")], captions={"ko": "ko"}, split="test"))
    assert [source[index].key for index in range(len(source))] == ["key4", "key5"]
