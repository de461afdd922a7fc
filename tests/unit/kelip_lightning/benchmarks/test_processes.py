"""Work in fresh processes."""

import os
import subprocess

import pytest
import torch

from kelip_lightning.benchmarks.processes import in_fresh_process, in_ranks
from kelip_lightning.errors import BenchmarkError


def test_in_fresh_process__result_of_another_process() -> None:
    assert in_fresh_process(None, os.getpid) != os.getpid()


def test_in_fresh_process__sets_the_threads_there_alone() -> None:
    here = torch.get_num_threads()
    assert in_fresh_process(3, torch.get_num_threads) == 3
    assert torch.get_num_threads() == here


def test_in_fresh_process__raises_the_error_of_the_work() -> None:
    with pytest.raises(ValueError, match="invalid literal"):
        in_fresh_process(None, int, "ten")


def test_in_fresh_process__says_that_the_process_died() -> None:
    with pytest.raises(BenchmarkError, match=r"died.*smaller sizes"):
        in_fresh_process(None, os._exit, 1)


def test_in_ranks__each_process_knows_its_rank_and_the_world() -> None:
    printed = in_ranks(2, subprocess.check_output, ["env"], text=True)
    found = [dict(line.partition("=")[::2] for line in one.splitlines()) for one in printed]
    assert [one["RANK"] for one in found] == ["0", "1"]
    assert {one["WORLD_SIZE"] for one in found} == {"2"}
    assert len({one["MASTER_PORT"] for one in found}) == 1
    assert "MASTER_PORT" not in os.environ
