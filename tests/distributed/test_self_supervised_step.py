"""A DDP step with a self-supervised loss on two processes changes the weights as one process does."""

import socket
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from tests.distributed.self_supervised_step import METHODS, step, work


@pytest.mark.distributed
def test_two_processes__change_weights_and_target_as_one_does(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(work, (port, str(tmp_path)), nprocs=2)
    for method in METHODS:
        expected = step(method, 0, 1)
        found, other = (torch.load(tmp_path / f"{method.name}-{rank}.pt", weights_only=True) for rank in (0, 1))
        for name in (one for one in expected if not one.startswith("before/")):
            assert torch.equal(found[name], other[name]), f"{name} differs between the ranks"
            before = expected[f"before/{name}"]
            assert torch.equal(before, found[f"before/{name}"])
            change = (expected[name] - before).norm()
            if name.endswith("k_proj.bias"):  # no gradient at all but for rounding
                continue
            assert change > 0, f"{name} of {method.name} never moved"
            # Weights are stored, so a small change is known to the rounding of the weight it is made to.
            rounding = 1e-6 * before.norm()
            assert (found[name] - expected[name]).norm() < 1e-4 * change + rounding, f"{name} of {method.name}"
