"""Whether a Korean and an English word of the same meaning call up different images.

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
Mixing makes tails lighter, so a pair is only said to differ if two things hold: its p-value, Holm-corrected over
the pairs that are tested, is at most 5%, and so is its plain rank among the control pairs, which assumes nothing
but that they are exchangeable. Control pairs go through the same test, each against the others, uncorrected: at
most about 5% of them should come out below 5%.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.errors import DataError
from data_modules.word_pairs import WordPair
from kelip_lightning.analyses.records import Finding, Findings, Item
from kelip_lightning.evaluation.bootstrap import Bootstrap

SIGNIFICANCE = 0.05
"""Level of the test, over all pairs that are tested."""

MIN_CONTROLS = 20
"""One more than this many: against fewer than 20 others, no control pair can rank among the first 5%."""

ALL_TOPICS = "all pairs"
CONTROLS = "control pairs"
DIFFERENCE = "all pairs − control pairs"


@dataclass(frozen=True, slots=True, kw_only=True)
class PairImages:
    """Gallery indices of the first k images of each pair, int64 (P, k), for figures."""

    ko: Tensor
    en: Tensor


def compare_words(
    pairs: Sequence[WordPair],
    ko: Tensor,
    en: Tensor,
    gallery: Tensor,
    bootstrap: Bootstrap,
    top: int = 10,
    num_draws: int = 9999,
) -> tuple[Findings, PairImages]:
    """Overlap, correlation and test of every pair, and their means by topic.

    Args:
        pairs: P word pairs, at least `MIN_CONTROLS` + 1 of them control pairs.
        ko: (P, E) unit rows of the Korean words.
        en: (P, E) unit rows of the English words.
        gallery: (M, E) unit rows of the images.
        bootstrap: Resampling of pairs, and the seed of the test's draws.
        top: The k of the overlap of the first k images; at most M.
        num_draws: Draws of the null distribution per pair; 1 / (num_draws + 1) is the smallest p-value.

    Raises:
        DataError: There are too few control pairs or images, as `check_enough` says.
    """
    control = np.array([pair.control for pair in pairs])
    check_enough(pairs, len(gallery), top)
    offset = en[torch.from_numpy(control)].mean(dim=0) - ko[torch.from_numpy(control)].mean(dim=0)
    overlap, correlation, images = _retrieved(ko, en, gallery, top)
    moved_overlap, _, _ = _retrieved(ko + offset, en, gallery, top)
    tests = divergence_test(ko.double().numpy(), en.double().numpy(), gallery, control, bootstrap.seed, num_draws)
    corrected = np.full(len(pairs), np.nan)
    corrected[~control] = holm(tests.p_value[~control])
    items: list[Item] = [
        {
            "topic": pair.topic,
            "ko": pair.ko,
            "en": pair.en,
            "control": pair.control,
            f"overlap_top{top}": float(overlap[place]),
            f"overlap_top{top}_offset_removed": float(moved_overlap[place]),
            "rank_correlation": float(correlation[place]),
            "divergence": float(tests.divergence[place]),
            "rank_among_controls_p": float(tests.rank_p_value[place]),
            "p": float(tests.p_value[place]),
            "p_holm": float(corrected[place]),
            "differs": bool(corrected[place] <= SIGNIFICANCE and tests.rank_p_value[place] <= SIGNIFICANCE),
        }
        for place, pair in enumerate(pairs)
    ]
    findings = Findings(summary=_summary(items, bootstrap, top), items=items, statements=_statements(items))
    return findings, images


def check_enough(pairs: Sequence[WordPair], num_images: int, top: int) -> None:
    """See to it that the comparison has what it needs.

    Raises:
        DataError: There are too few control pairs for the test, no other pair, or fewer than `top` images.
    """
    num_controls = sum(pair.control for pair in pairs)
    if num_controls <= MIN_CONTROLS or num_controls == len(pairs):
        raise DataError(
            f"word_pairs holds {num_controls} control pairs of {len(pairs)}; the test needs at least "
            f"{MIN_CONTROLS + 1}, and a pair to test: add some"
        )
    if num_images < top:
        raise DataError(f"top = {top} needs as many images, and the gallery has {num_images}; lower top")


def _retrieved(ko: Tensor, en: Tensor, gallery: Tensor, top: int) -> tuple[Tensor, Tensor, PairImages]:
    """(P,) share of common images among the first `top`, (P,) Spearman correlation over the gallery, and those images.

    The correlation is that of the vectors as they are: the order of images under one word does not change
    when all scores rise alike, but does when the offset between the languages tilts them.
    """
    overlaps, correlations, first = [], [], []
    for ko_row, en_row in zip(ko, en, strict=True):
        scores = torch.stack([gallery @ ko_row, gallery @ en_row])
        indices = scores.topk(top, dim=1).indices
        first.append(indices)
        overlaps.append(torch.isin(indices[0], indices[1]).double().mean())
        correlations.append(torch.corrcoef(average_ranks(scores))[0, 1])
    images = torch.stack(first)
    return torch.stack(overlaps), torch.stack(correlations), PairImages(ko=images[:, 0], en=images[:, 1])


def average_ranks(scores: Tensor) -> Tensor:
    """Ranks along the last dimension, from 1, ties at their average; float64."""
    ranks = torch.empty(scores.shape, dtype=torch.float64)
    for row, out in zip(scores, ranks, strict=True):
        _, inverse, counts = torch.unique(row, return_inverse=True, return_counts=True)
        last = counts.cumsum(0).double()
        out[:] = (last - (counts.double() - 1) / 2)[inverse]
    return ranks


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
    """
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
    """Draws (D, E) of cos(t) d_j + sin(t) d_k, rows j and k different, t uniform in [0, 2 pi).

    The rows (C, E) are differences less their own mean, which shortens them, while the tested pair's is not
    part of that mean, which lengthens it: sqrt((C + 1) / (C − 1)) makes both alike in variance.
    """
    count = len(differences)
    first = generator.integers(0, count, size=num_draws)
    second = (first + generator.integers(1, count, size=num_draws)) % count
    angle = generator.uniform(0, 2 * np.pi, size=(num_draws, 1))  # the signs of sine and cosine swap languages
    mixed = np.cos(angle) * differences[first] + np.sin(angle) * differences[second]
    drawn: NDArray[np.float64] = mixed * np.sqrt((count + 1) / (count - 1))
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


