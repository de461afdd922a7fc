"""A setting of seconds, and its caption lengths."""

from collections.abc import Callable
from typing import Any

import pytest

from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.setting import ModelName, StepSetting


@pytest.fixture
def tiny_setting() -> Callable[..., StepSetting]:
    def build(**options: Any) -> StepSetting:
        return StepSetting(**{"model": ModelName.tiny, "batch": 4} | options)

    return build


@pytest.fixture
def lengths() -> CaptionLengths:
    return CaptionLengths(name="cc3m_like", description="two lengths", shares={4: 0.5, 9: 0.25, 12: 0.25})
