"""Multiple choice against a loop in numpy, ties, and refusals."""

import numpy as np
import pytest
import torch
from torch import Tensor

from kelip_lightning.errors import NonFiniteEmbeddingsError
from kelip_lightning.evaluation.choice import ChoiceAccuracy
from tests.embeddings import random_rows

COUNTS = torch.tensor([2, 4, 3, 2, 4, 4, 3])
ANSWERS = torch.tensor([1, 0, 2, 0, 3, 1, 1])


def _filled(images: Tensor, texts: Tensor, tie_rule: str = "pessimistic", seed: int = 0) -> ChoiceAccuracy:
    """All rows, added in two parts and a random order."""
    metric = ChoiceAccuracy(COUNTS, ANSWERS, tie_rule=tie_rule)
    generator = torch.Generator().manual_seed(seed)
    for state, rows in (("image", images), ("text", texts)):
        order = torch.randperm(len(rows), generator=generator)
        for part in order.chunk(2):
            metric.update(**{f"{state}s": rows[part], f"{state}_ids": part})
    return metric


def _chosen(images: Tensor, texts: Tensor) -> list[int]:
    rows, ends = (images @ texts.T).numpy(), np.cumsum(COUNTS.numpy())
    return [int(np.argmax(row[end - count : end])) for row, end, count in zip(rows, ends, COUNTS.tolist(), strict=True)]


@pytest.mark.parametrize("seed", range(4))
def test_choice_accuracy__equals_a_loop_whatever_the_order(seed: int) -> None:
    images, texts = random_rows(7, 8, seed), random_rows(int(COUNTS.sum()), 8, 100 + seed)
    expected = [chosen == answer for chosen, answer in zip(_chosen(images, texts), ANSWERS.tolist(), strict=True)]
    metric = _filled(images, texts, seed=seed)
    assert metric.compute().item() == pytest.approx(np.mean(expected))
    assert metric.outcomes is not None
    assert (metric.outcomes.pessimistic_ranks == 0).tolist() == expected
    assert metric.outcomes.topk_hits[:, 0].tolist() == expected


def test_choice_accuracy__ties() -> None:
    """All texts are equal: none is right by the pessimistic rule, those whose first option is correct by the other."""
    images, texts = random_rows(7, 8, 0), random_rows(1, 8, 1).expand(int(COUNTS.sum()), 8)
    assert _filled(images, texts).compute().item() == 0
    first = (ANSWERS == 0).double().mean().item()
    assert _filled(images, texts, "topk").compute().item() == pytest.approx(first)


def test_choice_accuracy__refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="every answer must be the index of one of its image's texts"):
        ChoiceAccuracy(COUNTS, COUNTS)
    with pytest.raises(ValueError, match="tie_rule = 'first' must be one of"):
        ChoiceAccuracy(COUNTS, ANSWERS, tie_rule="first")
    metric = ChoiceAccuracy(COUNTS, ANSWERS)
    with pytest.raises(ValueError, match="images and image_ids must be given together"):
        metric.update(images=random_rows(7, 8, 0))
    metric.update(images=random_rows(7, 8, 0), image_ids=torch.arange(7))
    metric.update(texts=random_rows(3, 8, 0), text_ids=torch.arange(3))
    with pytest.raises(ValueError, match="3 of 22 texts were added"):
        metric.compute()
    broken = random_rows(3, 8, 0)
    broken[1] = torch.nan
    with pytest.raises(NonFiniteEmbeddingsError, match="1 of 3 text embeddings"):
        metric.update(texts=broken, text_ids=torch.arange(3))
