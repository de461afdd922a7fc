"""The peak of the process's memory."""

import sys

import numpy as np
import pytest
import torch

from kelip_lightning.benchmarks.peak_memory import PeakMemory

CPU = torch.device("cpu")
MEBIBYTES = 128

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the peak of a process")


def _touch(mebibytes: int) -> None:
    np.ones(mebibytes * 2**20, dtype=np.uint8)


def test_peak_memory__counts_what_was_in_use_for_a_moment() -> None:
    memory = PeakMemory(CPU)
    _touch(MEBIBYTES)
    found = memory.mebibytes()
    assert found is not None
    assert 0.95 * MEBIBYTES < found < 1.5 * MEBIBYTES


def test_peak_memory__does_not_count_earlier_peaks() -> None:
    _touch(4 * MEBIBYTES)
    memory = PeakMemory(CPU)
    _touch(MEBIBYTES)
    found = memory.mebibytes()
    assert found is not None
    assert found < 1.5 * MEBIBYTES


def test_peak_memory__is_unknown_where_it_cannot_be_reset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelip_lightning.benchmarks.peak_memory._reset_peak_of_process", lambda: False)
    assert PeakMemory(CPU).mebibytes() is None
