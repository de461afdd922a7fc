"""Settings of checkpoints and of losses that are not finite: values that are refused."""

from typing import Any

import pytest

from kelip_lightning.callbacks.config import CheckpointConfig, NonFiniteConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"every_n_steps": 0}, "every_n_steps = 0 must be at least 1 or null"),
        ({"every_n_minutes": 0.0}, "every_n_minutes = 0.0 must be above 0 or null"),
        ({"keep_last": 0}, "keep_last = 0 must be at least 1"),
    ],
)
def test_checkpoint_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CheckpointConfig(**options)


def test_checkpoint_config__the_best_checkpoint_stays_beside_the_newest() -> None:
    assert CheckpointConfig(keep_last=3).num_kept == 3
    assert CheckpointConfig(keep_last=3, best_metric="eval/x_ko/image_to_text_R@1").num_kept == 4


def test_non_finite_config__a_negative_number() -> None:
    with pytest.raises(ValueError, match="max_skipped = -1"):
        NonFiniteConfig(max_skipped=-1)
