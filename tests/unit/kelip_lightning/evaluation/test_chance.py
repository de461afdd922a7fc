"""Chance levels against random embeddings and SciPy's distributions."""

from collections import Counter

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom, nhypergeom
from torch import Tensor

from data_modules.benchmarks.class_names import ClassNames
from data_modules.benchmarks.evaluation_sets import CaptionSet, ClassificationSet, EvaluationSets, RetrievalSet
from data_modules.benchmarks.image_stream import SelectedImages
from kelip_lightning.evaluation.chance import chance_levels, chance_of_any
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.evaluation.metric_names import is_rank
from kelip_lightning.evaluation.suite import Streaming, evaluate_sets
from tests.sample_tables import MemoryTable, raw_pixels

NUM_CAPTIONS = 30
CAPTIONS = {language: [f"{language} {n}" for n in range(NUM_CAPTIONS)] for language in ("ko", "en")}


def _retrieval(name: str, num_images: int, pairs: Tensor, captions: dict[str, list[str]]) -> RetrievalSet:
    table, number = MemoryTable(name, num_images), len(captions["ko"])
    return RetrievalSet(
        name=name,
        identity=table.identity,
        images=SelectedImages(table, np.arange(num_images)),
        captions=captions,
        positives=dict.fromkeys(captions, pairs),
        image_concepts=torch.arange(num_images),
        caption_concepts=dict.fromkeys(captions, torch.arange(number)),
    )


def _sets() -> EvaluationSets:
    """Captions with up to four images, images with five captions, captions alone, classes without a Korean name."""
    concepts = torch.cat([torch.arange(12), torch.arange(8), torch.tensor([3, 3])])
    shared = torch.stack([torch.arange(22), concepts], dim=1)
    five = torch.stack([torch.arange(100) // 5, torch.arange(100)], dim=1)
    table = MemoryTable("classes", 42)
    named = {"ko": [[str(n)] if n else [] for n in range(7)], "en": [[str(n), f"{n}{n}"] for n in range(7)]}
    return EvaluationSets(
        retrieval=[
            _retrieval("shared", 22, shared, CAPTIONS),
            _retrieval("five", 20, five, {one: [f"{one} {n}" for n in range(100)] for one in CAPTIONS}),
        ],
        captions=[CaptionSet(name="all_captions", identity="captions", captions=CAPTIONS)],
        classification=[
            ClassificationSet(
                name="groups",
                identity=table.identity,
                images=SelectedImages(table, np.arange(42)),
                labels=torch.arange(42) % 7,
                classes=ClassNames(
                    ids=list("abcdefg"), names=named, templates={"ko": ["{} 그림"], "en": ["a {}", "the {}"]}
                ),
            )
        ],
    )


def test_levels__equal_the_mean_of_random_embeddings() -> None:
    sets, rounds = _sets(), 100
    generator = torch.Generator().manual_seed(0)
    encoders = Encoders(
        name="random",
        preprocess=raw_pixels,
        encode_images=lambda images: torch.randn(len(images), 8, generator=generator),
        encode_texts=lambda texts: torch.randn(len(texts), 8, generator=generator),
        logit_scale=1.0,
        device=torch.device("cpu"),
    )
    totals: Counter[str] = Counter()
    for _ in range(rounds):
        totals.update(evaluate_sets(sets, encoders, Streaming()).metrics)
    levels = chance_levels(sets)
    assert set(totals) == set(levels)
    for name, level in levels.items():
        scale = 100.0 if is_rank(name) else 1.0
        assert totals[name] / rounds / scale == pytest.approx(level / scale, abs=0.03), name


def test_text_to_image__counts_every_right_image() -> None:
    # Caption 3 has four of the 22 images: one draw hits with 4/22, not with 1/22.
    counts = [4 if n == 3 else 2 if n < 8 else 1 for n in range(12)]
    level = chance_levels(_sets())["eval/shared_ko/text_to_image_R@1"]
    assert level == pytest.approx(np.mean([count / 22 for count in counts]))


@pytest.mark.parametrize(("num_correct", "num_items"), [(1, 9), (5, 100), (5, 25_000), (40, 50)])
def test_chance_of_any__equals_the_hypergeometric_distribution(num_correct: int, num_items: int) -> None:
    for k in (1, 5, 10, num_items // 2):
        expected = 1.0 if k > num_items else hypergeom.sf(0, num_items, num_correct, k)
        assert chance_of_any(num_correct, num_items, k) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("num_images", "per_image"), [(1, 9), (20, 5), (21, 1), (22, 1), (300, 5)])
def test_median_rank__is_that_of_the_first_correct_one(num_images: int, per_image: int) -> None:
    """The first of c correct items comes after as many wrong ones as the negative hypergeometric distribution says."""
    size = num_images * per_image
    pairs = torch.stack([torch.arange(size) // per_image, torch.arange(size)], dim=1)
    captions = {one: [f"{one} {n}" for n in range(size)] for one in ("ko", "en")}
    found = chance_levels(EvaluationSets(retrieval=[_retrieval("set", num_images, pairs, captions)]))
    wrong_before = nhypergeom(size, size - per_image, 1) if size > per_image else None
    expected = 1 + (wrong_before.median() if wrong_before else 0)
    if per_image == 1:
        expected = (size + 1) / 2  # uniform from 1
    assert found["eval/set_ko/image_to_text_median_rank"] == expected
    assert found["eval/set_ko/text_to_image_median_rank"] == (num_images + 1) / 2
