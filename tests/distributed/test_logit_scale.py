"""The bound on the logit scale holds on two processes under every strategy, and lets the scale come back."""

import itertools
import math
import socket
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from tests.distributed.logit_scale import MAX_SCALE, OUTWARDS, work

SOME = (("deepspeed_stage_2", "bf16-mixed"), ("deepspeed_stage_3", "32-true"))
OTHERS = (
    ("ddp", "32-true"),
    ("ddp", "bf16-true"),
    ("deepspeed_stage_1", "32-true"),
    ("deepspeed_stage_3", "bf16-mixed"),
)


@pytest.mark.distributed
@pytest.mark.parametrize("ways", [SOME, pytest.param(OTHERS, marks=pytest.mark.slow)])
def test_two_processes__the_scale_stops_at_its_bound_and_comes_back(
    ways: tuple[tuple[str, str], ...], tmp_path: Path
) -> None:
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(work, (port, str(tmp_path), ways), nprocs=2)
    bound = math.log(MAX_SCALE)
    for strategy, precision in ways:
        way = f"{strategy}-{precision}"
        (used, masters), other = (torch.load(tmp_path / f"{way}-{rank}.pt", weights_only=True) for rank in (0, 1))
        assert (used, masters) == other, f"{way}: ranks differ"
        # A bfloat16 number has 8 bits. DeepSpeed's steps read one that is rounded from the float32 value below.
        rounded = 2**-8 * bound
        exact = strategy.startswith("deepspeed") or precision == "32-true"
        assert max(used) <= MAX_SCALE * math.exp(rounded if "bf16-mixed" in way else 1e-6), way
        assert max(masters) <= bound, way
        assert masters[OUTWARDS - 1] == pytest.approx(bound, abs=1e-6 if exact else rounded), way
        assert all(after < before for before, after in itertools.pairwise(masters[OUTWARDS - 1 :])), way
