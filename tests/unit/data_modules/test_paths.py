"""Configured paths: `package:`, the home folder, patterns."""

from pathlib import Path

import pytest

import data_modules
from data_modules.errors import DataError
from data_modules.paths import resolve_files, resolve_path

PACKAGE = Path(data_modules.__path__[0]).resolve()


def test_resolve_path__package_prefix() -> None:
    assert resolve_path("package:assets/emoji_captions.yaml") == PACKAGE / "assets" / "emoji_captions.yaml"


def test_resolve_path__plain_and_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_path("a/b.yaml") == Path("a/b.yaml")
    assert resolve_path("~/b.yaml") == tmp_path / "b.yaml"


def test_resolve_files__patterns_in_order_matches_sorted(tmp_path: Path) -> None:
    for name in ("b2", "b1", "a1"):
        (tmp_path / f"{name}.parquet").touch()
    found = resolve_files([f"{tmp_path}/b*.parquet", f"{tmp_path}/a1.parquet"])
    assert [file.name for file in found] == ["b1.parquet", "b2.parquet", "a1.parquet"]


def test_resolve_files__none_matches() -> None:
    with pytest.raises(DataError, match=r"no file matches 'nowhere/\*\.parquet'; check the path"):
        resolve_files(["nowhere/*.parquet"])


def test_resolve_files__missing_corpus_file_says_how_to_restore_it() -> None:
    with pytest.raises(DataError, match="git checkout -- data_modules/emoji"):
        resolve_files(["package:emoji/none.parquet"])


def test_resolve_files__a_path_with_brackets_is_a_file(tmp_path: Path) -> None:
    folder = tmp_path / "run [1]"
    folder.mkdir()
    (folder / "a.parquet").touch()
    assert resolve_files([str(folder / "a.parquet")]) == [folder / "a.parquet"]
