"""The benchmark of parquet layouts, at a size that says nothing about speed."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from kelip_lightning.benchmarks import parquet


def test_layouts__hold_the_samples_of_the_shards(tmp_path: Path) -> None:
    images = [bytes([number]) * 2000 for number in range(120)]
    settings = {"caption_fields": ["txt"], "language": "en"}
    shards = open_source("all", SourceConfig(files=[parquet.write_tars(tmp_path, images)], **settings))
    expected = [(one.image, one.caption) for one in map(shards.__getitem__, range(len(shards)))]
    assert [image for image, _ in expected] == images
    groups = {}
    for number, (name, options) in enumerate(parquet.LAYOUTS.items()):
        place = tmp_path / str(number)
        place.mkdir()
        table = open_source("all", SourceConfig(files=[parquet.write_parquet(place, images, options)], **settings))
        assert [(one.image, one.caption) for one in map(table.__getitem__, range(len(table)))] == expected
        groups[name] = pq.read_metadata(place / "all.parquet").num_row_groups
    assert groups["row groups of 100, Snappy"] == 2


def test_main__prints_a_row_for_the_shards_and_each_layout(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "LAYOUTS", dict(list(parquet.LAYOUTS.items())[:1]))
    assert parquet.main(["--images", "64", "--repeats", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["tar shards of 500", "row groups of 100, Snappy"]
    assert lines[2].endswith("| 1.00 |")


@pytest.mark.parametrize("words", [["--images", "63"], ["--repeats", "0"]])
def test_main__refuses_sizes_that_measure_nothing(words: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        parquet.main(words)
