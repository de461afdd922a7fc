"""Classifiers on frozen features as torchmetrics metrics: k nearest neighbours and the linear probe.

Shapes: B rows of an update, N evaluation rows, M training rows, E feature width, C classes.

Both metrics take rows of a training and of an evaluation split, in any order and split over ranks, and classify when
they compute. They need neither Lightning nor a model:

    metric = KNN(num_classes=10)
    metric.update(train_features, train_labels, train=True, ids=train_ids)
    metric.update(test_features, test_labels, train=False, ids=test_ids)
    metric.compute()  # {"top1": ..., "top5": ..., "mean_per_class_recall": ...}
    ids, ranks = metric.items()

With ids, the result does not depend on the order of the rows or on the number of ranks. What a row holds is checked
in `compute`, where every rank sees the same rows and raises the same error. All ranks call `compute` together; a rank
may have no rows at all. torchmetrics caches the result on each rank until its next `update`, so between two calls of
`compute` either every rank updates (with no rows, if it has none) or none does.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kelip_lightning.evaluation.embed import require_finite
from kelip_lightning.evaluation.gathered_metric import GatheredMetric
from kelip_lightning.evaluation.logistic_regression import (
    LogisticRegression,
    fit_logistic_regression,
    search_l2,
    validation_rows,
    validation_score,
)
from kelip_lightning.evaluation.metric_names import MEAN_PER_CLASS_RECALL, TOP_KS
from kelip_lightning.evaluation.ranks import recall_at
from kelip_lightning.evaluation.zero_shot import mean_per_class

_INTEGER_STATES = ("labels", "ids", "in_train", "widths")
_NO_ID = torch.iinfo(torch.int64).min


@dataclass(frozen=True, slots=True, kw_only=True)
class _Split:
    """The rows of a split, by ascending id, each id once."""

    features: Tensor
    """(N, E), in the metric's dtype."""
    labels: Tensor
    """int64 (N,)."""
    ids: Tensor
    """int64 (N,)."""


