"""Whether the divergence of word pairs is true: pairs whose overlap in training is known, and planted differences.

Shapes: P word pairs, M images of the gallery, E embedding width, S runs.

The words are those of the run's own training texts (`data_modules.text.trained_words`). The *true overlap* of a pair is
the share of concepts that both words name in what the run was trained on, where planted pairs name no concept in
both. Two questions:

- Does the divergence of the image scores (`divergence.divergences`; the true overlap plays no part in it) follow
  1 − true overlap? Spearman's correlation over pairs that are neither planted nor controls. Words of few concepts are
  learnt badly and diverge for that reason alone, so it is given with the number of concepts held fixed as well.
- How many planted differences are found (power), and how many controls are taken for one, each tested against the
  others (false alarms)? By the pair's rank among the controls, which is exact for a single pair, and by the whole test
  of `divergence`, which is made for the correction over many pairs and is cautious without it. Runs with the same
  planted pairs are also tested together, as an ensemble: differences between the languages that come from one training
  are not those of another.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata
from torch import Tensor

from data_modules.config import ImageTextDataConfig
from data_modules.errors import DataError
from data_modules.loading import open_sources
from data_modules.sources.planted import choose_pairs, read_concepts
from data_modules.text.trained_words import TrainedPair, overlap, trained_pairs
from kelip_lightning.analyses.culture import MIN_CONTROLS
from kelip_lightning.analyses.divergence import Profiles, divergences, profile_test
from kelip_lightning.analyses.output import Finding, Findings, Item, number
from kelip_lightning.config.analysis import TrainedWordsConfig
from kelip_lightning.statistics import ALPHA
from kelip_lightning.statistics.bootstrap import Bootstrap
from kelip_lightning.statistics.several_runs import interval_over_runs, share_interval

PLANTED, CONTROL, NEITHER = "planted pair", "control pair", ""
TRUTH = "true overlap"
MIN_PAIRS = 20
"""Fewest pairs of a correlation."""

TOGETHER = "all runs together"
"""In place of a run's name."""
BY_RANK, BY_TEST = "found by rank", "found by the test"
_OUTCOMES = ("divergence_from_controls", "p", "rank_among_controls_p", BY_RANK, BY_TEST)
"""Columns of a tested pair."""

Compared = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]
"""Two vectors (P,) to correlate, and one that is held fixed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSettings:
    """Of the test of planted pairs."""

    seed: int
    """Of the null distribution."""
    top: int
    """Images of the overlap of the top images; at most M."""
    num_draws: int
    """Samples of the null distribution per pair."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedWords:
    """P pairs with what a run was trained on."""

    pairs: list[TrainedPair]
    true_overlap: list[float]
    clusters: list[str]
    """What each pair's concepts mostly belong to; unique per pair where there are no clusters."""
    groups: list[str]
    """`PLANTED`, `CONTROL` or `NEITHER`."""


def read_trained_words(data: ImageTextDataConfig, settings: TrainedWordsConfig) -> TrainedWords:
    """The word pairs of a run's training data.

    Raises:
        DataError: The training tables are gone or have no such column, or there are too few pairs or controls.
    """
    planted = data.planted
    column = settings.column if planted is None else planted.column
    kind = None if planted is None else planted.kind
    wanted = [column, *(one for one in (settings.cluster, kind) if one is not None)]
    sources = {
        name: replace(one, attributes=list(dict.fromkeys([*one.attributes, *wanted])))
        for name, one in data.sources.items()
    }
    concepts = read_concepts(open_sources(sources), sources, column, cluster=settings.cluster, kind=kind)
    chosen = choose_pairs(concepts, planted) if planted is not None else []
    if planted is not None and planted.num_controls <= MIN_CONTROLS:
        raise DataError(
            f"the run has {planted.num_controls} control pairs, and the test of its planted differences needs at least "
            f"{MIN_CONTROLS + 1}: train with a larger data.planted.num_controls"
        )
    language_of = {concept: language for one in chosen for concept, language in one.language_of.items()}
    group_of = {(one.pair.ko, one.pair.en): PLANTED if one.planted else CONTROL for one in chosen}
    words = TrainedWords(pairs=[], true_overlap=[], clusters=[], groups=[])
    for pair in trained_pairs(concepts, 1):
        group = group_of.get((pair.ko, pair.en), NEITHER)
        ko = {one for one in pair.ko_concepts if language_of.get(one, "ko") == "ko"}
        en = {one for one in pair.en_concepts if language_of.get(one, "en") == "en"}
        if group == NEITHER and min(len(ko), len(en)) < settings.min_concepts:
            continue
        words.pairs.append(pair)
        words.true_overlap.append(overlap(ko, en, concepts))
        words.clusters.append(_cluster(pair, [concepts[one].cluster for one in sorted(pair.concepts)]))
        words.groups.append(group)
    if words.groups.count(NEITHER) < MIN_PAIRS:
        raise DataError(
            f"the training texts give {words.groups.count(NEITHER)} word pairs, and a correlation needs at least "
            f"{MIN_PAIRS}; lower trained_words.min_concepts, or use word_pairs"
        )
    return words


