"""Loss, accuracies and the rest of the log are those of the global batch, whatever the number of processes."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from kelip_lightning.models.preprocessing import normalize_images
from tests.distributed.logged_values import LANGUAGES, VARIANTS, contrastive_module, logged, pairs, run

KEYS = {
    "train/loss",
    "train/loss_global_crops",
    "train/loss_local_crops",
    "train/temperature",
    "train/contrastive_accuracy_ko",
    "train/contrastive_accuracy_en",
    "train/gradient_norm",
    "train/learning_rate",
}


@pytest.fixture(scope="module")
def alone() -> dict[str, list[dict[str, float]]]:
    """What one process logs of each variant."""
    return {variant: logged(variant) for variant in VARIANTS}


def test_one_process__logs_the_batch_by_hand(alone: dict[str, list[dict[str, float]]]) -> None:
    """Cross-entropies and accuracies of the first step from the features, in NumPy."""
    model, batch = contrastive_module("mixed").model, pairs("mixed")
    with torch.no_grad():
        features = model(
            normalize_images(batch.global_crops), normalize_images(batch.local_crops), batch.tokens, batch.sample_seeds
        )
    text, scale = features.text_BE.double().numpy(), features.logit_scale.item()
    losses, correct = [], np.zeros(0)
    for crops in (features.global_VBE, features.local_VBE):
        logits = scale * crops[0].double().numpy() @ text.T
        rows, columns = (logits - np.log(np.exp(logits).sum(axis, keepdims=True)) for axis in (1, 0))
        losses.append(-(np.trace(rows) + np.trace(columns)) / 2 / len(logits))
        correct = correct if len(correct) else logits.argmax(1) == np.arange(len(logits))
    first, languages = alone["mixed"][0], np.array(LANGUAGES["mixed"])
    assert first.keys() == KEYS
    assert first["train/loss_global_crops"] == pytest.approx(losses[0], rel=1e-5)
    assert first["train/loss_local_crops"] == pytest.approx(losses[1], rel=1e-5)
    assert first["train/loss"] == pytest.approx(sum(losses) / 2, rel=1e-5)
    assert first["train/temperature"] == pytest.approx(1 / scale, rel=1e-6)
    for index, language in enumerate(("ko", "en")):
        assert first[f"train/contrastive_accuracy_{language}"] == pytest.approx(correct[languages == index].mean())


@pytest.mark.distributed
@pytest.mark.parametrize("world", [2, 4])
def test_several_processes__log_what_one_does(
    alone: dict[str, list[dict[str, float]]], tmp_path: Path, world: int
) -> None:
    ranks = run(world, tmp_path)
    for variant, steps in alone.items():
        for step, expected in enumerate(steps):
            for rank, found in enumerate(ranks):
                told = f"{variant}, step {step}, rank {rank} of {world}"
                assert found[variant][step] == pytest.approx(expected, rel=1e-4, nan_ok=True), told
    simclr = {"train/loss_contrastive", "train/loss_self_supervised", "train/self_supervised_share"}
    assert ranks[0]["simclr"][0].keys() == KEYS | simclr


def test_accuracy__is_nan_without_a_pair_in_the_global_batch_alone(alone: dict[str, list[dict[str, float]]]) -> None:
    """Rank 0 of four has no English pair in `mixed` either; there the metric is the others'."""
    assert math.isnan(alone["ko"][0]["train/contrastive_accuracy_en"])
    assert not math.isnan(alone["mixed"][0]["train/contrastive_accuracy_en"])
    assert set(LANGUAGES["mixed"][:4]) == {0}
