"""The command `clip_benchmark`: `python -m tests.clip_benchmark_command eval ...`."""

from typing import Any

import numpy as np
from clip_benchmark import cli
from clip_benchmark.metrics import zeroshot_classification


def accept_arrays_of_one() -> None:
    """Let clip_benchmark 1.6.2 compute accuracies with NumPy 2.4, whose arrays of one element float() refuses.

    Its module gets a float() that accepts them; nothing else of it is touched, and nothing at all with an older NumPy.
    """
    try:
        float(np.zeros(1))  # type: ignore[arg-type]
    except TypeError:
        zeroshot_classification.float = _as_float


def _as_float(one: Any) -> float:
    return float(one.item() if isinstance(one, np.ndarray) else one)


if __name__ == "__main__":
    accept_arrays_of_one()
    cli.main()