def _cluster(pair: TrainedPair, clusters: Sequence[str]) -> str:
    """The most frequent cluster; the pair itself where there are none."""
    (name, _), *_ = Counter(clusters).most_common()
    return name or f"{pair.ko}/{pair.en}"


def score_trained_words(
    run: str, words: TrainedWords, rows: dict[str, Tensor], gallery: Tensor, profiles: Profiles, settings: ProbeSettings
) -> list[Item]:
    """One item per pair: true overlap, divergence, and for planted pairs and controls the test.

    Args:
        run: Name of the run.
        words: P pairs.
        rows: `ko` and `en` -> (P, E) unit rows of the words.
        gallery: (M, E) unit rows of the images.
        profiles: Of the words, from `divergence.score_profiles`.
        settings: Of the test.
    """
    divergence = divergences(profiles)
    shared = _top_overlap(rows["ko"], rows["en"], gallery, settings.top)
    items: list[Item] = [
        _described(run, words, place)
        | {"divergence": float(divergence[place]), f"overlap_top{settings.top}": float(shared[place])}
        for place in range(len(words.pairs))
    ]
    for item in items:
        item |= dict.fromkeys(_OUTCOMES)
    for place, outcome in _tested(words, profiles, settings):
        items[place] |= outcome
    return items


def score_together(words: Sequence[TrainedWords], profiles: Sequence[Profiles], settings: ProbeSettings) -> list[Item]:
    """One item per planted pair and control, tested over all runs as an ensemble; none if the runs differ in them.

    Args:
        words: Of each run.
        profiles: Of each run, from `divergence.score_profiles`.
        settings: Of the test.
    """
    first, *others = words
    same = all(one.pairs == first.pairs and one.groups == first.groups for one in others)
    if not others or not same or PLANTED not in first.groups:
        return []
    ensemble = np.concatenate([ko for ko, _ in profiles], axis=1), np.concatenate([en for _, en in profiles], axis=1)
    return [_described(TOGETHER, first, place) | outcome for place, outcome in _tested(first, ensemble, settings)]


def _described(run: str, words: TrainedWords, place: int) -> Item:
    pair = words.pairs[place]
    return {
        "run": run,
        "ko": pair.ko,
        "en": pair.en,
        "cluster": words.clusters[place],
        "group": words.groups[place],
        "concepts": len(pair.concepts),
        TRUTH: words.true_overlap[place],
    }


def _tested(words: TrainedWords, profiles: Profiles, settings: ProbeSettings) -> Iterator[tuple[int, Item]]:
    """Place and outcome of each planted pair and each control."""
    tested = np.array([place for place, group in enumerate(words.groups) if group != NEITHER], dtype=np.int64)
    if not len(tested):
        return
    control = np.array([words.groups[place] == CONTROL for place in tested])
    ko, en = (one[tested] for one in profiles)
    test = profile_test((ko, en), control, settings.seed, settings.num_draws)
    columns = (test.divergence.tolist(), test.p_value.tolist(), test.rank_p_value.tolist())
    for place, divergence, p, rank in zip(tested.tolist(), *columns, strict=True):
        by_rank = rank <= ALPHA
        values = (divergence, p, rank, by_rank, by_rank and p <= ALPHA)
        yield place, dict(zip(_OUTCOMES, values, strict=True))


def _top_overlap(ko: Tensor, en: Tensor, gallery: Tensor, top: int) -> NDArray[np.float64]:
    """(P,) share of the first `top` images that are the same, the mean of each language subtracted."""
    first = [((one - one.mean(dim=0)) @ gallery.T).topk(top, dim=1).indices for one in (ko, en)]
    shared: NDArray[np.float64] = (first[0][:, :, None] == first[1][:, None, :]).any(dim=2).double().mean(dim=1).numpy()
    return shared


def trained_word_findings(
    runs: Sequence[list[Item]], bootstrap: Bootstrap, top: int, together: Sequence[Item] = ()
) -> Findings:
    """Correlation with the true overlap, power and false alarms, over S runs.

    Args:
        runs: The items of each run, from `score_trained_words`.
        bootstrap: Resampling of the pairs, by cluster, the same in every run.
        top: As in `ProbeSettings`.
        together: From `score_together`.

    Raises:
        DataError: The runs have too few pairs in common.
    """
    found = Findings(items=[item for items in (*runs, together) for item in items])
    shared = _in_every_run(runs)
    found.summary = _correlations(shared, bootstrap, top)
    found.statements = [_correlation_statement(found.summary, len(runs))]
    single = [item for items in runs for item in items if item["group"] != NEITHER]
    for tested, suffix in ((single, ""), (together, f", {TOGETHER}")):
        if tested:
            shares = [_share(tested, group, by, suffix) for group in (PLANTED, CONTROL) for by in (BY_RANK, BY_TEST)]
            found.summary += shares
            found.statements.append(_power_statement(shares, suffix))
    return found


