"""Differences of losses, and the losses that a fit gives."""

import math

import numpy as np
import pytest
import torch

from kelip_lightning.benchmarks.gpu_report.captions import relative_error
from kelip_lightning.benchmarks.gpu_report.steps import (
    contrastive_steps,
    float32_convolutions,
    largest_difference,
)
from kelip_lightning.benchmarks.gpu_report.sweep import is_out_of_memory
from kelip_lightning.benchmarks.step.batches import float_batch, make_batches
from kelip_lightning.benchmarks.step.captions import cc3m_like_lengths
from kelip_lightning.benchmarks.step.clock import StepClock
from kelip_lightning.benchmarks.step.peers import PLAIN, build_peer, entries_of, train
from kelip_lightning.benchmarks.step.setting import ModelName, StepSetting
from kelip_lightning.benchmarks.step.trainer_steps import build_module
from kelip_lightning.interchange.formats.key_map import to_theirs


def test_largest_difference__is_relative_and_infinite_with_a_nan() -> None:
    assert largest_difference([2.0, 3.0], [2.5, 3.0]) == pytest.approx(0.2)
    assert largest_difference([math.nan, 3.0], [2.5, 3.0]) == math.inf
    assert largest_difference([3.0, 3.0], [2.5, math.nan]) == math.inf


def test_relative_error__is_that_of_numpy() -> None:
    found, expected = torch.tensor([[1.0, 2.0], [3.0, 5.0]]), torch.tensor([[1.0, 2.5], [2.0, 5.0]])
    difference = np.linalg.norm(found.numpy() - expected.numpy()) / np.linalg.norm(expected.numpy())
    assert relative_error(found, expected) == pytest.approx(difference, rel=1e-6)
    assert math.isnan(relative_error(found * math.nan, expected))


def test_contrastive_steps__have_the_losses_of_a_plain_loop() -> None:
    setting = StepSetting(model=ModelName.tiny, batch=8)
    taken = contrastive_steps(setting, "auto", warmup=1, steps=3)
    assert len(taken.losses) == 4 and taken.seconds > 0
    module = build_module(setting, 4)
    peer = build_peer(PLAIN, setting, to_theirs(entries_of(setting), dict(module.model.state_dict())))
    losses: list[float] = []

    class Recorder(StepClock):
        def step_ended(self, loss: torch.Tensor) -> bool:
            losses.append(float(loss))
            return super().step_ended(loss)

    batches = [float_batch(one) for one in make_batches(setting, cc3m_like_lengths(), seed=0)]
    train(peer, setting, batches, Recorder(torch.device("cpu"), 1, 3))
    assert taken.losses == pytest.approx(losses, rel=1e-4)


def test_float32_convolutions__restores() -> None:
    before = torch.backends.cudnn.allow_tf32
    with float32_convolutions():
        assert torch.backends.cudnn.allow_tf32 is False
    assert torch.backends.cudnn.allow_tf32 is before


def test_is_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("cuBLAS error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"))
    assert not is_out_of_memory(RuntimeError("expected scalar type BFloat16"))
