"""The classes of labelled rows: from the cells of a column to the classes of a classes file."""

import difflib
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data_modules.benchmarks.sample_table import RowIds, SampleTable
from data_modules.errors import DataError
from data_modules.sources.tables import as_text

_MOST_NAMED = 5
_MISSPELT = 0.7
"""Least similarity, of `difflib`, of a name that may be meant: `faec` and `face` have 0.75, `hands` and `handles` 0.83,
`face-hand` and `face-concerned`, which are two classes, 0.61."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassLabels:
    """The classes of N rows."""

    numbers: NDArray[np.int64]
    """int64 (N,), places in the classes file; -1: the file does not name the class."""
    notes: list[str]
    """How labels were read, rows of unknown classes, and classes without rows, for the user."""


def class_labels(
    table: SampleTable, column: str, rows: RowIds, ids: Sequence[str], context: str, *, tells_numbers: bool = True
) -> ClassLabels:
    """The class of each row.

    Cells are ids of classes; or numbers that the table itself names (`datasets.ClassLabel`), if the ids are these
    names; or else numbers of classes in the order of the file, from 0, which a note tells.

    Args:
        table: The rows.
        column: Their labels.
        rows: The rows that are evaluated.
        ids: K ids, in the order of the classes file.
        context: Subject of messages.
        tells_numbers: Whether the note on numbers is needed; not where the layout defines them.

    Raises:
        DataError: No row has one of the classes.
    """
    cells = ["" if cell is None else as_text(cell).strip() for cell in table.cells(column, rows)]
    by_id: Mapping[str, int] = {one: number for number, one in enumerate(ids)}
    notes: list[str] = []
    if by_id.keys().isdisjoint(cells) and (names := table.label_names(column)):
        named = [names[int(cell)] if cell.isdecimal() and int(cell) < len(names) else cell for cell in cells]
        cells = cells if by_id.keys().isdisjoint(named) else named
    if by_id.keys().isdisjoint(cells):
        by_number = {str(number): number for number in range(len(ids))}
        if not by_number.keys().isdisjoint(cells):
            by_id = by_number
            shown = ", ".join(f"{number} is '{one}'" for number, one in enumerate(ids[:_MOST_NAMED]))
            more = ", ..." if len(ids) > _MOST_NAMED else ""
            numbered = f"{context}: '{column}' holds numbers, read in the order of the classes file: {shown}{more}"
            notes += [numbered] if tells_numbers else []
    numbers = np.array([by_id.get(cell, -1) for cell in cells], dtype=np.int64)
    unknown = Counter(cell for cell in cells if cell not in by_id)
    if not (numbers >= 0).any():
        raise DataError(
            f"{context}: no image has one of the {len(ids)} classes of the classes file: '{column}' holds "
            f"{_shown(unknown, ids)}; name the column of classes in label, or correct the ids of the classes file"
        )
    if unknown:
        notes.append(
            f"{context}: {unknown.total()} of {len(cells)} images are left out, as the classes file does not name "
            f"their class: {_shown(unknown, ids)}"
        )
    used = set(numbers.tolist())
    without = [one for number, one in enumerate(ids) if number not in used]
    if without:
        notes.append(
            f"{context}: {len(without)} of {len(ids)} classes have no image ({_listed(without, unknown)}); their "
            "recall does not count"
        )
    return ClassLabels(numbers=numbers, notes=notes)


def _shown(unknown: Counter[str], ids: Collection[str]) -> str:
    """The most frequent unknown labels, each with its number of images and the class that it may mean."""
    parts = []
    for label, count in unknown.most_common(_MOST_NAMED):
        close = _nearest(label, ids)
        parts.append(f"'{label}' ({count}{f'; did you mean {close!r}?' if close else ''})")
    return ", ".join(parts) + (", ..." if len(unknown) > _MOST_NAMED else "")


def _listed(without: Sequence[str], unknown: Collection[str]) -> str:
    """Classes, those first that resemble an unknown label, with that label."""
    close = {one: _nearest(one, unknown) for one in without}
    ordered = sorted(without, key=lambda one: close[one] is None)[:_MOST_NAMED]
    parts = [f"{one}, did you mean {close[one]!r}?" if close[one] else one for one in ordered]
    return ", ".join(parts) + (", ..." if len(without) > _MOST_NAMED else "")


def _nearest(name: str, known: Collection[str]) -> str | None:
    """The most similar name, whatever its case; `None`: none is similar."""
    by_folded = {one.casefold(): one for one in known}
    found = difflib.get_close_matches(name.casefold(), by_folded, n=1, cutoff=_MISSPELT)
    return by_folded[found[0]] if found else None
