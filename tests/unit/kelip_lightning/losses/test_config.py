"""Settings of the contrastive loss: values that are refused."""

import pytest

from kelip_lightning.losses.config import ContrastiveLossConfig


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"local_weight": -1.0}, r"local_weight = -1\.0 must be at least 0"),
        ({"max_logits_per_pair": 0}, "max_logits_per_pair = 0 must be"),
    ],
)
def test_contrastive_loss_config__bad_values(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ContrastiveLossConfig(**options)
