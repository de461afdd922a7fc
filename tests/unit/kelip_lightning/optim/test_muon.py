"""Muon on many matrices against timm's, against the formula in NumPy, and on several processes against one."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.optim import Muon
from timm.optim import muon as of_timm
from torch import Tensor, nn
from torch.optim import Optimizer

from kelip_lightning.optim import muon
from kelip_lightning.optim.muon import QUINTIC, BatchedMuon
from tests.distributed.launch import launch

SHAPES = [*[(16, 16)] * 5, *[(16, 48)] * 4, (48, 16), (24, 8)]
ADAMW_SHAPES = [(3, 16), (16, 3), (1, 40), (4, 600), (600, 4), (16,), (1,)]
"""What timm leaves to AdamW: a side below 4, one more than 128 times as long as the other, and vectors."""
CONVOLUTION = (8, 4, 2, 2)
"""timm's to orthogonalise, one by one."""
COMMON: dict[str, Any] = {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-6}
STEPS = 4
ROUNDING = 2**-7
"""Of a change, relative: it is bfloat16, and products of many matrices may round in another order than those of one."""


def make_groups(dtype: torch.dtype = torch.float32) -> list[dict[str, Any]]:
    """Matrices with two rates and decays, what is no matrix among them, and a group that AdamW has by request."""
    generator = torch.Generator().manual_seed(1)
    shapes = [*SHAPES, *ADAMW_SHAPES, CONVOLUTION, (16, 16), (16,)]
    every = [nn.Parameter((0.1 * torch.randn(shape, generator=generator)).to(dtype)) for shape in shapes]
    return [
        {"params": every[:6], "lr": 0.02, "weight_decay": 0.1, "use_fallback": False},
        {"params": every[6:-2], "lr": 0.01, "weight_decay": 0.0, "use_fallback": False},
        {"params": every[-2:], "lr": 0.02, "weight_decay": 0.1, "use_fallback": True},
    ]


def timms_muon(groups: list[dict[str, Any]]) -> Muon:
    """With the settings of `BatchedMuon`."""
    return Muon(groups, **COMMON, nesterov=True, ns_coefficients="quintic", adjust_lr_fn="match_rms_adamw")


def values_of(optimizer: Optimizer) -> list[Tensor]:
    return [one for group in optimizer.param_groups for one in group["params"]]


def gradients_of(optimizer: Optimizer, step: int) -> list[Tensor | None]:
    """Those of a step; a matrix and a vector have none in the first two."""
    generator = torch.Generator().manual_seed(100 + step)
    gradients = [torch.randn(one.shape, generator=generator).to(one.dtype) for one in values_of(optimizer)]
    return [None if one.shape in {(24, 8), (1,)} and step < 2 else one for one in gradients]


