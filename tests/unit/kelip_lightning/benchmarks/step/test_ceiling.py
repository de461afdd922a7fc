"""The ceiling, and the counted operations of a step."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from kelip_lightning.benchmarks.step import ceiling
from kelip_lightning.benchmarks.step.batches import make_batches, random_tokens
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.ceiling import count_step, product_rates, product_shapes
from kelip_lightning.benchmarks.step.setting import StepSetting, architecture_of, experiment_of
from kelip_lightning.benchmarks.step.trainer_steps import build_module
from kelip_lightning.planning.flops import count_flops

Setting = Callable[..., StepSetting]


def test_product_shapes__are_those_of_the_image_blocks(tiny_setting: Setting) -> None:
    """Batch 4, 16 patches and the class token, width 32."""
    assert product_shapes(tiny_setting(global_crops=2, local_crops=3)) == {
        "image qkv": (4 * 2 * 17, 32, 96),
        "image MLP, first": (4 * 2 * 17, 32, 128),
        "image MLP, second": (4 * 2 * 17, 128, 32),
        "square": (2048, 2048, 2048),
    }


def test_product_rates__two_operations_per_multiply_add(tiny_setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "SQUARE", 8)
    monkeypatch.setattr(ceiling, "_median_seconds", lambda work, _: 0.5 if work().ndim == 2 else 1 / 0)
    rates = product_rates(tiny_setting())
    assert rates["square"] == 2 * 8**3 / 0.5
    assert rates["image qkv"] == 2 * 4 * 17 * 32 * 96 / 0.5


def test_product_rates__are_measured(tiny_setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceiling, "SQUARE", 64)
    monkeypatch.setattr(ceiling, "MIN_SECONDS", 0.001)
    rates = product_rates(tiny_setting(precision="bf16-mixed"))
    assert all(1e6 < rate < 1e16 for rate in rates.values())


@pytest.mark.parametrize("crops", [(1, 0), (2, 3)])
def test_count_step__is_the_plan_s_count_for_captions_of_one_length(
    tiny_setting: Setting, lengths: CaptionLengths, crops: tuple[int, int]
) -> None:
    setting = tiny_setting(global_crops=crops[0], local_crops=crops[1])
    sizes, model = architecture_of(setting), build_module(setting, 1).model
    batch = make_batches(setting, lengths, 0)[0]
    generator, widths = np.random.default_rng(0), (11, 20)
    batches = [
        replace(batch, tokens=random_tokens(np.full(setting.batch, width), sizes, generator)) for width in widths
    ]
    for width, found in zip(widths, count_step(setting, model, batches), strict=True):
        experiment = experiment_of(setting, 1)
        experiment.tokenizer.context_length = width
        planned = count_flops(experiment)
        assert found == setting.batch * (planned.training + planned.loss_training)
