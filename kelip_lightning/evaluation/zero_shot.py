"""Zero-shot classification.

Shapes: N images, C classes, E embedding width.

Reference: Radford et al. 2021 (arXiv:2103.00020), sec. 3.1.4 (prompt ensembles in embedding space); it agrees with
open_clip's `build_zero_shot_classifier` and with CLIP_benchmark.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.text.particles import fill_template
from kelip_lightning.evaluation.embed import TextEncode, embed_texts, require_finite
from kelip_lightning.evaluation.gathered_metric import GatheredMetric, require_rows, sorted_once
from kelip_lightning.evaluation.metric_names import MEAN_PER_CLASS_RECALL, TOP_KS
from kelip_lightning.evaluation.ranks import QueryOutcomes, checked_tie_rule, outcomes_of_scores, scores_of
from kelip_lightning.evaluation.retrieval import TOP_SHOWN, TopMatches

_PROMPTS = 128
"""Prompts of a forward pass."""


class ZeroShotAccuracy(GatheredMetric):
    """Top-k accuracy and mean per-class recall of images against class embeddings.

    Args:
        classifier: float (C, E), one unit row per class, on every rank.
        ks: The k of the top-k accuracies; one above C is left out.
        tie_rule: `pessimistic`: a class with the score of the right one is ranked before it. `topk`: as `torch.topk`
            and `argmax` order them, which is CLIP_benchmark's rule.
        logit_scale: 1 / temperature, for the probabilities of `top_matches`.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: The tie rule is unknown, or there is no class.
        NonFiniteEmbeddingsError: A class embedding holds NaN or infinity.
    """

    ids: list[Tensor]
    labels: list[Tensor]
    ranks: list[Tensor]
    hits: list[Tensor]
    top_classes: list[Tensor]
    top_probabilities: list[Tensor]
    classifier: Tensor

    def __init__(
        self,
        classifier: Tensor,
        *,
        ks: Sequence[int] = TOP_KS,
        tie_rule: str = "pessimistic",
        logit_scale: float = 100.0,
        **kwargs: Any,
    ) -> None:
        if classifier.ndim != 2 or not len(classifier):
            raise ValueError(f"classifier must be (C, E) with C >= 1, got {tuple(classifier.shape)}")
        self.num_classes = len(classifier)
        self.ks = tuple(sorted(k for k in ks if k <= self.num_classes))
        super().__init__(**kwargs)
        self.tie_rule, self.logit_scale = checked_tie_rule(tie_rule), logit_scale
        require_finite(classifier, "class")
        self.register_buffer("classifier", classifier.detach().float(), persistent=False)
        self.outcomes: QueryOutcomes | None = None
        """Of the last `compute`."""
        self.item_labels = torch.empty(0, dtype=torch.int64)
        """int64 (N,): the label of each item of the last `compute`, on the CPU."""
        self.top_matches: TopMatches | None = None
        """The best classes of every image of the last `compute`."""

    def empty_states(self, width: int) -> Mapping[str, Tensor]:
        shown, ids = min(TOP_SHOWN, self.num_classes), torch.empty(0, dtype=torch.int64)
        return {
            "ids": ids,
            "labels": ids,
            "ranks": ids,
            "hits": torch.empty(0, len(self.ks), dtype=torch.bool),
            "top_classes": torch.empty(0, shown, dtype=torch.int64),
            "top_probabilities": torch.empty(0, shown),
        }

    def update(self, images: Tensor, labels: Tensor, ids: Tensor | None = None) -> None:
        """Add images.

        Args:
            images: (B, E), any float dtype, normalised here in float32.
            labels: int64 (B,), in [0, C).
            ids: int64 (B,): an id that was added before is ignored; `None`: counted up from 0, for one process.

        Raises:
            ValueError: Shapes do not fit, or a label is no class.
            NonFiniteEmbeddingsError: A row holds NaN or infinity.
        """
        if ids is None:
            added = sum(len(one) for one in self.ids)
            ids = torch.arange(added, added + len(images))
        require_rows("images", images, ids, self.classifier.shape[1])
        fits = labels.shape == (len(images),) and not labels.is_floating_point()
        if not fits or (len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < self.num_classes):
            found = f" from {labels.min()} to {labels.max()}" if labels.numel() else ""
            raise ValueError(
                f"labels must be integers (B,) in [0, {self.num_classes}) for the {len(images)} images, got "
                f"{labels.dtype} {tuple(labels.shape)}{found}"
            )
        if not len(images):
            return
        require_finite(images, "image")
        scores = scores_of(F.normalize(images.detach().float(), dim=-1).to(self.device), self.classifier)
        labels = labels.to(self.device, torch.int64)
        outcomes = outcomes_of_scores(scores, labels[:, None], ())
        first = scores.topk(max(self.ks, default=0), dim=1).indices
        found_by = (first == labels[:, None]).cumsum(dim=1) > 0
        shown = scores.topk(min(TOP_SHOWN, self.num_classes), dim=1)
        self.ids.append(ids.to(self.device, torch.int64))
        self.labels.append(labels)
        self.ranks.append(outcomes.ranks)
        self.hits.append(found_by[:, [k - 1 for k in self.ks]])
        # argmax and topk may choose different classes of equal score; CLIP_benchmark's recall per class is by argmax.
        best = scores.argmax(dim=1, keepdim=True)
        others = torch.where(shown.indices[:, 1:] == best, shown.indices[:, :1], shown.indices[:, 1:])
        self.top_classes.append(torch.cat([best, others], dim=1))
        self.top_probabilities.append((self.logit_scale * scores).softmax(dim=1).gather(1, shown.indices))

    def compute(self) -> dict[str, Tensor]:
        """`top1`, `top5` and `mean_per_class_recall`, float64 scalars.

        Raises:
            ValueError: There is no image.
        """
        ids = self.rows("ids")
        if not len(ids):
            raise ValueError("zero-shot classification needs images, and none were added")
        order = sorted_once(ids)
        states = {name: self.rows(name)[order].cpu() for name in self.empty_states(0)}
        self.outcomes = QueryOutcomes(states["ids"], states["ranks"], states["hits"], self.ks)
        self.item_labels = states["labels"]
        self.top_matches = TopMatches(states["ids"], states["top_classes"], states["top_probabilities"])
        found = {f"top{k}": self.outcomes.recall(k, self.tie_rule) for k in self.ks}
        found[MEAN_PER_CLASS_RECALL] = self.mean_per_class_recall(self.tie_rule)
        return {name: torch.tensor(value, dtype=torch.float64) for name, value in found.items()}

    def mean_per_class_recall(self, tie_rule: str) -> float:
        """Of the last `compute`, in [0, 1], under either tie rule; classes without an image are ignored.

        Raises:
            ValueError: Nothing was computed yet.
        """
        if self.outcomes is None or self.top_matches is None:
            raise ValueError("mean_per_class_recall needs outcomes: call compute first")
        hits = self.outcomes.pessimistic_ranks == 0
        if tie_rule == "topk":
            hits = self.top_matches.match_ids[:, 0] == self.item_labels
        return mean_per_class(hits, self.item_labels)


def mean_per_class(hits: Tensor, labels: Tensor) -> float:
    """The mean over classes of the share of hits; classes without an item are ignored.

    Args:
        hits: bool (N,).
        labels: int64 (N,).
    """
    counts = torch.bincount(labels)
    shares = torch.zeros(len(counts), dtype=torch.double).index_add_(0, labels, hits.double()) / counts
    return shares[counts > 0].mean().item()


def class_embeddings(
    encode_texts: TextEncode, class_names: Sequence[Sequence[str]], templates: Sequence[str]
) -> Tensor:
    """One embedding per class: every prompt normalised, mean over names and templates, normalised again.

    Args:
        encode_texts: B texts -> features (B, E).
        class_names: Per class, one or more names.
        templates: Prompts with `{}` or `{c}` once, which the name replaces; particle slots (`{은/는}`) agree with it.

    Returns:
        (C, E) float32, unit length, on the device of the features.

    Raises:
        ValueError: A class has no name, or there is no template.
        DataError: A template is unusable, see `particles.fill_template`.
    """
    if not templates:
        raise ValueError("templates must hold at least one template, got none")
    if not class_names or any(not names for names in class_names):
        raise ValueError("every class must have at least one name")
    counts = torch.tensor([len(names) * len(templates) for names in class_names])
    prompts = [fill_template(template, name) for names in class_names for name in names for template in templates]
    features = embed_texts(encode_texts, prompts, _PROMPTS)
    counts = counts.to(features.device)
    owner = torch.repeat_interleave(torch.arange(len(counts), device=features.device), counts)
    sums = torch.zeros(len(counts), features.shape[1], device=features.device).index_add_(0, owner, features)
    return F.normalize(sums / counts[:, None], dim=-1)
