"""The simulated loader reads valid samples, at the requests that the run length gives."""

import argparse
import re
from typing import Any

import pytest

from kelip_lightning.benchmarks.store.simulation import simulate


def numbers(**options: Any) -> tuple[float, float]:
    defaults = {
        "gpus": 4, "batch": 64, "window": 0, "groups": 2, "shards": 200, "latency_ms": 1,
        "megabytes_per_second": 2000, "seconds": 1,
    }  # fmt: skip
    line = simulate(argparse.Namespace(**defaults | options))
    found = re.match(r"([\d,]+) samples/s, ([\d.]+) GETs and", line)
    assert found, line
    assert "2,000,000 in the source" in line
    return float(found[1].replace(",", "")), float(found[2])


@pytest.mark.parametrize("window", [0, 512])
def test_simulate(window: int) -> None:
    rate, gets = numbers(window=window)
    assert rate > 0
    assert (0.9 < gets < 1.6) if not window else gets < 0.9
