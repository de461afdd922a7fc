"""Damage to the corpus is named, with the remedy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_modules.emoji.verify import CORPUS_FOLDER, main, verify_corpus


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for path in [*CORPUS_FOLDER.glob("*.parquet"), CORPUS_FOLDER / "manifest.json"]:
        shutil.copy(path, tmp_path)
    return tmp_path


def _flip(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def test_verify_corpus__shipped_files_are_sound(capsys: pytest.CaptureFixture[str]) -> None:
    verify_corpus()
    assert main([]) == 0
    assert "complete and undamaged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "damage", "fault"),
    [
        ("noto.parquet", None, "is missing"),
        ("fluent.parquet", lambda content: content[:-100], "bytes instead of"),
        ("twemoji.parquet", _flip, "is damaged"),
        ("manifest.json", None, "is missing"),
        ("manifest.json", lambda _: b"{", "is not valid JSON"),
        ("manifest.json", lambda _: b"{}", "lists no files"),
    ],
)
def test_main__damaged_file(
    copy: Path, capsys: pytest.CaptureFixture[str], name: str, damage: Callable[[bytes], bytes] | None, fault: str
) -> None:
    file = copy / name
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage(file.read_bytes()))
    assert main([str(copy)]) == 1
    message = capsys.readouterr().err
    assert name in message
    assert fault in message
    assert f"git checkout -- data_modules/emoji/{name}" in message
    assert "make emoji-corpus" in message
    assert message.count("\n") == 1