def _in_every_run(runs: Sequence[list[Item]]) -> list[list[Item]]:
    """The pairs that are neither planted nor controls in any run, in the same order for each run."""
    by_name = [{(item["ko"], item["en"]): item for item in items if item["group"] == NEITHER} for items in runs]
    names = [name for name in by_name[0] if all(name in one for one in by_name)]
    if len(names) < MIN_PAIRS:
        raise DataError(
            f"the runs have {len(names)} word pairs in common, and a correlation needs at least {MIN_PAIRS}; analyse "
            "runs of the same training data together"
        )
    return [[one[name] for name in names] for one in by_name]


def _correlations(runs: Sequence[list[Item]], bootstrap: Bootstrap, top: int) -> list[Finding]:
    clusters = [str(item["cluster"]) for item in runs[0]]
    resamples = list(bootstrap.resampled_rows(clusters))
    columns = [
        {
            name: np.array([number(item, name) for item in items])
            for name in (TRUTH, "divergence", f"overlap_top{top}", "concepts")
        }
        for items in runs
    ]
    measures: dict[str, list[Compared]] = {
        "Spearman, divergence and 1 − true overlap": [(one["divergence"], 1 - one[TRUTH], None) for one in columns],
        "the same, number of concepts held fixed": [
            (one["divergence"], 1 - one[TRUTH], one["concepts"]) for one in columns
        ],
        f"Spearman, 1 − overlap_top{top} and 1 − true overlap": [
            (-one[f"overlap_top{top}"], 1 - one[TRUTH], None) for one in columns
        ],
        "Spearman, number of concepts and true overlap": [(one["concepts"], one[TRUTH], None) for one in columns],
    }
    return [
        Finding(
            subject="trained words",
            measure=measure,
            interval=interval_over_runs(
                [rank_correlation(*one) for one in values],
                [[rank_correlation(*_rows(one, rows)) for rows in resamples] for one in values],
                len(set(clusters)),
            ),
            count=len(runs[0]),
        )
        for measure, values in measures.items()
    ]


def _rows(compared: Compared, rows: NDArray[np.int64]) -> Compared:
    first, second, fixed = compared
    return first[rows], second[rows], None if fixed is None else fixed[rows]


def rank_correlation(
    first: NDArray[np.float64], second: NDArray[np.float64], fixed: NDArray[np.float64] | None
) -> float:
    """Spearman's correlation of two (P,) vectors, of `fixed` a partial one; 0 where it is undefined."""
    ranks = [rankdata(one) for one in (first, second, *([fixed] if fixed is not None else []))]
    if any(np.ptp(one) == 0 for one in ranks[:2]):
        return 0.0
    matrix = np.corrcoef(ranks[:2]) if fixed is None or np.ptp(ranks[2]) == 0 else np.corrcoef(ranks)
    if len(matrix) == 2:
        return float(matrix[0, 1])
    rest = (1 - matrix[0, 2] ** 2) * (1 - matrix[1, 2] ** 2)
    return float((matrix[0, 1] - matrix[0, 2] * matrix[1, 2]) / rest**0.5) if rest > 0 else 0.0


def _share(items: Sequence[Item], group: str, outcome: str, suffix: str) -> Finding:
    members = [item for item in items if item["group"] == group]
    distinct = len({(item["ko"], item["en"]) for item in members})
    interval = share_interval([bool(item[outcome]) for item in members], distinct)
    return Finding(subject=f"{group}s{suffix}", measure=outcome, interval=interval, count=len(members), chance=ALPHA)


def _correlation_statement(summary: Sequence[Finding], num_runs: int) -> str:
    first, second = summary[0].interval, summary[1].interval
    verdict = {"above": "follows", "below": "contradicts", "inconclusive": "does not measurably follow"}[first.verdict]
    of = f", mean of {num_runs} runs" if num_runs > 1 else ""
    return (
        f"The divergence of {summary[0].count} word pairs {verdict} the share of concepts that they do not share in "
        f"training: Spearman {first.value:.2f} ({first.low:.2f} to {first.high:.2f}){of}; {second.value:.2f} "
        f"({second.low:.2f} to {second.high:.2f}) with the number of concepts held fixed."
    )


def _power_statement(shares: Sequence[Finding], suffix: str) -> str:
    planted, planted_by_test, control, control_by_test = shares
    return (
        f"Planted differences{suffix}: {planted.interval.value:.0%} of {planted.count} rank above 95 % of the controls "
        f"(power, 95 % interval {planted.interval.low:.0%} to {planted.interval.high:.0%}), and "
        f"{control.interval.value:.0%} of {control.count} controls above 95 % of the others (false alarms, "
        f"{control.interval.low:.0%} to {control.interval.high:.0%}); by the whole test, at p of at most {ALPHA:.0%} "
        f"for each pair, {planted_by_test.interval.value:.0%} and {control_by_test.interval.value:.0%}."
    )
