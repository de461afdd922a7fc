"""An evaluation on the device against the same on the CPU: embeddings, and the outcome of every item."""

import numpy as np
import torch
from torch import Tensor

from data_modules.benchmarks.evaluation_sets import build_evaluation_sets
from kelip_lightning.benchmarks.evaluation import config_of, make_encoders, write_folder
from kelip_lightning.benchmarks.gpu_report.captions import relative_error
from kelip_lightning.benchmarks.gpu_report.findings import Findings, PartSetting
from kelip_lightning.benchmarks.gpu_report.steps import float32_convolutions
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.evaluation.suite import Evaluation, Streaming, evaluate_sets

EMBEDDING_BOUND = 1e-4
"""Largest relative error of the embeddings in float32."""
OUTCOME_BOUND = 0.01
"""Largest share of items with another outcome: almost equal similarities may change their order."""


def evaluation(setting: PartSetting, findings: Findings) -> None:
    """Zero-shot classification and retrieval of generated pictures by a random model in float32."""
    pictures, width, depth = (100, 16, 1) if setting.smoke else (1000, 256, 6)
    for name in ("classes", "captions"):
        write_folder(setting.folder / name, pictures, with_captions=name == "captions")
    with float32_convolutions():
        ours, reference = (make_encoders(width, depth, device) for device in (setting.device, "cpu"))
        for what, error in _embedding_errors(ours, reference).items():
            findings.note(**{f"{what}_relative_error": error})
            findings.require(
                error <= EMBEDDING_BOUND,
                f"{what} embeddings: relative error {error:.1e}, allowed {EMBEDDING_BOUND:.0e}",
            )
        for name in ("classes", "captions"):
            sets = build_evaluation_sets(config_of(setting.folder / name))
            found, expected = (evaluate_sets(sets, one, Streaming(num_workers=1)) for one in (ours, reference))
            share = _share_of_other_outcomes(found, expected)
            findings.note(**{f"{name}_share_of_other_outcomes": share})
            findings.require(
                share <= OUTCOME_BOUND, f"{name}: {share:.1%} of the outcomes differ, allowed {OUTCOME_BOUND:.0%}"
            )


def _embedding_errors(ours: Encoders, reference: Encoders) -> dict[str, float]:
    images = torch.randint(0, 256, (64, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    texts = [f"a photo of class {number}." for number in range(64)]
    return {
        "image": relative_error(_on_cpu(ours.encode_images(images)), _on_cpu(reference.encode_images(images))),
        "text": relative_error(_on_cpu(ours.encode_texts(texts)), _on_cpu(reference.encode_texts(texts))),
    }


def _on_cpu(features: Tensor) -> Tensor:
    return features.float().cpu()


def _share_of_other_outcomes(found: Evaluation, expected: Evaluation) -> float:
    """Over the items of all tasks."""
    pairs = [(one.outcomes, other.outcomes) for one, other in zip(found.items, expected.items, strict=True)]
    return float(np.mean(np.concatenate([np.asarray(one) != np.asarray(other) for one, other in pairs])))
