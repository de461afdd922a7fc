"""The pairs of classes that a classifier confuses most.

Shapes: N items.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Confusion:
    """Items of one class that were predicted as another."""

    true: int
    predicted: int
    count: int
    share: float
    """`count` over all items of the true class, in (0, 1]."""


def worst_confusions(labels: Tensor, predicted: Tensor, num_classes: int, top: int = 10) -> list[Confusion]:
    """The most frequent confusions, by the share of the true class, then by count, then by class ids, ascending.

    Args:
        labels: (N,) int64 in [0, num_classes): true classes.
        predicted: (N,) int64 in [0, num_classes).
        num_classes: Number of classes.
        top: Confusions at most; fewer if fewer pairs of classes are confused.

    Raises:
        ValueError: Shapes or dtypes do not fit, or a class or `top` is out of range.
    """
    if labels.ndim != 1 or labels.shape != predicted.shape or {labels.dtype, predicted.dtype} != {torch.int64}:
        raise ValueError(
            f"labels and predicted must be int64 (N,) of one length, got {labels.dtype} {tuple(labels.shape)} and "
            f"{predicted.dtype} {tuple(predicted.shape)}"
        )
    if top < 1:
        raise ValueError(f"top must be at least 1, got {top}")
    if len(labels) == 0:
        return []
    lowest, highest = torch.stack([labels, predicted]).aminmax()
    if int(lowest) < 0 or int(highest) >= num_classes:
        raise ValueError(f"classes must lie in [0, {num_classes}), got {int(lowest)} to {int(highest)}")
    sizes = torch.bincount(labels, minlength=num_classes)
    wrong = labels != predicted
    # Not bincount: 20,000 classes have 400 million pairs, of which few occur.
    pairs, counts = torch.unique(labels[wrong] * num_classes + predicted[wrong], return_counts=True)
    found = [
        Confusion(true=pair // num_classes, predicted=pair % num_classes, count=count, share=count / size)
        for pair, count, size in zip(pairs.tolist(), counts.tolist(), sizes[pairs // num_classes].tolist(), strict=True)
    ]
    return sorted(found, key=lambda one: (-one.share, -one.count, one.true, one.predicted))[:top]
