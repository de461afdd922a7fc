"""Every item's outcome: the metrics are means over them."""

from collections.abc import Callable

import pytest
import torch

from data_modules.benchmarks.evaluation_sets import CaptionSet, ClassificationSet, EvaluationSets, RetrievalSet
from kelip_lightning.evaluation.embed import Embeddings
from kelip_lightning.evaluation.items import items_of
from kelip_lightning.evaluation.suite import evaluate_sets

CAPTIONS = {language: [f"{language} {n}" for n in range(6)] for language in ("ko", "en")}
IMAGES = torch.arange(5, dtype=torch.uint8)[:, None, None, None].expand(5, 3, 2, 2) * 20
TARGET = torch.tensor([4, 0, 1, 1, 5])


@pytest.fixture
def sets() -> EvaluationSets:
    return EvaluationSets(
        retrieval=[RetrievalSet(name="seen", images=IMAGES, captions=CAPTIONS, target=TARGET, image_keys=["k"] * 5)],
        captions=[CaptionSet(name="pairs", captions=CAPTIONS)],
        classification=[
            ClassificationSet(
                name="kinds",
                images=IMAGES,
                labels=torch.tensor([0, 1, 1, 0, 2]),
                class_names={language: [[f"{language} class {n}", "x"] for n in range(3)] for language in ("ko", "en")},
                templates={"ko": ["{}"], "en": ["a {}"]},
            )
        ],
    )


def _embeddings() -> tuple[Callable[[torch.Tensor], torch.Tensor], Callable[[list[str]], torch.Tensor]]:
    def images(batch: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.one_hot(batch[:, 0, 0, 0].long() % 7, 7) + 0.1 * torch.arange(7)

    def texts(batch: list[str]) -> torch.Tensor:
        seeds = [sum(map(ord, text)) for text in batch]
        return torch.stack([torch.randn(7, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    return images, texts


def test_items__metrics_are_means_over_items(sets: EvaluationSets) -> None:
    metrics = evaluate_sets(*_embeddings(), sets)
    tasks = {one.task: one for one in items_of(Embeddings(*_embeddings()), sets)}
    compared = 0
    for task, items in tasks.items():
        for key in [key for key in metrics if key.startswith((f"{task}_R@", f"{task}_top"))]:
            k = int(key.removeprefix(f"{task}_R@").removeprefix(f"{task}_top"))
            assert (items.outcomes < k).double().mean().item() == pytest.approx(metrics[key]), key
            compared += 1
    similarity = tasks["eval/pairs/matched_minus_random"].outcomes
    assert similarity.mean().item() == pytest.approx(metrics["eval/pairs/matched_minus_random"])
    # Two languages: both directions and three K; both caption directions and three K; top 1 of three classes.
    assert compared == 2 * 2 * 3 + 2 * 3 + 2


def test_items__one_group_per_right_answer_and_its_words(sets: EvaluationSets) -> None:
    tasks = {one.task: one for one in items_of(Embeddings(*_embeddings()), sets)}
    to_text, to_image = tasks["eval/seen_ko/image_to_text"], tasks["eval/seen_ko/text_to_image"]
    assert to_text.groups.tolist() == TARGET.tolist()
    assert to_text.texts == ["ko 4", "ko 0", "ko 1", "ko 1", "ko 5"]
    assert to_image.texts == ["ko 0", "ko 1", "ko 4", "ko 5"]
    assert tasks["eval/pairs/en_to_ko"].texts == CAPTIONS["en"]
    assert tasks["eval/kinds_en/zero_shot"].groups.tolist() == [0, 1, 1, 0, 2]
    assert tasks["eval/kinds_en/zero_shot"].texts[2] == "en class 1"
