"""The cases of growth: what they train, and what is counted."""

from collections.abc import Callable

import pytest
import torch

from kelip_lightning.benchmarks.step import growth
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.growth import (
    Case,
    growth_cases,
    make_image_batches,
    masked_experiment_of,
    measure_growth,
    prepare_case,
    run_growth,
)
from kelip_lightning.benchmarks.step.setting import StepSetting
from kelip_lightning.planning.flops import count_flops

Setting = Callable[..., StepSetting]


def _cases(setting: StepSetting) -> dict[str, Case]:
    return {one.name: one for one in growth_cases(setting)}


def test_growth_cases__batches_depth_masking_and_crops(tiny_setting: Setting) -> None:
    cases = _cases(tiny_setting())
    assert list(cases) == [
        "batch 4", "batch 8", "batch 16", "batch 32", "depth x 2", "MAE, 1 patch", "MAE, 75%", "2 + 0 crops",
        "2 + 4 crops",
    ]  # fmt: skip
    references = {name: one.reference for name, one in cases.items() if one.reference}
    assert references == {
        "batch 8": "batch 4", "batch 16": "batch 4", "batch 32": "batch 4", "depth x 2": "batch 4",
        "MAE, 75%": "MAE, 1 patch", "2 + 4 crops": "2 + 0 crops",
    }  # fmt: skip
    assert {name: one.setting.batch for name, one in cases.items()}["batch 32"] == 32
    assert cases["depth x 2"].setting.depth_factor == 2
    assert (cases["2 + 4 crops"].setting.global_crops, cases["2 + 4 crops"].setting.local_crops) == (2, 4)
    assert cases["MAE, 75%"].tolerance == 0.15


def test_masked_experiment_of__encodes_the_patches_that_are_not_masked(tiny_setting: Setting) -> None:
    """16 patches and the class token."""
    setting = tiny_setting()
    for ratio, tokens in ((1 / 16, 16), (0.75, 5)):
        passes = count_flops(masked_experiment_of(setting, ratio, 3)).passes
        assert [one.tokens for one in passes if one.name == "visible patches"] == [tokens]


def test_prepare_case__counts_as_the_plan_does(tiny_setting: Setting, lengths: CaptionLengths) -> None:
    cases = _cases(tiny_setting())
    masked = cases["MAE, 75%"]
    _, _, batches, flops = prepare_case(masked, lengths, 0, 2)
    planned = count_flops(masked_experiment_of(masked.setting, 0.75, 2)).training
    assert flops == [16 * planned] * len(batches)
    _, _, _, plain = prepare_case(cases["batch 4"], lengths, 0, 2)
    _, _, _, doubled = prepare_case(cases["depth x 2"], lengths, 0, 2)
    # The last block computes one token alone, so twice the depth is more than twice the blocks.
    assert all(1.8 < two / one < 3 for one, two in zip(plain, doubled, strict=True))


def test_make_image_batches__are_a_function_of_the_seed(tiny_setting: Setting) -> None:
    first, again, other = (make_image_batches(tiny_setting(), seed) for seed in (0, 0, 1))
    assert torch.equal(first[0].noise, again[0].noise) and torch.equal(first[0].images, again[0].images)
    assert not torch.equal(first[0].noise, other[0].noise)
    assert first[0].images.shape == (4, 3, 32, 32) and first[0].images.dtype == torch.uint8
    assert first[0].noise.shape == (4, 16)


def test_measure_growth__trains_every_case_in_a_rotated_order(tiny_setting: Setting, lengths: CaptionLengths) -> None:
    every = _cases(tiny_setting())
    cases = [every[name] for name in ("batch 4", "MAE, 1 patch", "2 + 4 crops")]
    found = measure_growth(cases, lengths, number=1, warmup=1, steps=2)
    assert found.order == ["MAE, 1 patch", "2 + 4 crops", "batch 4"]
    assert found.seconds.keys() == found.flops.keys() == {one.name for one in cases}
    assert min(found.seconds.values()) > 0
    assert found.flops["2 + 4 crops"] > 1.5 * found.flops["batch 4"]


def test_run_growth__one_process_and_one_line_each(
    tiny_setting: Setting, lengths: CaptionLengths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growth, "in_fresh_process", lambda _, work, *arguments: work(*arguments))
    lines: list[str] = []
    cases = growth_cases(tiny_setting())[:1]
    done = run_growth(cases, lengths, rounds=2, warmup=1, steps=1, progress=lines.append)
    assert [one.number for one in done] == [0, 1]
    assert len(lines) == 2 and "batch 4: " in lines[0]
