"""An evaluation on the device against the same on the CPU: embeddings, and the outcomes of the items."""

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
OUTCOME_BOUND = 0.005
"""Largest mean change of an outcome, of a rank as a share of the ranks: almost equal similarities may change their
order, and those of a random model are almost equal."""
CAPTIONED = 100
"""Pictures of the retrieval set; more would have captions of equal tokens."""


def evaluation(setting: PartSetting, findings: Findings) -> None:
    """Zero-shot classification and retrieval of generated pictures by a random model in float32."""
    pictures, width, depth = (100, 16, 1) if setting.smoke else (1000, 256, 6)
    write_folder(setting.folder / "classes", pictures, with_captions=False)
    write_folder(setting.folder / "captions", CAPTIONED, with_captions=True)
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
            change = _mean_change(found, expected)
            findings.note(**{f"{name}_mean_change_of_an_outcome": change})
            findings.require(
                change <= OUTCOME_BOUND,
                f"{name}: outcomes change by {change:.2%} on average, allowed {OUTCOME_BOUND:.1%}",
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


def _mean_change(found: Evaluation, expected: Evaluation) -> float:
    """The largest mean change of an outcome of any task."""
    changes = []
    for one, other in zip(found.items, expected.items, strict=True):
        difference = (one.outcomes.double().cpu() - other.outcomes.double().cpu()).abs().mean()
        is_rank = not other.outcomes.is_floating_point()
        changes.append(float(difference) / (1 + int(other.outcomes.max()) if is_rank else 1))
    return max(changes)
