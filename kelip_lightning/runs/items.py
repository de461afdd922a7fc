"""items.parquet: the outcome of every evaluated item of a run, one row per task and item."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from kelip_lightning.errors import RunFolderError
from kelip_lightning.evaluation.tasks import TaskItems

_EVALUATION = b"evaluation"


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredItems:
    """One task of a file; N items."""

    outcomes: NDArray[np.int64] | NDArray[np.float64]
    """(N,). int64: rank of the correct answer, 0 is best. float64: the item's own metric."""
    groups: NDArray[np.int64]
    """(N,): items with the same correct answer share a number."""
    texts: list[str]
    """N captions or class names."""


def write_items(file: Path, tasks: Sequence[TaskItems], evaluation: str) -> None:
    """Write the file, atomically.

    Args:
        file: `items.parquet` of a run.
        tasks: Every task.
        evaluation: Fingerprint of the evaluation sets, kept in the file.
    """
    columns = {
        "task": pa.array([one.task for one in tasks for _ in one.texts]).dictionary_encode(),
        "rank": _outcomes(tasks, pa.int64()),
        "value": _outcomes(tasks, pa.float64()),
        "group": np.concatenate([one.groups.numpy() for one in tasks] or [np.empty(0, np.int64)]),
        "text": pa.array([text for one in tasks for text in one.texts], pa.string()),
    }
    table = pa.table(columns).replace_schema_metadata({_EVALUATION: evaluation.encode()})
    partial = file.with_name(f"{file.name}.partial")
    pq.write_table(table, partial, compression="zstd")
    partial.replace(file)


def _outcomes(tasks: Sequence[TaskItems], kind: pa.DataType) -> pa.ChunkedArray:
    """The outcomes of this type, nulls for the items of tasks with another."""
    parts = [
        pa.array(values, kind) if pa.from_numpy_dtype(values.dtype) == kind else pa.nulls(len(values), kind)
        for values in (one.outcomes.numpy() for one in tasks)
    ]
    return pa.chunked_array(parts, kind)


def read_items(file: Path) -> dict[str, StoredItems]:
    """Task -> its items, tasks and items in the order in which they were written.

    Raises:
        RunFolderError: The file is missing or damaged.
    """
    try:
        table = pq.read_table(file)
        tasks = np.array(table["task"].cast(pa.string()).to_pylist(), dtype=object)
        ranks, values, groups = (table[name].to_numpy() for name in ("rank", "value", "group"))
    except (OSError, pa.ArrowException, KeyError) as error:
        raise RunFolderError(f"{file} cannot be read ({error}); remove it to have it computed again") from error
    texts = np.array(table["text"].to_pylist(), dtype=object)
    found = {}
    for task in dict.fromkeys(tasks):
        here = tasks == task
        outcomes = values[here] if np.isnan(ranks[here]).any() else ranks[here].astype(np.int64)
        found[str(task)] = StoredItems(outcomes=outcomes, groups=groups[here], texts=list(texts[here]))
    return found


def evaluation_of(file: Path) -> str | None:
    """The fingerprint of a file's evaluation sets; `None`: it is missing or damaged."""
    try:
        metadata = pq.read_schema(file).metadata or {}
    except (OSError, pa.ArrowException):
        return None
    value = metadata.get(_EVALUATION)
    return value.decode() if value is not None else None
