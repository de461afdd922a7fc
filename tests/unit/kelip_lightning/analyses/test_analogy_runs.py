"""Relations that work and that do not, over several runs."""

import numpy as np
import pytest

from kelip_lightning.analyses.analogy import MACRO, in_test_half
from kelip_lightning.analyses.analogy_runs import RunEmbeddings, findings_over_runs
from kelip_lightning.statistics.bootstrap import Bootstrap
from tests.unit.kelip_lightning.analyses.test_analogy import additive_world

BOOTSTRAP = Bootstrap(num_resamples=200)


def runs(number: int, gender: float, noise: float = 0.0) -> list[RunEmbeddings]:
    _, images, texts = additive_world(gender)
    generator = np.random.default_rng(0)
    return [
        RunEmbeddings(
            run=f"run-{seed}",
            images=images,
            texts={
                language: one + noise * one.new_tensor(generator.normal(size=one.shape))
                for language, one in texts.items()
            },
        )
        for seed in range(number)
    ]


def test_findings_over_runs__a_relation_that_adds_up_works_in_every_pairing() -> None:
    queries, _, _ = additive_world(0.6)
    found = findings_over_runs("faces", queries, runs(3, 0.6), BOOTSTRAP)
    metrics = {(one.subject, one.measure): one for one in found.summary}
    for part in ("gender", MACRO):
        for pairing in ("ko", "en", "ko-en", "en-ko"):
            assert metrics[f"faces: {part}", f"{pairing} top-1, analogy"].interval.value > 0.95
            assert metrics[f"faces: {part}", f"{pairing} top-1, analogy − image only"].interval.low > 0
    assert found.statements[0].startswith("faces, gender over 3 runs, top-1: works in ko (")
    assert "is not shown" not in found.statements[0]
    tested = {query.name for query in queries if in_test_half(query.name)}
    assert {item["query"] for item in found.items} == tested
    assert {item["run"] for item in found.items} == {"run-0", "run-1", "run-2"}


def test_findings_over_runs__texts_without_the_relation_do_not_work() -> None:
    queries, _, _ = additive_world(0.05)
    found = findings_over_runs("faces", queries, runs(3, 0.05, noise=10.0), BOOTSTRAP)
    assert "works in" not in found.statements[0]


def test_findings_over_runs__one_run_gives_the_numbers_of_the_single_analysis() -> None:
    from kelip_lightning.analyses.analogy import analogy_findings

    queries, images, texts = additive_world(0.3)
    single = {
        (one.subject, one.measure): one.interval
        for one in analogy_findings("faces", queries, images, texts, BOOTSTRAP).summary
    }
    pooled = {
        (one.subject, one.measure): one.interval
        for one in findings_over_runs("faces", queries, runs(1, 0.3), BOOTSTRAP).summary
    }
    shared = set(single) & set(pooled)
    assert len(shared) == 2 * 4 * 2 * 5
    for name in shared:
        assert (single[name].value, single[name].low) == pytest.approx((pooled[name].value, pooled[name].low))
