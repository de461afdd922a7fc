"""Whether the divergence of word pairs is true: pairs whose overlap in training is known, and planted differences.

Shapes: P word pairs, M images of the gallery, E embedding width, S runs.

The words are those of the run's own training texts (`data_modules.text.trained_words`). The *true overlap* of a pair is
the share of concepts that both words name in what the run was trained on, where planted pairs name no concept in
both. Two questions:

- Does the divergence of the image scores (`divergence.divergences`; the true overlap plays no part in it) follow
  1 − true overlap? Spearman's correlation over pairs that are neither planted nor controls. Words of few concepts are
  learnt badly and diverge for that reason alone, so it is given with the number of concepts held fixed as well.
- How many planted differences does the test of `divergence` find, with the controls as its control pairs (power), and
  how many controls does it take for one, each tested against the others (false alarms)?
"""

from collections import Counter
from collections.abc import Sequence
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
from kelip_lightning.analyses.divergence import divergence_test, divergences
from kelip_lightning.analyses.output import Finding, Findings, Item, number
from kelip_lightning.config.analysis import TrainedWordsConfig
from kelip_lightning.evaluation.embed import require_finite
from kelip_lightning.statistics import ALPHA
from kelip_lightning.statistics.bootstrap import Bootstrap
from kelip_lightning.statistics.several_runs import interval_over_runs, share_interval

PLANTED, CONTROL, NEITHER = "planted pair", "control pair", ""
TRUTH = "true overlap"
MIN_PAIRS = 20
"""Fewest pairs of a correlation."""

Compared = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64] | None]
"""Two vectors (P,) to correlate, and one that is held fixed."""


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
    wanted = [column, *([] if settings.cluster is None else [settings.cluster])]
    sources = {
        name: replace(one, attributes=list(dict.fromkeys([*one.attributes, *wanted])))
        for name, one in data.sources.items()
    }
    concepts = read_concepts(open_sources(sources), sources, column, settings.cluster)
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
    run: str, words: TrainedWords, rows: dict[str, Tensor], gallery: Tensor, seed: int, top: int, num_draws: int
) -> list[Item]:
    """One item per pair: true overlap, divergence, and for planted pairs and controls the test.

    Args:
        run: Name of the run.
        words: P pairs.
        rows: `ko` and `en` -> (P, E) unit rows of the words.
        gallery: (M, E) unit rows of the images.
        seed: Of the null distribution.
        top: Images of the overlap of the top images; at most M.
        num_draws: Samples of the null distribution per pair.

    Raises:
        NonFiniteEmbeddingsError: A row holds NaN or infinity.
    """
    for language, one in rows.items():
        require_finite(one, f"{language} word")
    require_finite(gallery, "image")
    ko, en = (rows[language].double().numpy() for language in ("ko", "en"))
    divergence = divergences(ko, en, gallery)
    shared = _top_overlap(rows["ko"], rows["en"], gallery, top)
    items: list[Item] = [
        {
            "run": run,
            "ko": pair.ko,
            "en": pair.en,
            "cluster": words.clusters[place],
            "group": words.groups[place],
            "concepts": len(pair.concepts),
            TRUTH: words.true_overlap[place],
            "divergence": float(divergence[place]),
            f"overlap_top{top}": float(shared[place]),
        }
        for place, pair in enumerate(words.pairs)
    ]
    _test_planted(items, words, ko, en, gallery, seed, num_draws)
    return items


def _test_planted(
    items: list[Item],
    words: TrainedWords,
    ko: NDArray[np.float64],
    en: NDArray[np.float64],
    gallery: Tensor,
    seed: int,
    num_draws: int,
) -> None:
    """Add `p`, `rank_among_controls_p` and `found`; `None` for pairs that are neither planted nor controls."""
    tested = np.array([place for place, group in enumerate(words.groups) if group != NEITHER], dtype=np.int64)
    for item in items:
        item |= {"p": None, "rank_among_controls_p": None, "found": None}
    if not len(tested):
        return
    control = np.array([words.groups[place] == CONTROL for place in tested])
    test = divergence_test(ko[tested], en[tested], gallery, control, seed, num_draws)
    for place, p, rank in zip(tested.tolist(), test.p_value.tolist(), test.rank_p_value.tolist(), strict=True):
        items[place] |= {"p": p, "rank_among_controls_p": rank, "found": p <= ALPHA and rank <= ALPHA}


def _top_overlap(ko: Tensor, en: Tensor, gallery: Tensor, top: int) -> NDArray[np.float64]:
    """(P,) share of the first `top` images that are the same, the mean of each language subtracted."""
    first = [((one - one.mean(dim=0)) @ gallery.T).topk(top, dim=1).indices for one in (ko, en)]
    shared: NDArray[np.float64] = (first[0][:, :, None] == first[1][:, None, :]).any(dim=2).double().mean(dim=1).numpy()
    return shared


def trained_word_findings(runs: Sequence[list[Item]], bootstrap: Bootstrap, top: int) -> Findings:
    """Correlation with the true overlap, power and false alarms, over S runs.

    Args:
        runs: The items of each run, from `score_trained_words`.
        bootstrap: Resampling of the pairs, by cluster, the same in every run.
        top: As in `score_trained_words`.

    Raises:
        DataError: The runs have too few pairs in common.
    """
    found = Findings(items=[item for items in runs for item in items])
    shared = _in_every_run(runs)
    found.summary = _correlations(shared, bootstrap, top)
    found.statements = [_correlation_statement(found.summary, len(runs))]
    tested = [item for item in found.items if item["group"] != NEITHER]
    if tested:
        found.summary += [_share(tested, PLANTED, "found"), _share(tested, CONTROL, "false alarms")]
        found.statements.append(_power_statement(found.summary))
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


def _share(items: Sequence[Item], group: str, measure: str) -> Finding:
    members = [item for item in items if item["group"] == group]
    distinct = len({(item["ko"], item["en"]) for item in members})
    interval = share_interval([bool(item["found"]) for item in members], distinct)
    return Finding(subject=f"{group}s", measure=measure, interval=interval, count=len(members), chance=ALPHA)


def _correlation_statement(summary: Sequence[Finding], num_runs: int) -> str:
    first, second = summary[0].interval, summary[1].interval
    verdict = {"above": "follows", "below": "contradicts", "inconclusive": "does not measurably follow"}[first.verdict]
    of = f", mean of {num_runs} runs" if num_runs > 1 else ""
    return (
        f"The divergence of {summary[0].count} word pairs {verdict} the share of concepts that they do not share in "
        f"training: Spearman {first.value:.2f} ({first.low:.2f} to {first.high:.2f}){of}; {second.value:.2f} "
        f"({second.low:.2f} to {second.high:.2f}) with the number of concepts held fixed."
    )


def _power_statement(summary: Sequence[Finding]) -> str:
    power, alarms = (next(one for one in summary if one.subject == f"{group}s") for group in (PLANTED, CONTROL))
    return (
        f"Planted differences: {power.interval.value:.0%} of {power.count} are found (power, 95 % interval "
        f"{power.interval.low:.0%} to {power.interval.high:.0%}), and {alarms.interval.value:.0%} of {alarms.count} "
        f"controls are taken for one (false alarms, {alarms.interval.low:.0%} to {alarms.interval.high:.0%}), at "
        f"p and rank of at most {ALPHA:.0%} for each pair, not corrected for their number."
    )
