from pathlib import Path
from textwrap import indent

import pytest

from tests.lint import code_shape


def _function(name: str, num_lines: int) -> str:
    return f"def {name}():\n" + "    pass\n" * (num_lines - 1)


def test_a_file_inside_the_limits_has_no_breach(tmp_path: Path) -> None:
    path = tmp_path / "patches.py"
    path.write_text(_function("short", code_shape.MAX_FUNCTION_LINES))
    assert list(code_shape.breaches(path)) == []


def test_a_function_one_line_too_long_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "patches.py"
    path.write_text("class Model:\n" + indent(_function("long", 61), "    "))
    (sentence,) = code_shape.breaches(path)
    assert sentence == f"{path}:2: long has 61 lines, the limit is 60"


def test_a_long_file_is_a_breach(tmp_path: Path) -> None:
    path = tmp_path / "patches.py"
    path.write_text("x = 1\n" * (code_shape.MAX_FILE_LINES + 1))
    (sentence,) = code_shape.breaches(path)
    assert "301 lines" in sentence


@pytest.mark.parametrize("name", ["utils.py", "helpers/read.py"])
def test_a_name_that_says_nothing_is_a_breach(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    (sentence,) = code_shape.breaches(path)
    assert "says nothing" in sentence


def test_exit_status(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert code_shape.main([str(tmp_path)]) == 1, "a folder without Python files is a mistyped path"
    (tmp_path / "patches.py").touch()
    assert code_shape.main([str(tmp_path)]) == 0
    (tmp_path / "misc.py").touch()
    assert code_shape.main([str(tmp_path)]) == 1
    assert "Code shape: 2 files, 1 breach." in capsys.readouterr().out
