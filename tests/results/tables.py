"""The result tables of the documents, rendered from the files of docs/results.

    python -m tests.results.tables    # writes the tables into the documents again

A table stands between `<!-- results: NAME -->` and `<!-- end of results -->`; docs/results/tables/NAME.md.jinja is its
template, all of whose numbers come from `tests.results.lookups`.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from tests.paths import ROOT
from tests.results.lookups import FILTERS, FUNCTIONS, RESULTS

TEMPLATES = RESULTS / "tables"
DOCUMENTS = (
    ROOT / "README.md",
    RESULTS / "README.md",
    ROOT / "experiments" / "README.md",
    ROOT / "docs" / "ablations.md",
)
_BLOCK = re.compile(r"(?<=<!-- results: )(\w+)( -->\n)(.*?)(?=<!-- end of results -->)", re.DOTALL)
CODE_OR_LINK = re.compile(r"`[^`]*`|\]\([^)]*\)")
"""What may hold digits that are no results."""
NAMES = re.compile(r"R@\d+|top-\d+|95 %")
EXPRESSION = re.compile(r"\{[{%].*?[}%]\}", re.DOTALL)


def blocks_of(document: Path) -> Iterator[tuple[str, str]]:
    """Name and text of each table of a document."""
    for found in _BLOCK.finditer(document.read_text(encoding="utf-8")):
        yield found[1], found[3]


def render(name: str) -> str:
    """The text of a table.

    Raises:
        LookupError: A file of docs/results lacks a row or a column, or has the row twice.
    """
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.globals.update({function.__name__: function for function in FUNCTIONS})
    environment.filters.update(FILTERS)
    return environment.from_string((TEMPLATES / f"{name}.md.jinja").read_text(encoding="utf-8")).render()


def literal_digits(name: str) -> list[str]:
    """Numbers that a template states itself, outside names of metrics, code and links."""
    text = (TEMPLATES / f"{name}.md.jinja").read_text(encoding="utf-8")
    for pattern in (EXPRESSION, CODE_OR_LINK, NAMES):
        text = pattern.sub("", text)
    return re.findall(r"\S*\d\S*", text)


def write_all() -> None:
    """Render every table of every document."""
    for document in DOCUMENTS:
        text = document.read_text(encoding="utf-8")
        document.write_text(_BLOCK.sub(lambda found: f"{found[1]}{found[2]}{render(found[1])}", text), encoding="utf-8")


if __name__ == "__main__":
    write_all()
