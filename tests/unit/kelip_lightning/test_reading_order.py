"""The README's reading list is a walk along imports; docs/architecture.md has the folders and layers that exist."""

from pathlib import Path

import pytest

from tests.lint.reading_order import (
    contract_layers,
    direct_imports,
    drawn_folders,
    folder_problems,
    layer_problems,
    reading_list,
    walk_problems,
)
from tests.paths import ROOT

FIRST, LAST = "data_modules/sources/tar_source.py", "kelip_lightning/losses/contrastive.py"

README = """# Name
1. `not/this.py`
## Read the code
In this order:

1. `a/first.py`: reads
2. [`a/second.py`](a/second.py) passes on
10. `b/last.py`

Then `a/other.py`.
## Licence
2. `nor/this.py`
"""
ARCHITECTURE = """# Architecture
```
experiments/      YAML
├─ models/        sizes
a/                from disk to batch
├─ one/           first
│  └─ inner/      inside
└─ two/           second
b/
└─ five/
```
## Dependencies
```
cli
one two three
base
```
## More
"""
SETUP = """[importlinter:contract:other]
containers = b
layers =
    x

[importlinter:contract:layers]
containers = a
layers =
    (__main__)
    cli
    one | two | three
    base
"""


def make_modules(root: Path) -> list[str]:
    """Four modules: `second` imports `first`, `hub` imports `second` and `last`; returns a walk."""
    sources = {
        "a/first.py": "import json\n",
        "a/second.py": "from a.first import value\n",
        "b/hub.py": "def later():\n    from a import second\n    import b.last\n",
        "b/last.py": "from elsewhere import name\nfrom . import hub\n",
    }
    for name, source in sources.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(source, encoding="utf-8")
    return list(sources)


def test_reading_list__is_the_section_s_numbered_list() -> None:
    assert reading_list(README) == ["a/first.py", "a/second.py", "b/last.py"]


def test_direct_imports__of_modules_and_names_at_any_depth(tmp_path: Path) -> None:
    found = [direct_imports(tmp_path / file, tmp_path) for file in make_modules(tmp_path)]
    assert found == [set(), {"a/first.py"}, {"a/second.py", "b/last.py"}, set()]


def test_walk_problems(tmp_path: Path) -> None:
    first, second, hub, last = make_modules(tmp_path)
    assert not list(walk_problems([first, second, hub, last], tmp_path, first, last))
    # The hub joins the two that it imports, wherever it is in the list.
    assert not list(walk_problems([first, second, last, hub], tmp_path, first, hub))
    for files, problem in (
        ([first, second, last], "a/second.py and b/last.py"),
        ([first, "a/gone.py", last], "a/gone.py"),
        ([second, hub, last], "not from a/first.py"),
        ([first, second] * 5 + [hub, last], "limit is 10"),
        ([], "no file"),
    ):
        (found,) = walk_problems(files, tmp_path, first, last)
        assert problem in found


def test_folder_problems(tmp_path: Path) -> None:
    assert drawn_folders(ARCHITECTURE, "a") == {"one", "one/inner", "two"}
    for name in ("one", "one/inner", "two"):
        (tmp_path / "a" / name).mkdir(parents=True)
        (tmp_path / "a" / name / "module.py").touch()
    (tmp_path / "a" / "without_python").mkdir()
    (tmp_path / "a" / "top.py").touch()
    assert not list(folder_problems(ARCHITECTURE, tmp_path, "a"))
    (tmp_path / "a" / "two").rename(tmp_path / "a" / "three")
    (found,) = folder_problems(ARCHITECTURE, tmp_path, "a")
    assert found == "a: not drawn: ['three']; drawn, but no Python: ['two']"


def test_layer_problems() -> None:
    assert contract_layers(SETUP, "a") == [{"cli"}, {"one", "two", "three"}, {"base"}]
    assert not list(layer_problems(ARCHITECTURE, SETUP, "a"))
    for changed in (ARCHITECTURE.replace("one two", "one\ntwo"), ARCHITECTURE.replace("three\nbase", "three"), ""):
        assert list(layer_problems(changed, SETUP, "a"))
    assert list(layer_problems("", "", "a"))


def test_readme__is_a_walk_from_a_tar_member_to_the_loss() -> None:
    files = reading_list((ROOT / "README.md").read_text(encoding="utf-8"))
    assert not list(walk_problems(files, ROOT, FIRST, LAST))


@pytest.mark.parametrize("package", ["kelip_lightning", "data_modules"])
def test_architecture__draws_the_folders(package: str) -> None:
    assert not list(folder_problems((ROOT / "docs" / "architecture.md").read_text(encoding="utf-8"), ROOT, package))


def test_architecture__names_the_layers_of_the_contract() -> None:
    architecture, setup = ((ROOT / name).read_text(encoding="utf-8") for name in ("docs/architecture.md", "setup.cfg"))
    assert not list(layer_problems(architecture, setup, "kelip_lightning"))
