"""Writes docs/config.md from the section classes: `python -m kelip_lightning.config.document [FILE]`."""

import ast
import inspect
import itertools
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from data_modules.config_roles import counts_in_part, range_of, role_of, stated_role
from kelip_lightning.config.analysis import ANALYSES
from kelip_lightning.config.experiment import SCHEMAS
from kelip_lightning.config.schema import section_below, without_none

FILE = Path("docs/config.md")

HEAD = """\
# Configuration

All keys of an experiment file. Generated from the docstrings of the classes by
`python -m kelip_lightning.config.document`; do not edit.

An override on the command line sets one value by its dotted key: `schedule.max_steps=300`. In `kelip pretrain`,
a key that is not a field of `PretrainExperiment` applies to every stage that has it: `seed=1` sets `mae.seed` and
`contrastive.seed`. `mae=null` removes an optional section, `data.sources.NAME=null` an entry of an extended file.

The range of a number is checked when the file is loaded. The role of a key is one of:

- `identity`: determines the trained weights and is part of the fingerprint; a resumed run must not change it.
  `identity, in part`: only the part named in its description is.
- `performance`: speed, hardware and timeouts; the weights are equal up to rounding. A resumed run may change it.
- `reporting`: logging, evaluation and output; the weights do not depend on it. A resumed run may change it. The role
  of a section applies to all its keys; their own roles apply where the section is used alone, as in `kelip evaluate`.

`extends: other.yaml`, at the top of a file or in any section, starts from that file; mappings are merged,
lists and single values replaced. `package:` in a path is the installed `data_modules` folder.

A relative path of data (`files`, `image_root`, `image_folder`, `classes_file`, `templates_file`, `tokenizer.file`,
`index_folder`, `word_pairs`, `evaluation.data_folder`) is relative to the YAML file in which it stands, also where
another file extends that one; in an override on the command line, to the working directory. With an
`evaluation.data_folder`, the paths of evaluation sets are relative to that folder. `output_dir` and
`init.image_encoder`, folders of runs, are relative to the working directory. A name that is no file or folder beside
the YAML file is that of a dataset on the Hugging Face Hub. A run stores absolute paths; where all files of a setting
were moved to another folder under their names, it can be resumed with the new paths.
"""

TABLE_HEAD = ["| key | type | default | range | role | meaning |", "|---|---|---|---|---|---|"]


def main(arguments: list[str]) -> None:
    file = Path(arguments[0]) if arguments else FILE
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(config_page(), encoding="utf-8")


def config_page() -> str:
    """docs/config.md."""
    return "\n".join([HEAD, *(section_text(kind) for kind in sections_of((*SCHEMAS, *ANALYSES.values())))])


def sections_of(schemas: tuple[type[Any], ...]) -> list[type[Any]]:
    """The schemas and every section class below them, each once, parents first."""
    found = list(schemas)
    for kind in found:  # appended to below
        for hint in get_type_hints(kind).values():
            if (below := section_below(hint)) and below not in found:
                found.append(below)
    return found


def section_text(kind: type[Any]) -> str:
    """One class: its docstring and a table of its fields."""
    hints, meanings = get_type_hints(kind), attribute_docstrings(kind)
    lines = [f"## {kind.__name__}", "", *inspect.cleandoc(kind.__doc__ or "").splitlines(), ""]
    lines += [f"`{kind.__module__}`", "", *TABLE_HEAD]
    for field in fields(kind):
        meaning = " ".join(meanings[field.name].split())
        limits, hint = range_of(field), hints[field.name]
        numbers = limits.notation if limits else ""
        cells = [f"`{field.name}`", _type(hint), _default(field), numbers, _role(field, hint), meaning]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join([*lines, ""])


def attribute_docstrings(kind: type[Any]) -> dict[str, str]:
    """Field -> the string literal under it, in the class or the one that it inherits the field from.

    Raises:
        ValueError: A field has none.
    """
    found: dict[str, str] = {}
    for owner in reversed([one for one in kind.__mro__ if is_dataclass(one)]):
        tree = ast.parse(textwrap.dedent(inspect.getsource(owner))).body[0]
        assert isinstance(tree, ast.ClassDef)
        found |= dict(_documented(tree.body))
    missing = [field.name for field in fields(kind) if field.name not in found]
    if missing:
        raise ValueError(f"{kind.__name__}.{missing[0]} has no docstring under it")
    return found


def _documented(body: list[ast.stmt]) -> Iterator[tuple[str, str]]:
    for statement, below in itertools.pairwise(body):
        if not isinstance(statement, ast.AnnAssign) or not isinstance(statement.target, ast.Name):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            yield statement.target.id, str(below.value.value)


def _type(hint: Any) -> str:
    inner, optional = without_none(hint)
    return _plain_type(inner) + (" or null" if optional else "")


def _plain_type(hint: Any) -> str:
    if isinstance(hint, UnionType):
        return " or ".join(map(_plain_type, get_args(hint)))
    if get_origin(hint) is list:
        return f"list of {_plain_type(get_args(hint)[0])}"
    if get_origin(hint) is dict:
        return f"name → {_plain_type(get_args(hint)[1])}"
    if isinstance(hint, type) and is_dataclass(hint):
        return f"[{hint.__name__}](#{hint.__name__.lower()})"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return " | ".join(f"`{name}`" for name in hint.__members__)
    return f"`{hint.__name__}`"


def _role(field: "Field[Any]", hint: Any) -> str:
    if stated_role(field) is None and section_below(hint):
        return "per key"
    return role_of(field).value + (", in part" if counts_in_part(field) else "")


def _default(field: "Field[Any]") -> str:
    if field.default_factory is not MISSING:
        value = field.default_factory()
        return "its defaults" if is_dataclass(value) else f"`{value}`"
    if field.default is MISSING:
        return "**required**"
    value = field.default.name if isinstance(field.default, Enum) else field.default
    return "`null`" if value is None else f"`{str(value).lower() if isinstance(value, bool) else value}`"


if __name__ == "__main__":
    main(sys.argv[1:])
