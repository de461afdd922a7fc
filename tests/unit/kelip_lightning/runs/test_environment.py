"""What is recorded about the machine, also where git is missing."""

import json
import subprocess
from pathlib import Path

import pytest

from kelip_lightning.runs.environment import CODE, code_digest, describe_environment, describe_revision


def test_describe_environment__is_json_and_names_versions() -> None:
    described = json.loads(json.dumps(describe_environment()))
    assert described["packages"]["torch"]
    assert described["torch_threads"] >= 1
    assert set(described["git"]) == {"revision", "dirty"}
    assert described["code"] == code_digest()


def test_describe_revision__clone_with_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "a")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "a@b.c")
    (tmp_path / "file").write_text("1", encoding="utf-8")
    for command in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    clean = describe_revision(tmp_path)
    assert clean["dirty"] is False
    assert len(clean["revision"]) == 40
    (tmp_path / "file").write_text("2", encoding="utf-8")
    assert describe_revision(tmp_path) == {**clean, "dirty": True}


def test_describe_revision__outside_a_clone_and_without_git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unknown = {"revision": None, "dirty": None}
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert describe_revision(tmp_path) == unknown
    monkeypatch.setenv("PATH", str(tmp_path))
    assert describe_revision(Path(__file__).parent) == unknown


def test_code_digest__of_code_and_templates_wherever_they_lie(tmp_path: Path) -> None:
    def digest() -> str:
        code_digest.cache_clear()
        return code_digest(tuple(tmp_path / folder.name for folder in CODE))

    for folder in CODE:
        (tmp_path / folder.name).mkdir()
    (tmp_path / "data_modules" / "a.py").write_text("1", encoding="utf-8")
    first = digest()
    (tmp_path / "data_modules" / "image.png").write_bytes(b"x")
    (tmp_path / "data_modules" / "__pycache__").mkdir()
    (tmp_path / "data_modules" / "__pycache__" / "a.pyc").write_bytes(b"x")
    (tmp_path / "notes.py").touch()
    assert digest() == first
    (tmp_path / "data_modules" / "a.py").write_text("2", encoding="utf-8")
    assert digest() != first
    (tmp_path / "data_modules" / "a.py").write_text("1", encoding="utf-8")
    assert digest() == first
    (tmp_path / "data_modules" / "a.py").rename(tmp_path / "data_modules" / "b.py")
    assert digest() != first
    assert (CODE[1] / "records.py").is_file()
