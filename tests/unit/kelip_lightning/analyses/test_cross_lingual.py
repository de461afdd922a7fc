"""Ranks and similarities against NumPy, and embeddings whose answer is known."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kelip_lightning.analyses.cross_lingual import CONTROL, caption_findings, caption_similarity, gap_findings
from kelip_lightning.statistics.bootstrap import Bootstrap

BOOTSTRAP = Bootstrap(num_resamples=200)


def unit_rows(number: int, width: int, seed: int) -> Tensor:
    return F.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(seed)), dim=-1)


def test_caption_similarity__agrees_with_numpy() -> None:
    ko, en = unit_rows(30, 8, 0), unit_rows(30, 8, 1)
    outcome = caption_similarity({"ko": ko, "en": en})
    cosines = ko.double().numpy() @ en.double().numpy().T
    matched = np.diag(cosines)
    others = (cosines.sum(0) + cosines.sum(1) - 2 * matched) / (2 * 29)
    np.testing.assert_allclose(outcome.matched, matched, atol=1e-7)
    np.testing.assert_allclose(outcome.random, others, atol=1e-7)
    np.testing.assert_array_equal(outcome.ranks["ko_to_en"], (cosines > matched[:, None]).sum(1))
    np.testing.assert_array_equal(outcome.ranks["en_to_ko"], (cosines > matched[None, :]).sum(0))


def test_caption_similarity__an_offset_hides_the_meaning_until_it_is_removed() -> None:
    meaning = unit_rows(200, 16, 2)
    offset = 5.0 * unit_rows(1, 16, 3)
    features = {"ko": F.normalize(meaning + offset, dim=-1), "en": F.normalize(meaning, dim=-1)}
    plain, centred = caption_similarity(features), caption_similarity(features, centred=True)
    assert (plain.matched - plain.random).mean() < 0.3
    assert (centred.matched - centred.random).mean() > 0.9
    assert centred.random.mean().abs() < 0.01


def test_caption_similarity__only_an_offset_is_no_meaning() -> None:
    offset = 5.0 * unit_rows(1, 16, 3)
    features = {
        language: F.normalize(unit_rows(300, 16, seed) + offset, dim=-1) for language, seed in (("ko", 4), ("en", 5))
    }
    centred = caption_similarity(features, centred=True)
    assert caption_similarity(features).matched.mean() > 0.9  # without any shared meaning
    assert (centred.matched - centred.random).mean().abs() < 0.05


def test_caption_findings__model_control_and_paired_difference() -> None:
    meaning, noise = unit_rows(100, 16, 6), 0.05 * unit_rows(100, 16, 7)
    captions = {"ko": [f"가{i}" for i in range(100)], "en": [f"a{i}" for i in range(100)]}
    model = {"ko": meaning, "en": F.normalize(meaning + noise, dim=-1)}
    control = {"ko": unit_rows(100, 16, 8), "en": unit_rows(100, 16, 9)}
    found = caption_findings("names", captions, model, control, BOOTSTRAP)
    metrics = {(one.subject, one.measure): one for one in found.summary}
    whole = metrics["names", "ko_to_en_R@1"]
    assert whole.interval.value == 1.0
    assert whole.chance == 0.01
    assert metrics[f"names, {CONTROL}", "ko_to_en_R@1"].interval.value < 0.1
    difference = metrics["names, model − control", "ko_to_en_R@1"]
    assert difference.interval.low > 0.8
    assert difference.chance is None
    assert len(found.items) == 100
    assert found.items[3]["ko"] == "가3"
    assert found.items[3]["rank_ko_to_en"] == 0
    assert all("more than its untrained control" in statement for statement in found.statements)


def test_caption_findings__a_model_no_better_than_its_control_is_not_said_to_be() -> None:
    captions = {"ko": ["가"] * 80, "en": ["a"] * 80}
    features = {"ko": unit_rows(80, 16, 10), "en": unit_rows(80, 16, 11)}
    found = caption_findings("names", captions, features, features, BOOTSTRAP)
    assert all("not measurably more than" in statement for statement in found.statements)


def test_gap_findings__distance_between_means() -> None:
    ko = F.normalize(torch.tensor([[1.0, 0.1], [1.0, -0.1]]).repeat(50, 1), dim=-1)
    images = F.normalize(torch.tensor([[0.1, 1.0], [-0.1, 1.0]]).repeat(50, 1), dim=-1)
    found = {one.measure: one.interval for one in gap_findings("m", {"ko": ko, "en": ko}, images, BOOTSTRAP)}
    assert found["gap ko–en"].value == 0.0
    assert found["gap ko–image"].value == pytest.approx(np.sqrt(2 / 1.01), abs=1e-3)
    assert found["gap en–image"] == found["gap ko–image"]
    assert len(gap_findings("m", {"ko": ko, "en": ko}, None, BOOTSTRAP)) == 1


def test_caption_similarity__what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="row by row alike"):
        caption_similarity({"ko": unit_rows(3, 4, 0), "en": unit_rows(2, 4, 0)})
    with pytest.raises(ValueError, match="at least two captions"):
        caption_similarity({"ko": unit_rows(1, 4, 0), "en": unit_rows(1, 4, 0)})
