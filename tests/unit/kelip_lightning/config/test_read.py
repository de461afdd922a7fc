"""YAML files, `extends`, and overrides as text."""

from pathlib import Path

import pytest

from kelip_lightning.config.read import merge, parse_override, read_experiment_file, to_yaml
from kelip_lightning.errors import ConfigError


def write(folder: Path, **files: str) -> Path:
    """Write NAME.yaml files; returns the first."""
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return folder / f"{next(iter(files))}.yaml"


def problem_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_experiment_file(path)
    assert len(caught.value.problems) == 1
    return caught.value.problems[0]


def test_read_experiment_file__extends_in_a_chain_and_in_a_section(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        top="extends: middle.yaml\na: 3\nstage:\n  extends: stage.yaml\n  x: 2\n",
        middle="extends: bottom.yaml\nb: 2\n",
        bottom="a: 1\nb: 1\nc: {d: 1, e: 1}\n",
        stage="x: 1\ny: [1, 2]\n",
    )
    tree, inherited = read_experiment_file(file)
    assert tree == {"a": 3, "b": 2, "c": {"d": 1, "e": 1}, "stage": {"x": 2, "y": [1, 2]}}
    assert inherited == {"a": 1, "b": 2, "c": {"d": 1, "e": 1}, "stage": {"x": 1, "y": [1, 2]}}


def test_read_experiment_file__circle(tmp_path: Path) -> None:
    file = write(tmp_path, one="extends: two.yaml\n", two="extends: one.yaml\n")
    assert "circle (one.yaml -> two.yaml -> one.yaml)" in problem_of(file)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\na: 2\n", "line 2: found duplicate key"),
        ("a: [1, 2\nb: 3\n", "line 2"),
        ("- 1\n- 2\n", "must hold a mapping"),
        ("a: ${nowhere}\n", "nowhere"),
        ("extends: [x]\n", "must be the path of one YAML file"),
        ("extends: bade.yaml\n", "does not exist; did you mean"),
    ],
)
def test_read_experiment_file__names_file_and_place(tmp_path: Path, text: str, expected: str) -> None:
    file = write(tmp_path, bad=text)
    problem = problem_of(file)
    assert problem.startswith(str(file))
    assert expected in problem
    assert "\n" not in problem


def test_read_experiment_file__missing_file_with_similar_name(tmp_path: Path) -> None:
    write(tmp_path, pretrain="a: 1\n")
    assert f"did you mean {tmp_path / 'pretrain.yaml'}?" in problem_of(tmp_path / "pretran.yaml")
    assert "is a folder" in problem_of(tmp_path)


@pytest.mark.parametrize(
    ("text", "keys", "value"),
    [
        ("seed=1", ["seed"], 1),
        ("a.b=3e-4", ["a", "b"], 3e-4),
        ("a=null", ["a"], None),
        ("a=[x, 사과]", ["a"], ["x", "사과"]),
        ("a={b: true}", ["a"], {"b": True}),
        ("file=a=b.yaml", ["file"], "a=b.yaml"),
    ],
)
def test_parse_override(text: str, keys: list[str], value: object) -> None:
    assert parse_override(text) == (keys, value)


@pytest.mark.parametrize("text", ["seed", "=1", "a..b=1", "a[0]=1", "a=[1", "--seed=1 "[2:-1].replace("=", " ")])
def test_parse_override__malformed(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_override(text)


def test_merge__replaces_lists_and_leaves_its_arguments_alone() -> None:
    base = {"a": {"b": 1, "c": [1, 2]}, "d": None}
    merged = merge(base, {"a": {"c": [3]}, "d": {"e": 1}})
    assert merged == {"a": {"b": 1, "c": [3]}, "d": {"e": 1}}
    assert base == {"a": {"b": 1, "c": [1, 2]}, "d": None}


def test_to_yaml__strings_that_look_like_numbers_come_back_as_strings(tmp_path: Path) -> None:
    tree = {"a": "1e3", "b": "007", "c": "true", "d": "사과", "e": 1e-5, "f": None, "g": ["1", 1]}
    file = write(tmp_path, one=to_yaml(tree))
    assert read_experiment_file(file)[0] == tree