class _FrozenFeatureMetric(GatheredMetric):
    """Gathers the rows of both splits; subclasses rank the classes of the evaluation rows.

    Features are stored flat with their widths, so that ranks with other widths are found and told.
    """

    features: list[Tensor]
    labels: list[Tensor]
    ids: list[Tensor]
    in_train: list[Tensor]
    widths: list[Tensor]

    def __init__(self, num_classes: int, chunk: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_classes < 1 or chunk < 1:
            raise ValueError(f"num_classes and chunk must be at least 1, got {num_classes} and {chunk}")
        self.num_classes, self.chunk = num_classes, chunk
        self._items: tuple[Tensor, Tensor] | None = None

    def empty_states(self, width: int) -> Mapping[str, Tensor]:
        features, integers = torch.empty(0, dtype=self.dtype), torch.empty(0, dtype=torch.int64)
        return {"features": features} | dict.fromkeys(_INTEGER_STATES, integers)

    def update(self, features: Tensor, labels: Tensor, *, train: bool, ids: Tensor | None = None) -> None:
        """Add rows of one split.

        Args:
            features: (B, E), any float dtype and device; stored on the metric's device in its dtype.
            labels: (B,) int64 in [0, C).
            train: Whether the rows belong to the training split.
            ids: (B,) int64. An id that comes twice in a split, as with a sampler that pads, is used once; both splits
                may use the same ids. `None`: every row is used, in the order of ranks and updates.

        Raises:
            ValueError: Shapes or dtypes do not fit.
        """
        if features.ndim != 2 or not features.shape[1] or not features.is_floating_point():
            raise ValueError(f"features must be floats (B, E), E >= 1, got {features.dtype} {tuple(features.shape)}")
        for name, column in (("labels", labels), ("ids", ids)):
            if column is not None and (column.shape != features.shape[:1] or column.dtype != torch.int64):
                raise ValueError(
                    f"{name} must be int64 of shape ({len(features)},), one per row of features, got {column.dtype} "
                    f"{tuple(column.shape)}"
                )
        self.features.append(features.detach().to(self.device, self.dtype).flatten())
        self.labels.append(labels.to(self.device))
        self.ids.append(torch.full_like(labels, _NO_ID, device=self.device) if ids is None else ids.to(self.device))
        self.in_train.append(torch.full_like(labels, int(train), device=self.device))
        self.widths.append(torch.full_like(labels[:1], features.shape[1], device=self.device))

    def forward(self, *args: Any, **kwargs: Any) -> None:
        """As `update`: one batch has no metric of its own."""
        self.update(*args, **kwargs)

    def compute(self) -> dict[str, Tensor]:
        """Classify the evaluation rows; every rank does a share of the work and has the whole result.

        Returns:
            top1, top5 (with at least 5 classes) and mean_per_class_recall in [0, 1]: float32 scalars.

        Raises:
            NonFiniteEmbeddingsError: Features hold NaN or infinity.
            ValueError: A split has no rows; labels lie outside [0, C); widths differ; some rows of a split have ids
                and others none; rows with one id have different labels.
        """
        with torch.no_grad():
            train, evaluation = self._splits()
            ranks = self._class_ranks(train, evaluation).cpu()
        self._items = evaluation.ids.cpu(), ranks
        labels = evaluation.labels.cpu()
        ks = [k for k in TOP_KS if k <= self.num_classes]
        values = {f"top{k}": value for k, value in recall_at(ranks, ks).items()}
        values[MEAN_PER_CLASS_RECALL] = mean_per_class(ranks == 0, labels)
        return {name: torch.tensor(value, dtype=torch.float32, device=self.device) for name, value in values.items()}

    def items(self) -> tuple[Tensor, Tensor]:
        """Outcomes of the last `compute`: ids and ranks of the evaluation rows, int64 (N,) each, on the CPU.

        A rank is the number of wrong classes that score at least as high as the correct one; 0 is correct. Ids
        ascend; without ids they count the rows.

        Raises:
            ValueError: Nothing is computed yet.
        """
        if self._items is None:
            raise ValueError("items() returns the outcomes of compute(), which has not been called since the reset")
        return self._items

    def reset(self) -> None:
        """Forget all rows and outcomes."""
        super().reset()
        self._items = None

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> torch.nn.Module:
        """Move every state; convert features only: `set_dtype` would turn ids and labels into floats."""
        moved = super()._apply(fn, exclude_state=(*exclude_state, *_INTEGER_STATES))
        for state in _INTEGER_STATES:
            value = getattr(self, state)
            at_device = value.to(self.device) if isinstance(value, Tensor) else [one.to(self.device) for one in value]
            setattr(self, state, at_device)
        return moved

    def _splits(self) -> tuple[_Split, _Split]:
        """Training and evaluation rows."""
        if not len(self.labels):
            raise ValueError("there are no training rows; call update(..., train=True) before compute()")
        labels, ids, in_train = (self.rows(state) for state in ("labels", "ids", "in_train"))
        for train, name in ((1, "training"), (0, "evaluation")):
            if not bool((in_train == train).any()):
                raise ValueError(f"there are no {name} rows; call update(..., train={bool(train)}) before compute()")
        widths = self.rows("widths").unique().tolist()
        if len(widths) > 1:
            raise ValueError(f"all features must have the same width, got {widths}")
        if not (int(labels.min()) >= 0 and int(labels.max()) < self.num_classes):
            raise ValueError(
                f"labels must lie in [0, {self.num_classes}), got {int(labels.min())} to {int(labels.max())}"
            )
        features = self.rows("features").view(len(labels), -1)
        require_finite(features, "training and evaluation")
        train_rows, rows = in_train == 1, in_train == 0
        return (
            _split(features[train_rows], labels[train_rows], ids[train_rows]),
            _split(features[rows], labels[rows], ids[rows]),
        )

    @abstractmethod
    def _class_ranks(self, train: _Split, evaluation: _Split) -> Tensor:
        """int64 (N,): wrong classes that score at least as high as the correct one."""


def _split(features: Tensor, labels: Tensor, ids: Tensor) -> _Split:
    """Rows by ascending id, each id once; the row with the lowest sum of features, whichever rank it comes from."""
    missing = ids == _NO_ID
    if bool(missing.all()):
        return _Split(features=features, labels=labels, ids=torch.arange(len(ids), device=ids.device))
    if bool(missing.any()):
        raise ValueError(f"ids must be given for all rows of a split or for none, {int(missing.sum())} rows lack one")
    order = features.sum(dim=1, dtype=torch.float64).argsort(stable=True)
    order = order[ids[order].argsort(stable=True)]
    sorted_ids, sorted_labels = ids[order], labels[order]
    repeated = torch.zeros_like(missing)
    repeated[1:] = sorted_ids[1:] == sorted_ids[:-1]
    changed = repeated[1:] & (sorted_labels[1:] != sorted_labels[:-1])
    if bool(changed.any()):
        raise ValueError(f"rows with one id must have one label, id {int(sorted_ids[1:][changed][0])} has several")
    return _Split(features=features[order[~repeated]], labels=sorted_labels[~repeated], ids=sorted_ids[~repeated])


class KNN(_FrozenFeatureMetric):
    """Weighted k-nearest-neighbour classifier by cosine similarity.

    The k training rows most similar to a row vote for their classes with weight exp(similarity / temperature). Of
    equally similar rows at the end of the k, those with the lowest ids vote.

    Reference: Wu et al. 2018 (arXiv:1805.01978), sec. 3.4, as used by DINO (Caron et al. 2021, arXiv:2104.14294).
    Deviation: classes with equal votes are ranked before the correct one, so a class without a vote is last. DINO
    ranks them in the order of its sort, which can count a correct class without a vote among the top 5.

    Args:
        num_classes: C.
        k: Neighbours, at most the number of training rows; DINO reports 10, 20, 100 and 200.
        temperature: Above 0; 0.07 in both papers.
        chunk: Evaluation rows compared at a time; memory: chunk * M floats.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: An argument is out of range; in `compute`: also, k exceeds the number of training rows.
    """

    def __init__(
        self, num_classes: int, k: int = 20, temperature: float = 0.07, chunk: int = 256, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, chunk, **kwargs)
        if k < 1 or not temperature > 0:
            raise ValueError(f"k must be at least 1 and temperature above 0, got {k} and {temperature}")
        self.k, self.temperature = k, temperature

    def _class_ranks(self, train: _Split, evaluation: _Split) -> Tensor:
        if self.k > len(train.labels):
            raise ValueError(f"k must be at most the number of training rows, {len(train.labels)}, got {self.k}")
        gallery, queries = (_unit(split.features) for split in (train, evaluation))

        def ranks(rows: slice) -> Tensor:
            similarity, neighbours = _nearest(queries[rows] @ gallery.T, self.k)
            return self._ranks_by_vote(similarity, train.labels[neighbours], evaluation.labels[rows])

        return self.in_blocks(len(evaluation.labels), self.chunk, ranks)

    def _ranks_by_vote(self, similarity: Tensor, voted: Tensor, labels: Tensor) -> Tensor:
        """Ranks (B,) from similarities (B, k) and labels (B, k) of the neighbours.

        No (B, C) table of votes: adding to it has no fixed order on a GPU.
        """
        # float64 sums. Subtracting the largest similarity changes no rank and prevents overflow.
        weights = ((similarity - similarity.amax(dim=1, keepdim=True)).double() / self.temperature).exp()
        same = voted[:, :, None] == voted[:, None, :]
        votes = (same * weights[:, None, :]).sum(dim=2)
        first_of_class = ~same.tril(diagonal=-1).any(dim=2)
        correct = voted == labels[:, None]
        own = votes.masked_fill(~correct, 0.0).amax(dim=1)
        above = (first_of_class & ~correct & (votes >= own[:, None])).sum(dim=1)
        return torch.where(own > 0, above, self.num_classes - 1)


class LinearProbe(_FrozenFeatureMetric):
    """Multinomial logistic regression with an L2 penalty, at the optimum of the training rows.

    Features are used as given, without normalisation, as CLIP does; the best penalty depends on their scale.

    Reference: Radford et al. 2021 (CLIP, arXiv:2103.00020), appendix A.3: L-BFGS with at most 1,000 iterations; the
    penalty by a parametric binary search over 1e-6 to 1e6 on a validation split, which is then trained on too.
    Deviation: the validation split is always a fifth of the training rows, chosen by a hash of the ids; the paper
    uses a data set's own where there is one. Accuracy selects the penalty, also on sets whose metric is another.
    CLIP_benchmark 1.6 instead trains a linear layer on L2-normalised features with AdamW, a cosine schedule and a
    seed, and searches the weight decay; its result depends on learning rate, epochs and the order of the rows.

    Args:
        num_classes: C.
        l2: The penalty is l2 / 2 times the squared norm of the weight, next to the summed cross-entropy: 1 / C of
            scikit-learn. `None` searches it.
        max_iter: Iterations of L-BFGS at most.
        chunk: Evaluation rows classified at a time.
        kwargs: Of `torchmetrics.Metric`.

    Raises:
        ValueError: An argument is out of range; in `compute`: also, a search has fewer than two training rows.
    """

    def __init__(
        self, num_classes: int, l2: float | None = None, max_iter: int = 1000, chunk: int = 4096, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, chunk, **kwargs)
        if max_iter < 1 or (l2 is not None and not 0 < l2 < float("inf")):
            raise ValueError(f"max_iter must be at least 1, and l2 positive or None, got {max_iter} and {l2}")
        self.l2, self.max_iter = l2, max_iter
        self.classifier: LogisticRegression | None = None
        """Fitted by the last `compute`, with the penalty that was used."""

    def reset(self) -> None:
        """Forget all rows and outcomes and the classifier."""
        super().reset()
        self.classifier = None

    def _class_ranks(self, train: _Split, evaluation: _Split) -> Tensor:
        l2 = self.l2 if self.l2 is not None else self._searched_l2(train)
        classifier = fit_logistic_regression(train.features, train.labels, self.num_classes, l2, self.max_iter)
        self.classifier = classifier

        def ranks(rows: slice) -> Tensor:
            scores = classifier.scores(evaluation.features[rows])
            return (scores >= scores.gather(1, evaluation.labels[rows, None])).sum(dim=1) - 1

        return self.in_blocks(len(evaluation.labels), self.chunk, ranks)

    def _searched_l2(self, train: _Split) -> float:
        """The penalty with the best validation accuracy; the ranks share the fits."""
        if len(train.labels) < 2:
            raise ValueError("a search of l2 needs at least two training rows; pass l2 to train on one")
        held_out = validation_rows(train.ids)
        features, labels = train.features[~held_out], train.labels[~held_out]

        def score(l2: float) -> Tensor:
            fitted = fit_logistic_regression(features, labels, self.num_classes, l2, self.max_iter)
            return validation_score(fitted, train.features[held_out], train.labels[held_out])

        def evaluate(penalties: Sequence[float]) -> list[tuple[float, float]]:
            scores = self.in_blocks(len(penalties), 1, lambda rows: score(penalties[rows.start])[None])
            return [(accuracy, loss) for accuracy, loss in scores.tolist()]

        return search_l2(evaluate)


def _unit(features: Tensor) -> Tensor:
    """Unit rows, in float32 or wider: shorter floats would add ties."""
    return F.normalize(features if features.dtype == torch.float64 else features.float(), dim=1)


def _nearest(similarity: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row and their indices, both (B, k); of equals at the end, the lowest indices."""
    values, indices = similarity.topk(k, dim=1)
    last = values[:, -1:]
    for row in torch.nonzero((similarity >= last).sum(dim=1) > k).flatten().tolist():
        # topk picks any of the equals.
        values[row], indices[row] = (found[:k] for found in similarity[row].sort(descending=True, stable=True))
    return values, indices
