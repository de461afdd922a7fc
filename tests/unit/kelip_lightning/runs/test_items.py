"""items.parquet: written and read, with the fingerprint of its evaluation sets."""

from pathlib import Path

import numpy as np
import pytest
import torch

from kelip_lightning.errors import RunFolderError
from kelip_lightning.evaluation.suite import TaskItems
from kelip_lightning.runs.items import evaluation_of, read_items, write_items

TASKS = [
    TaskItems(task="eval/b/x", outcomes=torch.tensor([3, 0]), groups=torch.tensor([1, 1]), texts=["사과", "apple"]),
    TaskItems(task="eval/a/y", outcomes=torch.tensor([7]), groups=torch.tensor([0]), texts=["배, 나무"]),
    TaskItems(
        task="eval/c/matched_minus_random",
        outcomes=torch.tensor([-0.25, 1.5, 0.0], dtype=torch.float64),
        groups=torch.arange(3),
        texts=["하나", "둘", "셋"],
    ),
]


def test_items__round_trip_in_order(tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    write_items(file, TASKS, "abc")
    found = read_items(file)
    assert list(found) == ["eval/b/x", "eval/a/y", "eval/c/matched_minus_random"]
    for task in TASKS:
        assert np.array_equal(found[task.task].outcomes, task.outcomes.numpy())
        assert found[task.task].outcomes.dtype == task.outcomes.numpy().dtype
        assert np.array_equal(found[task.task].groups, task.groups.numpy())
        assert found[task.task].texts == task.texts
    assert evaluation_of(file) == "abc"
    assert [one.name for one in tmp_path.iterdir()] == ["items.parquet"]


def test_items__no_task_at_all(tmp_path: Path) -> None:
    write_items(tmp_path / "items.parquet", [], "abc")
    assert read_items(tmp_path / "items.parquet") == {}


def test_items__missing_and_damaged_files(tmp_path: Path) -> None:
    file = tmp_path / "items.parquet"
    assert evaluation_of(file) is None
    write_items(file, TASKS, "abc")
    file.write_bytes(file.read_bytes()[:-20])
    assert evaluation_of(file) is None
    with pytest.raises(RunFolderError, match=r"items\.parquet cannot be read"):
        read_items(file)
