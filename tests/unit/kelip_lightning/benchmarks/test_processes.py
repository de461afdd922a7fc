"""Work in fresh processes."""

import os

import pytest
import torch

from kelip_lightning.benchmarks.processes import in_fresh_process
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
    with pytest.raises(BenchmarkError, match=r"died.*smaller --batch"):
        in_fresh_process(None, os._exit, 1)