def take_steps(optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        for one, gradient in zip(values_of(optimizer), gradients_of(optimizer, step), strict=True):
            one.grad = gradient
        optimizer.step()


def assert_equal_changes(found: list[Tensor], expected: list[Tensor], before: list[Tensor], bound: float) -> None:
    """Differences at most `bound` of what changed, and of the last place of the parameters' dtype."""
    for one, other, start in zip(found, expected, before, strict=True):
        change = (other - start).double().norm()
        last_place = torch.finfo(one.dtype).eps * other.double().norm()
        assert (one.double() - other.double()).norm() <= bound * change + last_place, tuple(one.shape)


@pytest.fixture
def with_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Products in bfloat16, as timm's, on every processor."""
    monkeypatch.setattr(muon, "_dtype_of_products", lambda _: torch.bfloat16)


@pytest.mark.usefixtures("with_bfloat16")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_step__equals_timms_step_by_step(dtype: torch.dtype) -> None:
    ours, theirs = BatchedMuon(make_groups(dtype), **COMMON), timms_muon(make_groups(dtype))
    start = copy.deepcopy(values_of(theirs))
    for step in range(STEPS):
        for optimizer in (ours, theirs):
            take_steps(optimizer, range(step, step + 1))
        assert_equal_changes(values_of(ours), values_of(theirs), start, ROUNDING)
        for one, other in zip(values_of(ours), values_of(theirs), strict=True):
            assert ours.state[one].keys() == theirs.state[other].keys()
            assert all(
                torch.equal(torch.as_tensor(value), torch.as_tensor(theirs.state[other][key]))
                for key, value in ours.state[one].items()
            )
    assert [(one != other).any().item() for one, other in zip(values_of(ours), start, strict=True)] == [True] * len(
        start
    )


def test_step__leaves_the_gradients_as_they_are() -> None:
    """Callbacks log their norms after the step."""
    optimizer = BatchedMuon(make_groups(), **COMMON)
    take_steps(optimizer, range(2))
    for one, gradient in zip(values_of(optimizer), gradients_of(optimizer, 1), strict=True):
        assert (one.grad is None) == (gradient is None)
        assert gradient is None or torch.equal(one.grad, gradient)


def test_step__returns_the_loss_of_a_closure() -> None:
    weight = nn.Parameter(torch.eye(4))
    optimizer = BatchedMuon([weight], **COMMON)

    def closure() -> float:
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4
    assert weight.diagonal().max() < 1


def numpy_changes(gradients: list[np.ndarray], rate: float) -> np.ndarray:
    """The sum of the changes of a matrix without weight decay, in float64.

    Momentum 0.95 of Nesterov; X <- a X + (b A + c A A) X with A = X X', from X of norm 1; scaled to AdamW's updates.
    """
    moment, total = np.zeros_like(gradients[0]), np.zeros_like(gradients[0])
    for gradient in gradients:
        moment = 0.95 * moment + 0.05 * gradient
        update = 0.05 * gradient + 0.95 * moment
        update = update / np.linalg.norm(update)
        for a, b, c in QUINTIC:
            square = update @ update.T
            update = a * update + (b * square + c * square @ square) @ update
        total -= rate * 0.2 * max(update.shape) ** 0.5 * update
    return total


@pytest.mark.parametrize(("has_bfloat16", "bound"), [(True, 2**-5), (False, 1e-5)])
@pytest.mark.parametrize("shape", [(16, 16), (16, 48), (48, 16)])
def test_step__equals_the_formula(
    shape: tuple[int, int], has_bfloat16: bool, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The iterations in bfloat16 add up; a processor that would emulate it computes in float32."""
    monkeypatch.setattr(muon, "has_bfloat16", lambda: has_bfloat16)
    monkeypatch.setattr(muon, "_dtype_of_products", muon._dtype_of_products.__wrapped__)
    weights = [nn.Parameter(torch.randn(shape)) for _ in range(3)]
    start = copy.deepcopy(weights)
    optimizer = BatchedMuon([{"params": weights, "weight_decay": 0.0, "use_fallback": False}], **COMMON)
    gradients = torch.randn(3, STEPS, *shape)
    for step in range(STEPS):
        for weight, gradient in zip(weights, gradients[:, step], strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
    for weight, before, own in zip(weights, start, gradients.double().numpy(), strict=True):
        change = (weight - before).detach().double().numpy()
        expected = numpy_changes(list(own), 0.02)
        assert np.linalg.norm(change - expected) < bound * np.linalg.norm(expected)


@pytest.mark.usefixtures("with_bfloat16")
@pytest.mark.parametrize("from_timm", [True, False])
def test_state_dict__is_timms(from_timm: bool) -> None:
    """A run goes on with either from the state of the other."""
    first, second = make_groups(), make_groups()
    before: Optimizer = timms_muon(first) if from_timm else BatchedMuon(first, **COMMON)
    take_steps(before, range(3))
    for one, other in zip(values_of(before), [one for group in second for one in group["params"]], strict=True):
        other.data.copy_(one)
    after: Optimizer = BatchedMuon(second, **COMMON) if from_timm else timms_muon(second)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    start = copy.deepcopy(values_of(before))
    for optimizer in (before, after):
        take_steps(optimizer, range(3, 3 + STEPS))
    assert_equal_changes(values_of(after), values_of(before), start, ROUNDING)
    theirs = before.state_dict()
    assert after.state_dict()["param_groups"] == theirs["param_groups"]
    assert after.state_dict()["state"].keys() == theirs["state"].keys()


def test_quintic__is_timms_preset() -> None:
    assert list(QUINTIC) == of_timm._COEFFICIENTS["quintic"]
    assert len(QUINTIC) == of_timm.DEFAULT_NS_STEPS


@given(rows=st.integers(1, 1100), columns=st.integers(1, 9), wide=st.booleans())
def test_is_matrix__what_timm_finds_suitable(rows: int, columns: int, wide: bool) -> None:
    parameter = torch.empty((columns, rows) if wide else (rows, columns), device="meta")
    assert muon._is_matrix(parameter) == of_timm._is_suitable_for_muon(parameter)


def _work(rank: int, _world: int, folder: Path) -> None:
    """Steps on one of several processes, and how many matrices of each shape it orthogonalised."""
    torch.distributed.init_process_group("gloo")
    optimizer, numbers = BatchedMuon(make_groups(), **COMMON), Counter[tuple[int, ...]]()

    def count(updates_KMN: Tensor, *arguments: Any, **options: Any) -> Tensor:
        if updates_KMN.ndim == 3:
            numbers[tuple(updates_KMN.shape[1:])] += len(updates_KMN)
        return of_timm.zeropower_via_newtonschulz(updates_KMN, *arguments, **options)

    with patch.object(muon, "zeropower_via_newtonschulz", count):
        take_steps(optimizer, range(STEPS))
    torch.save((values_of(optimizer), dict(numbers)), folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.parametrize("world", [2, 3])
def test_processes__share_the_work_and_equal_one(world: int, tmp_path: Path) -> None:
    """Bit for bit among one another; one process multiplies other numbers of matrices at once, which may round."""
    launch(_work, world, tmp_path)
    alone = BatchedMuon(make_groups(), **COMMON)
    start = copy.deepcopy(values_of(alone))
    take_steps(alone, range(STEPS))
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(world)]
    for values, _ in ranks:
        for one, other in zip(values, ranks[0][0], strict=True):
            assert torch.equal(one, other)
    assert_equal_changes(ranks[0][0], values_of(alone), start, ROUNDING)
    total = sum((Counter(numbers) for _, numbers in ranks), Counter())
    # The groups have five of 16 x 16 and one, three of 16 x 48; a matrix alone is orthogonalised by every rank.
    assert total[16, 16] == 5 * STEPS
    assert total[16, 48] == (world + 3) * STEPS
    assert total[48, 16] == world * STEPS
    assert total[24, 8] == world * (STEPS - 2)
    assert max(numbers.get((16, 16), 0) for _, numbers in ranks) == -(-5 // world) * STEPS
