"""Correlation with a known overlap, power and false alarms, on embeddings that are made of the concepts."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor

from data_modules.errors import DataError
from data_modules.text.trained_words import TrainedPair
from kelip_lightning.analyses.divergence import Profiles, divergence_test, score_profiles
from kelip_lightning.analyses.output import Item
from kelip_lightning.analyses.trained_words import (
    BY_RANK,
    BY_TEST,
    CONTROL,
    NEITHER,
    PLANTED,
    TOGETHER,
    TRUTH,
    ProbeSettings,
    TrainedWords,
    rank_correlation,
    score_together,
    score_trained_words,
    trained_word_findings,
)
from kelip_lightning.statistics.bootstrap import Bootstrap

BOOTSTRAP = Bootstrap(num_resamples=200)
NUM_PAIRS, NUM_PLANTED, NUM_CONTROLS, PER_WORD, WIDTH = 40, 10, 30, 4, 48
TOTAL = NUM_PAIRS + NUM_PLANTED + NUM_CONTROLS


def world(seed: int, learnt: float = 1.0) -> tuple[TrainedWords, dict[str, Tensor], Tensor]:
    """Each word is the mean of its concepts' images, to the share `learnt`, and noise; pair i shares i % 5 of 4."""
    generator = np.random.default_rng(seed)
    images = generator.normal(size=(TOTAL * 2 * PER_WORD, WIDTH))
    images /= np.linalg.norm(images, axis=1, keepdims=True)
    words = TrainedWords(pairs=[], true_overlap=[], clusters=[], groups=[])
    rows: dict[str, list[np.ndarray]] = {"ko": [], "en": []}
    for pair in range(TOTAL):
        group = NEITHER if pair < NUM_PAIRS else PLANTED if pair < NUM_PAIRS + NUM_PLANTED else CONTROL
        shared = {NEITHER: pair % 5, PLANTED: 0, CONTROL: PER_WORD}[group]
        start = 2 * PER_WORD * pair
        ko = list(range(start, start + PER_WORD))
        en = ko[:shared] + list(range(start + PER_WORD, start + 2 * PER_WORD - shared))
        for language, members in (("ko", ko), ("en", en)):
            rows[language].append(learnt * images[members].mean(axis=0) + 0.02 * generator.normal(size=WIDTH))
        concepts = {language: frozenset(map(str, one)) for language, one in (("ko", ko), ("en", en))}
        words.pairs.append(
            TrainedPair(ko=f"가{pair}", en=f"a{pair}", ko_concepts=concepts["ko"], en_concepts=concepts["en"])
        )
        words.true_overlap.append(shared / (2 * PER_WORD - shared))
        words.clusters.append(str(pair % 20))
        words.groups.append(group)
    tensors = {language: torch.tensor(np.stack(one), dtype=torch.float32) for language, one in rows.items()}
    return words, tensors, torch.tensor(images, dtype=torch.float32)


SETTINGS = ProbeSettings(seed=0, top=4, num_draws=999)


def profiles_of(rows: dict[str, Tensor], images: Tensor) -> Profiles:
    return score_profiles(rows["ko"].double().numpy(), rows["en"].double().numpy(), images)


def items_of(seed: int, learnt: float = 1.0) -> list[Item]:
    words, rows, images = world(seed, learnt)
    return score_trained_words(f"run-{seed}", words, rows, images, profiles_of(rows, images), SETTINGS)


def test_trained_words__a_model_that_learnt_them_shows_the_overlap_and_the_planted_differences() -> None:
    found = trained_word_findings([items_of(0)], BOOTSTRAP, 4)
    metrics = {(one.subject, one.measure): one for one in found.summary}
    correlation = metrics["trained words", "Spearman, divergence and 1 − true overlap"]
    assert correlation.interval.low > 0.8
    assert correlation.count == NUM_PAIRS
    for by in (BY_RANK, BY_TEST):
        assert metrics["planted pairs", by].interval.value >= 0.8
        assert metrics["planted pairs", by].count == NUM_PLANTED
        assert metrics["control pairs", by].interval.value <= 0.05
    assert "follows the share of concepts" in found.statements[0]
    assert found.statements[1].startswith(
        f"Planted differences: {metrics['planted pairs', BY_RANK].interval.value:.0%} of {NUM_PLANTED} rank above"
    )


def test_trained_words__a_model_that_learnt_nothing_shows_neither() -> None:
    found = trained_word_findings([items_of(seed, learnt=0.0) for seed in range(3)], BOOTSTRAP, 4)
    metrics = {(one.subject, one.measure): one for one in found.summary}
    assert metrics["trained words", "Spearman, divergence and 1 − true overlap"].interval.low <= 0
    for by in (BY_RANK, BY_TEST):
        assert metrics["planted pairs", by].interval.value <= 0.2
        assert metrics["control pairs", by].interval.value <= 0.1
    assert "does not measurably follow" in found.statements[0]