def _summary(items: list[Item], bootstrap: Bootstrap, top: int) -> list[Finding]:
    tested = [item for item in items if not item["control"]]
    groups = {ALL_TOPICS: tested, CONTROLS: [item for item in items if item["control"]]}
    groups |= {topic: [item for item in tested if item["topic"] == topic] for topic in _topics(tested)}
    headline = (f"overlap_top{top}", "divergence")
    found = []
    for measure in (f"overlap_top{top}", f"overlap_top{top}_offset_removed", "rank_correlation", "divergence"):
        values = {name: np.array([item[measure] for item in members]) for name, members in groups.items()}
        found += [
            Finding(
                subject=name,
                measure=measure,
                interval=bootstrap.mean(one),
                count=len(one),
                headline=measure in headline,
            )
            for name, one in values.items()
        ]
        found.append(
            Finding(
                subject=DIFFERENCE,
                measure=measure,
                interval=bootstrap.unpaired_difference(values[ALL_TOPICS], values[CONTROLS]),
                count=len(items),
                headline=measure in headline,
            )
        )
    return found


def _topics(items: list[Item]) -> list[str]:
    return list(dict.fromkeys(str(item["topic"]) for item in items))


def _statements(items: list[Item]) -> list[str]:
    tested = [item for item in items if not item["control"]]
    controls = [item for item in items if item["control"]]
    differing = sorted((item for item in tested if item["differs"]), key=lambda item: item["p_holm"])
    low = sum(float(item["p"]) <= SIGNIFICANCE for item in controls)
    named = ", ".join(f"{item['ko']}/{item['en']}" for item in differing)
    return [
        f"{len(differing)} of {len(tested)} word pairs differ beyond the languages' overall gap "
        f"(Holm-corrected at {SIGNIFICANCE:.0%})" + (f": {named}." if named else "."),
        f"Check of the test: {low} of {len(controls)} control pairs have p <= {SIGNIFICANCE:.2f} uncorrected, "
        f"about {SIGNIFICANCE * len(controls):.0f} are expected by chance.",
    ]
