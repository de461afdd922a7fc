"""Choices whose right answers are known."""

import pytest
import torch
import torch.nn.functional as F

from kelip_lightning.analyses.image_choice import choice_findings
from kelip_lightning.statistics.bootstrap import Bootstrap

BOOTSTRAP = Bootstrap(num_resamples=200)


def test_choice_findings__accuracy_chance_and_items() -> None:
    images = torch.eye(4)
    # Right, right, wrong, right; the numbers of options differ.
    options = torch.cat([images[[0, 1, 2, 3]], images[[0, 1]], images[[2, 3]], images[[1, 3]]])
    found = choice_findings("quiz", images, options, [4, 2, 2, 2], [0, 1, 1, 1], BOOTSTRAP)
    (metric,) = found.summary
    assert metric.interval.value == 0.75
    assert metric.chance == pytest.approx((1 / 4 + 3 / 2) / 4)
    assert [item["right"] for item in found.items] == [True, True, False, True]
    assert [item["chosen"] for item in found.items] == [0, 1, 0, 1]
    assert "does not measurably beat guessing" in found.statements[0]


def test_choice_findings__a_right_model_beats_guessing_and_a_collapsed_one_gets_nothing() -> None:
    images = F.normalize(torch.randn(50, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    options = torch.stack([images, images.flip(0)], dim=1).flatten(0, 1)
    right = choice_findings("quiz", images, options, [2] * 50, [0] * 50, BOOTSTRAP)
    assert right.summary[0].interval.value == 1.0
    assert "beats guessing" in right.statements[0]
    collapsed = choice_findings("quiz", images, torch.ones(100, 16), [2] * 50, [0] * 50, BOOTSTRAP)
    assert collapsed.summary[0].interval.value == 0.0


def test_choice_findings__numbers_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="do not fit"):
        choice_findings("quiz", torch.eye(2), torch.eye(3), [2, 2], [0, 0], BOOTSTRAP)
