"""Which files of a set are absent."""

from pathlib import Path

from data_modules.benchmarks.config import Layout, TableConfig, TextTableConfig
from data_modules.benchmarks.layouts.availability import missing_files


def test_missing_files__of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").touch()
    (tmp_path / "images").mkdir()
    table = TableConfig(
        files=["a.parquet", "b-*.parquet", "{a,c}.parquet"],
        texts={"ko": TextTableConfig(files=["ko.json"], captions="caption")},
        image_folder="images",
    )
    absent = [str(tmp_path / name) for name in ("b-*.parquet", "c.parquet", "ko.json", "classes.yaml")]
    assert missing_files(table, str(tmp_path), "classes.yaml") == absent
    assert missing_files(TableConfig(files=["a.parquet"]), str(tmp_path)) == []
    assert missing_files(TableConfig(files=["a.parquet"]), str(tmp_path), "package:assets/classes/mnist.yaml") == []


def test_missing_files__urls_and_names_on_the_hub_count_as_present(tmp_path: Path) -> None:
    assert missing_files(TableConfig(files=["s3://bucket/{0..3}.tar"]), str(tmp_path)) == []
    assert missing_files(TableConfig(files=["organisation/name"]), str(tmp_path)) == []
    folder = TableConfig(files=["organisation/name"], layout=Layout.clip_benchmark)
    assert missing_files(folder, str(tmp_path)) == [str(tmp_path / "organisation/name")]
