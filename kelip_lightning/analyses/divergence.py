"""Test of whether two words of one meaning score images differently beyond the gap between their languages.

Shapes: P word pairs, C control pairs among them, M images of the gallery, E embedding width, D null samples.

A pair's statistic is its divergence 1 − r, with r the correlation over the gallery of the image scores under its Korean
and its English word. The offset between the languages is the same for all pairs: the mean row of each language over
the control pairs is subtracted first. r depends only on the covariance of the gallery (`score_space`), so the cost of
the test is independent of M.

Null hypothesis: the difference of the pair's two centred vectors is a sample of the control pairs' differences. Its
distribution: the pair's midpoint, plus and minus half a mixture of two random control differences,
cos(t) d_j + sin(t) d_k with t uniform, which keeps their lengths and directions and allows p-values below 1 / (C + 1),
the smallest from C control pairs alone, as the correction for many pairs requires. Mixing makes tails lighter, and few
pairs estimate the variance badly, so each sample is scaled as a t distribution is relative to a normal one
(`TAIL_DEGREES`).

A pair differs if its Holm-adjusted p-value is at most 5%, and so is its rank among the control pairs, which assumes
only exchangeability. As a check, each control pair is tested against the others, uncorrected: no more than about 5%
should have p <= 5%.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kelip_lightning.evaluation.embed import require_finite

Profiles = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Korean and English words as scores of the gallery, in the space of `score_space`."""
TAIL_DEGREES = 10
"""Degrees of freedom of the null's tails: low enough that for null differences with t(5) tails at most 5% of simulated
studies report a difference (see the unit test)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceTest:
    """Result per pair, each (P,) float64."""

    divergence: NDArray[np.float64]
    """1 − correlation of the two score profiles without the language offset; in [0, 2]."""
    p_value: NDArray[np.float64]
    """Share of null samples with at least this divergence."""
    rank_p_value: NDArray[np.float64]
    """Share of the control pairs, the pair itself included, with at least this divergence."""


def divergence_test(
    ko: NDArray[np.float64],
    en: NDArray[np.float64],
    gallery: Tensor,
    control: NDArray[np.bool_],
    seed: int,
    num_draws: int,
) -> DivergenceTest:
    """The test of the module docstring.

    Args:
        ko: (P, E) Korean words.
        en: (P, E) English words.
        gallery: (M, E) images.
        control: (P,) which pairs are control pairs.
        seed: Of the null samples; each pair has its own stream.
        num_draws: D.

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    return profile_test(score_profiles(ko, en, gallery), control, seed, num_draws)


def score_profiles(ko: NDArray[np.float64], en: NDArray[np.float64], gallery: Tensor) -> Profiles:
    """The words in the space of `score_space`, at a common scale: two (P, E), whose squares sum to P without offsets.

    Rows of several models side by side, (P, S E), are the scores of an ensemble in which each counts alike.

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    for rows, what in ((torch.from_numpy(ko), "ko word"), (torch.from_numpy(en), "en word"), (gallery, "image")):
        require_finite(rows, what)
    spread = score_space(gallery.double().numpy())
    first, second = ko @ spread, en @ spread
    squares = [np.sum((one - one.mean(axis=0)) ** 2) / len(one) for one in (first, second)]
    scale = float(np.mean(squares)) ** 0.5 or 1.0
    return first / scale, second / scale


def profile_test(profiles: Profiles, control: NDArray[np.bool_], seed: int, num_draws: int) -> DivergenceTest:
    """As `divergence_test`, of the profiles of one model or of several side by side."""
    profiles_ko, profiles_en = profiles
    outcomes = []
    for place in range(len(profiles_ko)):
        # A control pair is not among its own references, as any other pair.
        reference = control.copy()
        reference[place] = False
        generator = np.random.default_rng([seed, place])
        outcomes.append(_test_pair(profiles_ko, profiles_en, place, reference, num_draws, generator))
    divergence, p_value, rank_p_value = np.array(outcomes).T
    return DivergenceTest(divergence=divergence, p_value=p_value, rank_p_value=rank_p_value)


def _test_pair(
    ko: NDArray[np.float64],
    en: NDArray[np.float64],
    place: int,
    reference: NDArray[np.bool_],
    num_draws: int,
    generator: np.random.Generator,
) -> tuple[float, float, float]:
    """Divergence, p-value and p-value by rank of one pair; rows are in the space of `score_space`."""
    ko, en = ko - ko[reference].mean(axis=0), en - en[reference].mean(axis=0)
    difference = mixed_differences(ko[reference] - en[reference], num_draws, generator) / 2
    middle = (ko[place] + en[place]) / 2
    null = 1 - cosine(middle + difference, middle - difference)
    divergences = 1 - cosine(ko, en)
    own, others = divergences[place], divergences[reference]
    p_value = (1 + np.sum(null >= own)) / (1 + num_draws)
    rank_p_value = (1 + np.sum(others >= own)) / (1 + len(others))
    return float(own), float(p_value), float(rank_p_value)


def score_space(gallery: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix A (E, E) with A A' = covariance of the gallery's rows (M, E).

    The variance of the scores of all images under a vector v is |v A|^2, and the correlation of the scores under v and
    w is the cosine of v A and w A.
    """
    values, vectors = np.linalg.eigh(np.cov(gallery, rowvar=False))
    spread: NDArray[np.float64] = vectors * np.sqrt(np.maximum(values, 0.0))
    return spread


def cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) cosines of the rows of two (N, E) arrays; 0 where a row is zero (all images score alike)."""
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    joint = np.einsum("ne,ne->n", first, second)
    cosines: NDArray[np.float64] = np.divide(joint, lengths, out=np.zeros_like(joint), where=lengths > 0)
    return cosines


def mixed_differences(
    differences: NDArray[np.float64], num_draws: int, generator: np.random.Generator
) -> NDArray[np.float64]:
    """Samples (D, E) of s (cos(t) d_j + sin(t) d_k), rows j and k different, t uniform in [0, 2 pi).

    The rows (C, E) are differences minus their own mean, which reduces their variance; the tested pair is not part of
    that mean, which increases its variance. The factor sqrt((C + 1) / (C − 1)) of s corrects for both. The other
    factor is sqrt(n / chi-square(n)) with n = `TAIL_DEGREES`, one value per sample.
    """
    count = len(differences)
    first = generator.integers(0, count, size=num_draws)
    second = (first + generator.integers(1, count, size=num_draws)) % count
    angle = generator.uniform(0, 2 * np.pi, size=(num_draws, 1))  # includes both signs, which swap the languages
    mixed = np.cos(angle) * differences[first] + np.sin(angle) * differences[second]
    scale = np.sqrt(TAIL_DEGREES / generator.chisquare(TAIL_DEGREES, size=(num_draws, 1)))
    samples: NDArray[np.float64] = mixed * scale * np.sqrt((count + 1) / (count - 1))
    return samples


def divergences(profiles: Profiles) -> NDArray[np.float64]:
    """(P,) 1 − correlation of the two words' scores, the mean of each language subtracted, in [0, 2]."""
    ko, en = (one - one.mean(axis=0) for one in profiles)
    found: NDArray[np.float64] = 1 - cosine(ko, en)
    return found
