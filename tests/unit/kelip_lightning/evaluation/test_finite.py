"""Embeddings with NaN or infinity: an error that counts them, never a score."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.benchmarks.analogy_queries import AnalogyQuery
from data_modules.benchmarks.word_pairs import WordPair
from kelip_lightning.analyses.analogy import LAMBDAS, analogy_findings, nearest_images, query_ranks
from kelip_lightning.analyses.cross_lingual import caption_findings, caption_similarity, gap_findings
from kelip_lightning.analyses.culture import compare_words, is_known
from kelip_lightning.analyses.divergence import divergence_test
from kelip_lightning.analyses.image_choice import choice_findings
from kelip_lightning.evaluation.embed import Embeddings, embed_images, embed_texts
from kelip_lightning.evaluation.retrieval import group_ranks, retrieval_ranks
from kelip_lightning.evaluation.similarity import centre, matched_and_random, matched_minus_random
from kelip_lightning.evaluation.zero_shot import accuracy, class_embeddings, class_ranks, mean_per_class_recall
from kelip_lightning.statistics.bootstrap import Bootstrap

NUM, WIDTH, NUM_BAD = 48, 8, 3
INDEX = torch.arange(NUM)
BOOTSTRAP = Bootstrap(num_resamples=20)
PAIRS = [WordPair(ko=f"가{i}", en=f"a{i}", topic="food", control=i >= 4) for i in range(NUM)]
QUERIES = [
    AnalogyQuery(
        name=f"query {i}",
        relation="gender",
        cluster=str(i),
        image=i,
        left_out=(i,),
        right=((i + 1) % NUM,),
        source=i % 2,
        target=1 - i % 2,
    )
    for i in range(NUM)
]
CAPTIONS = {language: [f"{language} {i}" for i in range(NUM)] for language in ("ko", "en")}


def unit_rows(seed: int) -> Tensor:
    return F.normalize(torch.randn(NUM, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=-1)


def both(ko: Tensor, en: Tensor) -> dict[str, Tensor]:
    return {"ko": ko, "en": en}


Metric = Callable[[Tensor, Tensor], Any]
METRICS: dict[str, Metric] = {
    "retrieval_ranks": lambda a, b: retrieval_ranks(a, b, INDEX),
    "retrieval_ranks of float64": lambda a, b: retrieval_ranks(a.double(), b.double(), INDEX),
    "group_ranks": lambda a, b: group_ranks(a, b, INDEX // 2, INDEX // 2),
    "class_ranks": lambda a, b: class_ranks(a, b, INDEX),
    "accuracy": lambda a, b: accuracy(a, b, INDEX),
    "mean_per_class_recall": lambda a, b: mean_per_class_recall(a, b, INDEX),
    "matched_and_random": matched_and_random,
    "matched_minus_random": matched_minus_random,
    "caption_similarity": lambda a, b: caption_similarity(both(a, b)),
    "caption_findings": lambda a, b: caption_findings("set", CAPTIONS, both(a, b), both(a, a), BOOTSTRAP),
    "control of caption_findings": lambda a, b: caption_findings(
        "set", CAPTIONS, both(unit_rows(2), unit_rows(3)), both(a, b), BOOTSTRAP
    ),
    "gap_findings of the languages": lambda a, b: gap_findings("set", both(a, b), None, BOOTSTRAP),
    "gap_findings of text and image": lambda a, b: gap_findings("set", both(unit_rows(2), a), b, BOOTSTRAP),
    "query_ranks": lambda a, b: query_ranks(QUERIES, a, b),
    "nearest_images": lambda a, b: nearest_images(QUERIES, a, b, 2),
    "analogy_findings": lambda a, b: analogy_findings("set", QUERIES, a, both(b[:2], unit_rows(2)[:2]), BOOTSTRAP),
    "is_known": lambda a, b: is_known(a, b, unit_rows(2)),
    "is_known of images": lambda a, b: is_known(unit_rows(2), b, a),
    "compare_words": lambda a, b: compare_words(PAIRS, both(a, b), both(a, a), unit_rows(2), BOOTSTRAP, 3, 20),
    "compare_words with nonsense and images": lambda a, b: compare_words(
        PAIRS, both(unit_rows(2), unit_rows(3)), both(unit_rows(4), a), b, BOOTSTRAP, 3, 20
    ),
    "divergence_test": lambda a, b: divergence_test(
        a.double().numpy(), b.double().numpy(), unit_rows(2), (INDEX >= 4).numpy(), 0, 20
    ),
    "divergence_test of images": lambda a, b: divergence_test(
        unit_rows(2).double().numpy(), a.double().numpy(), b, (INDEX >= 4).numpy(), 0, 20
    ),
    "choice_findings": lambda a, b: choice_findings(
        "set", a[: NUM // 2], b, [2] * (NUM // 2), [0] * (NUM // 2), BOOTSTRAP
    ),
}
"""Name -> a metric of two sets of unit rows, the first `NUM_BAD` rows of which it must look at."""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("name", METRICS)
def test_metrics__refuse_rows_that_are_not_finite(name: str, side: int, bad: float) -> None:
    rows = [unit_rows(0), unit_rows(1)]
    METRICS[name](*rows)
    bad_rows = 2 if (name, side) == ("analogy_findings", 1) else NUM_BAD  # two texts, both of them bad
    rows[side][:bad_rows, 1:3] = bad
    with pytest.raises(ValueError, match=rf"{bad_rows} of \d+ [\w ]+ embeddings are not finite"):
        METRICS[name](*rows)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_embedding__counts_what_the_encoder_gives(bad: float) -> None:
    images = torch.full((NUM, 3, 2, 2), 7, dtype=torch.uint8)
    images[:NUM_BAD] = 0
    texts = [f"{'bad' if i < NUM_BAD else 'good'} {i}" for i in range(NUM)]

    def encode_images(batch: Tensor) -> Tensor:
        return torch.where(batch[:, :, 0, 0] == 0, bad, 1.0)

    def encode_texts(batch: list[str]) -> Tensor:
        return torch.tensor([[1.0, bad if text.startswith("bad") else 1.0] for text in batch])

    embeddings = Embeddings(encode_images, encode_texts)
    says_images = f"{NUM_BAD} of {NUM} image embeddings are not finite"
    says_texts = f"{NUM_BAD} of {NUM} text embeddings are not finite"
    for message, embed in (
        (says_images, lambda: embed_images(encode_images, images, batch_size=2)),
        (says_texts, lambda: embed_texts(encode_texts, texts, batch_size=2)),
        (says_texts, lambda: embeddings.texts(texts)),
        (says_texts, lambda: class_embeddings(encode_texts, [[text] for text in texts], ["{}"])),
    ):
        with pytest.raises(ValueError, match=message):
            embed()


def test_class_embeddings__are_checked_themselves() -> None:
    """Prompts that are finite may still have no mean."""
    classes = unit_rows(1)
    classes[:NUM_BAD] = math.nan
    with pytest.raises(ValueError, match=f"{NUM_BAD} of {NUM} class embeddings"):
        accuracy(unit_rows(0), classes, INDEX)
    images = unit_rows(0)
    images[5] = math.inf
    with pytest.raises(ValueError, match=f"1 of {NUM} image embeddings"):
        accuracy(images, unit_rows(1), INDEX)


def test_message__says_what_and_what_to_do() -> None:
    rows = unit_rows(0)
    rows[4, 2] = math.nan
    with pytest.raises(ValueError, match=rf"1 of {NUM} query embeddings .*NaN or infinite.*checkpoint"):
        retrieval_ranks(rows, unit_rows(1), INDEX)


def test_finite_rows__may_be_large_and_zero() -> None:
    rows = torch.full((NUM, WIDTH), 3.0e38)
    rows[0] = 0.0
    assert len(centre(unit_rows(0))) == NUM
    assert retrieval_ranks(rows, unit_rows(0), INDEX).shape == (NUM,)


def test_lambdas__are_all_tried_with_finite_rows() -> None:
    found = analogy_findings("set", QUERIES, unit_rows(0), both(unit_rows(1)[:2], unit_rows(2)[:2]), BOOTSTRAP)
    assert len([one for one in found.summary if "λ = " in one.measure]) == 4 * len(LAMBDAS)
