"""Configured paths: `package:`, the home folder, patterns, braces."""

from pathlib import Path

import pytest

import data_modules
from data_modules.errors import DataError
from data_modules.paths import in_folder, resolve_files, resolve_path


def test_resolve_path__package_home_and_plain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    package = Path(data_modules.__path__[0]).resolve()
    assert resolve_path("package:assets/emoji_captions.yaml") == package / "assets" / "emoji_captions.yaml"
    assert resolve_path("a/b.yaml") == Path("a/b.yaml")
    assert resolve_path("~/b.yaml") == tmp_path / "b.yaml"


def test_resolve_files__patterns_in_order_matches_sorted(tmp_path: Path) -> None:
    for name in ("b2", "b1", "a1"):
        (tmp_path / f"{name}.parquet").touch()
    for patterns in (["b*", "a1"], ["{b*,a1}"], ["b{1..2}", "a1"]):
        found = resolve_files([f"{tmp_path}/{pattern}.parquet" for pattern in patterns])
        assert [file.name for file in found] == ["b1.parquet", "b2.parquet", "a1.parquet"]


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("nowhere/*.parquet", r"no file matches 'nowhere/\*\.parquet'; check the path"),
        ("package:emoji/none.parquet", "git checkout -- data_modules/emoji"),
    ],
)
def test_resolve_files__none_matches(pattern: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        resolve_files([pattern])


def test_resolve_files__a_path_with_brackets_is_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "run [1]"
    folder.mkdir()
    (folder / "a.parquet").touch()
    assert resolve_files([str(folder / "a.parquet")]) == [folder / "a.parquet"]


@pytest.mark.parametrize(
    ("path", "folder", "expected"),
    [
        ("a/*.tar", "/data", "/data/a/*.tar"),
        ("a.tar", "s3://bucket/sets/", "s3://bucket/sets/a.tar"),
        ("a.tar", None, "a.tar"),
        ("/other/a.tar", "/data", "/other/a.tar"),
        ("~/a.tar", "/data", "~/a.tar"),
        ("package:emoji/noto.parquet", "/data", "package:emoji/noto.parquet"),
        ("s3://bucket/a.tar", "/data", "s3://bucket/a.tar"),
    ],
)
def test_in_folder__only_relative_paths_move(path: str, folder: str | None, expected: str) -> None:
    assert in_folder(path, folder) == expected
