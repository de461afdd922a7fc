"""The test of word pairs: its statistic against NumPy, its level without a difference, its power with one."""

import numpy as np
import pytest
import torch

from kelip_lightning.analyses.divergence import (
    TAIL_DEGREES,
    DivergenceTest,
    cosine,
    divergence_test,
    divergences,
    mixed_differences,
    score_profiles,
    score_space,
)
from kelip_lightning.statistics.multiplicity import holm

WIDTH, NUM_CONTROLS, NUM_TESTED = 12, 40, 30
GALLERY = torch.from_numpy(np.random.default_rng(99).normal(size=(60, WIDTH)))


def simulated(
    seed: int, extra: float = 0.0, num_different: int = 0, heavy: bool = False
) -> tuple[DivergenceTest, np.ndarray]:
    """Pairs with one language offset and a common noise; the first `num_different` differ by `extra` more."""
    generator = np.random.default_rng(seed)
    meaning = generator.normal(size=(NUM_CONTROLS + NUM_TESTED, WIDTH))
    draw = generator.standard_t(5, meaning.shape) if heavy else generator.normal(size=meaning.shape)
    ko, en = meaning + 0.4 * draw + 3.0, meaning
    ko[:num_different] += extra * generator.normal(size=(num_different, WIDTH))
    control = np.arange(len(meaning)) >= NUM_TESTED
    return divergence_test(ko, en, GALLERY, control, seed, num_draws=1999), control


def claimed(test: DivergenceTest, control: np.ndarray) -> np.ndarray:
    """Which of the tested pairs differ by the rule."""
    adjusted = np.array(holm(test.p_value[~control].tolist()), dtype=float)
    claims: np.ndarray = (adjusted <= 0.05) & (test.rank_p_value[~control] <= 0.05)
    return claims


def test_divergences__are_the_correlations_of_scores_without_the_languages_means() -> None:
    generator = np.random.default_rng(1)
    ko, en = generator.normal(size=(5, WIDTH)) + 2.0, 7 * generator.normal(size=(5, WIDTH))
    scores = [(one - one.mean(axis=0)) @ GALLERY.numpy().T for one in (ko, en)]
    expected = [1 - np.corrcoef(first, second)[0, 1] for first, second in zip(*scores, strict=True)]
    assert divergences(score_profiles(ko, en, GALLERY)) == pytest.approx(expected)


def test_score_profiles__have_one_scale_whatever_the_models() -> None:
    generator = np.random.default_rng(2)
    ko, en = generator.normal(size=(2, 5, WIDTH))
    first, second = score_profiles(ko, en, GALLERY)
    assert sum(float(np.sum((one - one.mean(axis=0)) ** 2)) for one in (first, second)) == pytest.approx(2 * 5)
    scaled = score_profiles(100 * ko, 100 * en, GALLERY / 7)
    assert scaled[0] == pytest.approx(first) and scaled[1] == pytest.approx(second)


def test_divergence__is_the_correlation_of_scores_over_the_gallery() -> None:
    generator = np.random.default_rng(0)
    first, second = generator.normal(size=(5, WIDTH)), generator.normal(size=(5, WIDTH))
    spread = score_space(GALLERY.numpy())
    expected = [np.corrcoef(GALLERY.numpy() @ a, GALLERY.numpy() @ b)[0, 1] for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(cosine(first @ spread, second @ spread), expected, atol=1e-12)


def test_divergence__a_gallery_without_spread_correlates_with_nothing() -> None:
    spread = score_space(np.ones((6, 3)))
    assert cosine(np.ones((1, 3)) @ spread, np.ones((1, 3)) @ spread).tolist() == [0.0]


@pytest.mark.parametrize("heavy", [False, True])
def test_divergence_test__no_difference_is_called_one_in_at_most_5_percent_of_studies(heavy: bool) -> None:
    false_studies, p_values = 0, []
    for seed in range(60):
        test, control = simulated(seed, heavy=heavy)
        claims = claimed(test, control)
        false_studies += bool(claims.any())
        p_values.append(test.rank_p_value[~control])
    assert false_studies <= 0.05 * 60
    assert np.mean(np.concatenate(p_values) <= 0.05) < 0.07


def test_divergence_test__finds_the_pairs_that_differ() -> None:
    found, others = 0, 0
    for seed in range(20):
        test, control = simulated(seed, extra=3.0, num_different=5)
        claims = claimed(test, control)
        found += int(claims[:5].sum())
        others += int(claims[5:].sum())
    assert found >= 80  # of 100
    assert others <= 5  # of 500


def test_divergence_test__the_offset_between_languages_is_no_difference() -> None:
    generator = np.random.default_rng(1)
    ko = generator.normal(size=(50, WIDTH))
    control = np.arange(50) >= 10
    en = ko + 0.3 * generator.normal(size=ko.shape)
    plain = divergence_test(ko, en, GALLERY, control, 0, 999)
    moved = divergence_test(ko + 7.0, en, GALLERY, control, 0, 999)
    np.testing.assert_allclose(moved.divergence, plain.divergence, atol=1e-9)
    np.testing.assert_array_equal(moved.p_value, plain.p_value)


def test_mixed_differences__have_the_variance_of_a_new_pairs_difference() -> None:
    rows = np.random.default_rng(2).normal(size=(10, 4))
    rows -= rows.mean(axis=0)
    samples = mixed_differences(rows, 200_000, np.random.default_rng(3))
    np.testing.assert_allclose(samples.mean(axis=0), 0.0, atol=0.02)
    # The variance of one more draw less the mean of ten, 11/10 of the estimate with n - 1; that of a t, n / (n - 2).
    expected = rows.var(axis=0, ddof=1) * 11 / 10 * TAIL_DEGREES / (TAIL_DEGREES - 2)
    np.testing.assert_allclose(samples.var(axis=0), expected, rtol=0.03)
