"""Metrics of the global batch on one process; `tests/distributed` has those of several."""

import math

import torch

from kelip_lightning.distributed.gather import global_ratios


def test_global_ratios__of_one_process_are_its_own() -> None:
    loss, correct, pairs = torch.tensor(0.1), torch.tensor(2), torch.tensor(3)
    found = global_ratios([loss, correct, torch.tensor([7.0])], [1.0, pairs, 2])
    assert found == [loss.item(), 2 / 3, 3.5], "exact: the mean of one is that one"


def test_global_ratios__nothing_to_divide_by_is_no_number() -> None:
    found = global_ratios([torch.tensor(0), torch.tensor(math.nan)], [torch.tensor(0), 1.0])
    assert all(math.isnan(one) for one in found)