def test_trained_words__pairs_alone_decide_the_correlation_and_runs_are_pooled() -> None:
    runs = [items_of(seed) for seed in range(3)]
    found = trained_word_findings(runs, BOOTSTRAP, 4)
    expected = []
    for items in runs:
        plain = [item for item in items if item["group"] == NEITHER]
        expected.append(spearmanr([item["divergence"] for item in plain], [-item[TRUTH] for item in plain])[0])  # type: ignore[operator]
    assert found.summary[0].interval.value == pytest.approx(np.mean(expected))
    assert len(found.items) == 3 * TOTAL
    assert "mean of 3 runs" in found.statements[0]
    planted = next(one for one in found.summary if one.subject == "planted pairs")
    assert planted.count == 3 * NUM_PLANTED


def test_trained_words__runs_of_other_words() -> None:
    renamed: list[Item] = [item | {"ko": f"다{item['ko']}"} for item in items_of(1)]
    with pytest.raises(DataError, match="the runs have 0 word pairs in common"):
        trained_word_findings([items_of(0), renamed], BOOTSTRAP, 4)


def noisy(seed: int) -> tuple[TrainedWords, Profiles]:
    """One world, learnt again with other noise, as large as the differences between unrelated words."""
    words, rows, images = world(0)
    generator = torch.Generator().manual_seed(seed)
    rows = {name: one + 0.1 * torch.randn(one.shape, generator=generator) for name, one in rows.items()}
    return words, profiles_of(rows, images)


def test_score_together__an_ensemble_finds_what_single_runs_miss() -> None:
    words, profiles = zip(*(noisy(seed) for seed in range(8)), strict=True)
    together = score_together(words, profiles, SETTINGS)
    assert [item["run"] for item in together] == [TOGETHER] * (NUM_PLANTED + NUM_CONTROLS)

    def shares(items: list[Item], group: str) -> float:
        return float(np.mean([bool(item[BY_RANK]) for item in items if item["group"] == group]))

    single = [score_together([one, one], [own, own], SETTINGS) for one, own in zip(words, profiles, strict=True)]
    assert np.mean([shares(items, PLANTED) for items in single]) < 0.7
    assert shares(together, PLANTED) >= 0.9
    assert shares(together, CONTROL) <= 0.05 + 1 / NUM_CONTROLS
    found = trained_word_findings([items_of(0), items_of(0)], BOOTSTRAP, 4, together)
    metrics = {(one.subject, one.measure): one for one in found.summary}
    assert metrics[f"planted pairs, {TOGETHER}", BY_RANK].count == NUM_PLANTED
    assert metrics[f"planted pairs, {TOGETHER}", BY_RANK].interval.value == shares(together, PLANTED)
    assert found.statements[2].startswith(f"Planted differences, {TOGETHER}: ")


def test_score_together__a_run_beside_itself_is_the_run() -> None:
    words, rows, images = world(3)
    own = profiles_of(rows, images)
    items = score_trained_words("run", words, rows, images, own, SETTINGS)
    tested = [item for item in items if item["group"] != NEITHER]
    twice = score_together([words, words], [own, own], SETTINGS)
    for name in ("divergence_from_controls", "p", "rank_among_controls_p"):
        assert [item[name] for item in twice] == pytest.approx([item[name] for item in tested])
    place = np.array([group != NEITHER for group in words.groups])
    control = np.array([group == CONTROL for group in words.groups])[place]
    ko, en = (rows[name].double().numpy()[place] for name in ("ko", "en"))
    expected = divergence_test(ko, en, images, control, SETTINGS.seed, SETTINGS.num_draws)
    assert [item["p"] for item in tested] == pytest.approx(expected.p_value.tolist())


def test_score_together__runs_with_other_planted_pairs_are_no_ensemble() -> None:
    words, profiles = noisy(0)
    other = replace(words, groups=[NEITHER, *words.groups[1:-1], PLANTED])
    assert score_together([words, other], [profiles, profiles], SETTINGS) == []
    assert score_together([words], [profiles], SETTINGS) == []
    plain = replace(words, groups=[NEITHER] * TOTAL)
    assert score_together([plain, plain], [profiles, profiles], SETTINGS) == []


def test_rank_correlation__a_third_variable_held_fixed() -> None:
    generator = np.random.default_rng(0)
    third = generator.normal(size=400)
    first, second = third + 0.3 * generator.normal(size=400), third + 0.3 * generator.normal(size=400)
    assert rank_correlation(first, second, None) == pytest.approx(spearmanr(first, second)[0])
    assert abs(rank_correlation(first, second, third)) < 0.15
    assert rank_correlation(np.ones(5), np.arange(5.0), None) == 0.0
