"""Whether two words of one meaning score images differently beyond the gap between their languages.

Shapes: P word pairs, C control pairs among them, M images of the gallery, E embedding width, D draws.

A pair is told by the scores of all images under its Korean and under its English word. Words of one language
share an offset from those of the other, which says nothing about a pair: the mean row of each language, taken
over the control pairs, is removed first. The divergence of a pair is 1 − r, with r the correlation of its two
score profiles over the gallery. It follows from the covariance of the gallery alone (`score_space`), so a
million images cost no more than a hundred.

The test asks whether a pair diverges more than the model's languages do anyway. The null hypothesis: the
difference of its two vectors, the offset removed, is a draw from the distribution of the control pairs'
differences. Its distribution: the pair's own midpoint with differences mixed out of two random control pairs,
cos(t) d_j + sin(t) d_k with t uniform, so that length and directions are theirs and there are enough distinct
draws to go below a corrected level, which C control pairs alone cannot (their smallest p-value is 1 / (C + 1)).
Mixing makes tails lighter, and so few pairs tell their own spread badly: each draw is therefore stretched as a t
distribution is over a normal one (`TAIL_DEGREES`). And a pair is only said to differ if two things hold: its
p-value, Holm-corrected over the pairs that are tested, is at most 5%, and so is its plain rank among the control
pairs, which assumes nothing but that they are exchangeable. Control pairs go through the same test, each against
the others, uncorrected: no more than about 5% of them should come out below 5%.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kelip_lightning.evaluation.embed import require_finite

TAIL_DEGREES = 10
"""Degrees of freedom of the null's tails: few enough that differences with tails as heavy as those of t(5), none of
them true, lead to a claim in at most 5% of simulated studies (the unit test of this file)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DivergenceTest:
    """Outcome per pair, each (P,) float64."""

    divergence: NDArray[np.float64]
    """1 − correlation of the two score profiles, the language offset removed; in [0, 2]."""
    p_value: NDArray[np.float64]
    """Share of null draws that diverge at least as much."""
    rank_p_value: NDArray[np.float64]
    """Share of the control pairs that diverge at least as much, the pair itself counted in."""


def divergence_test(
    ko: NDArray[np.float64],
    en: NDArray[np.float64],
    gallery: Tensor,
    control: NDArray[np.bool_],
    seed: int,
    num_draws: int,
) -> DivergenceTest:
    """The test described at the head of this file.

    Args:
        ko: (P, E) Korean words.
        en: (P, E) English words.
        gallery: (M, E) images.
        control: (P,) which pairs are control pairs.
        seed: Of the draws; each pair has its own stream.
        num_draws: D.

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    for rows, what in ((torch.from_numpy(ko), "ko word"), (torch.from_numpy(en), "en word"), (gallery, "image")):
        require_finite(rows, what)
    spread = score_space(gallery.double().numpy())
    profiles_ko, profiles_en = ko @ spread, en @ spread
    outcomes = []
    for place in range(len(ko)):
        # A control pair is not its own reference, so that it is treated as any other pair.
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
    drawn = 1 - cosine(middle + difference, middle - difference)
    divergences = 1 - cosine(ko, en)
    own, others = divergences[place], divergences[reference]
    p_value = (1 + np.sum(drawn >= own)) / (1 + num_draws)
    rank_p_value = (1 + np.sum(others >= own)) / (1 + len(others))
    return float(own), float(p_value), float(rank_p_value)


def score_space(gallery: NDArray[np.float64]) -> NDArray[np.float64]:
    """The matrix A (E, E) with A A' = the covariance of the gallery's rows (M, E).

    The scores of all images under a vector v have the variance |v A|^2, and the scores under two vectors
    correlate by the cosine of v A and w A.
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
    """Draws (D, E) of s (cos(t) d_j + sin(t) d_k), rows j and k different, t uniform in [0, 2 pi).

    The rows (C, E) are differences less their own mean, which shortens them, while the tested pair's is not
    part of that mean, which lengthens it: a factor sqrt((C + 1) / (C − 1)) makes both alike in variance. The rest
    of s is sqrt(n / chi-square(n)) with n = `TAIL_DEGREES`, one value per draw, as between a normal and a t.
    """
    count = len(differences)
    first = generator.integers(0, count, size=num_draws)
    second = (first + generator.integers(1, count, size=num_draws)) % count
    angle = generator.uniform(0, 2 * np.pi, size=(num_draws, 1))  # the signs of sine and cosine swap languages
    mixed = np.cos(angle) * differences[first] + np.sin(angle) * differences[second]
    stretch = np.sqrt(TAIL_DEGREES / generator.chisquare(TAIL_DEGREES, size=(num_draws, 1)))
    drawn: NDArray[np.float64] = mixed * stretch * np.sqrt((count + 1) / (count - 1))
    return drawn


def holm(p_values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Holm's corrected p-values: those at most x keep the chance of any false claim at most x.

    Reference: Holm 1979, A Simple Sequentially Rejective Multiple Test Procedure.
    """
    order = np.argsort(p_values, kind="stable")
    factors = np.arange(len(p_values), 0, -1)
    corrected = np.empty(len(p_values))
    corrected[order] = np.minimum(1.0, np.maximum.accumulate(factors * p_values[order]))
    return corrected
