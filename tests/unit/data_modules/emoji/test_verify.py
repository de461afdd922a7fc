"""Damage to the corpus is named, with the remedy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_modules.emoji.verify import CORPUS_FOLDER, CorpusError, main, verify_corpus


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for path in [*CORPUS_FOLDER.glob("*.parquet"), CORPUS_FOLDER / "manifest.json"]:
        shutil.copy(path, tmp_path)
    return tmp_path


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def _spoil(path: Path) -> None:
    path.write_text("{", encoding="utf-8")


def _empty(path: Path) -> None:
    path.write_text("{}", encoding="utf-8")


def test_verify_corpus__shipped_files_are_sound(capsys: pytest.CaptureFixture[str]) -> None:
    verify_corpus()
    assert main([]) == 0
    assert "complete and undamaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "damage", "fault"),
    [
        ("noto.parquet", Path.unlink, "is missing"),
        ("fluent.parquet", _truncate, "bytes instead of"),
        ("twemoji.parquet", _flip, "is damaged"),
        ("manifest.json", Path.unlink, "is missing"),
        ("manifest.json", _spoil, "is not valid JSON"),
        ("manifest.json", _empty, "lists no files"),
    ],
)
def test_verify_corpus__damaged_file(copy: Path, name: str, damage: Callable[[Path], None], fault: str) -> None:
    damage(copy / name)
    with pytest.raises(CorpusError, match=fault) as caught:
        verify_corpus(copy)
    message = str(caught.value)
    assert name in message
    assert f"git checkout -- data_modules/emoji/{name}" in message
    assert "make emoji-corpus" in message
    assert "\n" not in message


def test_main__damaged_file(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _flip(copy / "noto.parquet")
    assert main([str(copy)]) == 1
    assert "noto.parquet" in capsys.readouterr().err
