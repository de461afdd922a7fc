"""Embeddings in which attributes add up, and in which they do not."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.benchmarks.analogy_queries import AnalogyQuery
from data_modules.errors import DataError
from kelip_lightning.analyses.analogy import (
    DEV_HALF,
    LAMBDAS,
    MACRO,
    analogy_findings,
    in_test_half,
    nearest_images,
    query_ranks,
    query_vectors,
)
from kelip_lightning.statistics.bootstrap import Bootstrap

BOOTSTRAP = Bootstrap(num_resamples=200)
NUM_ROLES, WIDTH = 60, 64


def randn(number: int, seed: int) -> Tensor:
    return torch.randn(number, WIDTH, generator=torch.Generator().manual_seed(seed))


def additive_world(gender: float) -> tuple[list[AnalogyQuery], Tensor, dict[str, Tensor]]:
    """Image 2 r is the man and image 2 r + 1 the woman in role r: role ± `gender` * direction."""
    direction = F.normalize(randn(1, 0), dim=-1)
    roles = F.normalize(randn(NUM_ROLES, 1), dim=-1)
    images = F.normalize(torch.stack([roles - gender * direction, roles + gender * direction], 1).flatten(0, 1), dim=-1)
    texts = F.normalize(torch.cat([-direction, direction]) + 0.02 * randn(2, 2), dim=-1)
    queries = [
        AnalogyQuery(
            name=f"role {role}",
            relation="gender",
            cluster=str(role),
            image=2 * role + form,
            left_out=(2 * role + form,),
            right=(2 * role + 1 - form,),
            source=form,
            target=1 - form,
        )
        for role in range(NUM_ROLES)
        for form in (0, 1)
    ]
    return queries, images, {"ko": texts, "en": texts}


def test_query_ranks__agree_with_numpy() -> None:
    queries, images, texts = additive_world(0.5)
    ranks = query_ranks(queries, query_vectors(queries, images, texts, ("ko", "en"), 0.7), images, chunk=7)
    for query, rank in zip(queries, ranks, strict=True):
        asked = images[query.image] + 0.7 * (texts["ko"][query.target] - texts["en"][query.source])
        scores = (images @ asked).numpy()
        scores[query.image] = -np.inf
        assert rank == (scores > scores[query.right[0]]).sum()


def test_query_ranks__a_wrong_twin_comes_first_and_a_right_one_counts() -> None:
    images = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [-1.0, 0.0]]), dim=-1)
    texts = {"ko": torch.tensor([[1.0, 0.0], [0.0, 1.0]]), "en": torch.zeros(2, 2)}

    def rank(right: tuple[int, ...], left_out: tuple[int, ...] = (0,)) -> int:
        query = AnalogyQuery(
            name="q", relation="r", cluster="c", image=0, left_out=left_out, right=right, source=0, target=1
        )
        return int(query_ranks([query], query_vectors([query], images, texts, ("ko", "ko"), 1.0), images)[0])

    assert rank((1,)) == 1
    assert rank((1, 2)) == 0
    assert rank((1,), left_out=(0, 2)) == 0


def test_analogy_findings__attributes_that_add_up_beat_both_baselines() -> None:
    queries, images, texts = additive_world(0.6)
    found = analogy_findings("faces", queries, images, texts, BOOTSTRAP)
    metrics = {(one.subject, one.measure): one.interval for one in found.summary}
    macro = f"faces: {MACRO}"
    for pairing in ("ko", "en", "ko-en", "en-ko"):
        assert metrics[macro, f"{pairing} top-1, analogy"].value > 0.95
        assert metrics[macro, f"{pairing} top-1, analogy − text only"].low > 0
    assert metrics[macro, "ko top-1, image only"].value < 0.9
    assert metrics[macro, "ko top-1, text only"].value < 0.1
    assert all("beats both baselines" in statement for statement in found.statements)


def test_analogy_findings__a_score_that_does_not_beat_its_baseline_is_said_not_to() -> None:
    queries, images, _ = additive_world(0.05)  # man and woman nearly alike: the image alone finds the other
    noise = {language: F.normalize(randn(2, seed), dim=-1) for language, seed in (("ko", 5), ("en", 6))}
    found = analogy_findings("faces", queries, images, noise, BOOTSTRAP)
    assert all("beats text only but not image only" in statement for statement in found.statements)


def test_analogy_findings__lambda_comes_from_the_other_half() -> None:
    queries, images, texts = additive_world(0.6)
    found = analogy_findings("faces", queries, images, texts, BOOTSTRAP)
    reported = {item["query"] for item in found.items}
    assert reported == {query.name for query in queries if in_test_half(query.name)}
    dev = [one for one in found.summary if one.subject == f"faces: {DEV_HALF}" and one.measure.startswith("ko top-1")]
    assert len(dev) == len(LAMBDAS)
    assert dev[0].count + len([item for item in found.items if item["pairing"] == "ko"]) == len(queries)
    best = max(one.interval.value for one in dev)
    first = next(value for value, one in zip(LAMBDAS, dev, strict=True) if one.interval.value == best)
    chosen = {item["lambda"] for item in found.items if item["pairing"] == "ko"}
    assert chosen == {first}


def test_in_test_half__is_fixed_and_about_half() -> None:
    # The first bytes of SHA-256 of "abc" and of "hello" are ba and 2c.
    assert not in_test_half("abc")
    assert not in_test_half("hello")
    share = np.mean([in_test_half(f"gender {number}") for number in range(2000)])
    assert 0.46 < share < 0.54


def test_nearest_images__leave_the_query_out() -> None:
    queries, images, _ = additive_world(0.6)
    found = nearest_images(queries[:4], images[[query.image for query in queries[:4]]], images, 3)
    assert found.shape == (4, 3)
    assert all(query.image not in row for query, row in zip(queries[:4], found.tolist(), strict=True))


def test_query_ranks__any_vector_may_be_query_vectors() -> None:
    queries, images, _ = additive_world(0.6)
    ranks = query_ranks(queries[:1], images[11:12], images)
    scores = images @ images[11]
    assert ranks.tolist() == [int((scores > scores[1]).sum()) - int(scores[0] > scores[1])]


def test_analogy_findings__a_relation_in_one_half_alone() -> None:
    queries, images, texts = additive_world(0.6)
    lone = next(query for query in queries if in_test_half(query.name))
    with pytest.raises(DataError, match=r"sets\.faces\.relations\.gender has no query in one of the halves"):
        analogy_findings("faces", [lone], images, texts, BOOTSTRAP)
