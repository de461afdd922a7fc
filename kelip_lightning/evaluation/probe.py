"""k-NN and linear probes of an image encoder on all ranks: features of labelled images, two classifiers, accuracies.

Every rank embeds its share of the images, and no image is embedded twice in an evaluation. Batches are the same on any
number of ranks, and so are features and accuracies.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from data_modules.benchmarks.probe_sets import ProbeSet
from kelip_lightning.distributed.sharing import raised_together
from kelip_lightning.evaluation import metric_names
from kelip_lightning.evaluation.embed import error_context
from kelip_lightning.evaluation.encoders import ImageFunctions
from kelip_lightning.evaluation.frozen_features import KNN, LinearProbe
from kelip_lightning.evaluation.metric_names import at_k, join_name
from kelip_lightning.evaluation.suite import ImageUser, Streaming, embed_images


@torch.no_grad()
def evaluate_probes(sets: Sequence[ProbeSet], functions: ImageFunctions, streaming: Streaming) -> dict[str, float]:
    """`eval/NAME/knn_top1` and `eval/NAME/linear_probe_top1` of each set, in [0, 1]. All ranks must call it.

    Args:
        sets: Built and checked.
        functions: The image encoder, with the same weights on every rank. Features are used as they are: k-NN compares
            them by cosine, the linear probe fits them without normalisation.
        streaming: Batches and workers.

    Raises:
        NonFiniteEmbeddingsError: Features hold NaN or infinity; names the set. On every rank.
        DataError: An image cannot be decoded; names set and key. On every rank.
    """
    probes = [_Probe(one, functions.device) for one in sets]
    tables: dict[str, list[ImageUser]] = {}
    for probe in probes:
        for user in probe.users():
            tables.setdefault(user.images.table.identity, []).append(user)
    with raised_together():
        for users in tables.values():
            embed_images(users, functions, streaming)
    metrics: dict[str, float] = {}
    for probe in probes:
        with error_context(f"evaluation set {probe.data.name}"):
            metrics |= probe.compute()
    return metrics


def probe_chance(sets: Iterable[ProbeSet]) -> dict[str, float]:
    """Metric -> accuracy of a classifier that sees no image: always the most frequent class of the training images.

    Of several most frequent ones, the first. Above 1 / K where classes differ in size.
    """
    levels: dict[str, float] = {}
    for one in sets:
        most_frequent = torch.bincount(one.train.labels, minlength=len(one.classes)).argmax()
        share = (one.test.labels == most_frequent).double().mean().item()
        levels |= dict.fromkeys(metrics_of(one.name), share)
    return levels


def metrics_of(name: str) -> tuple[str, str]:
    """The metrics of a set: k-NN, linear probe."""
    knn, linear = (join_name(name, None, rest) for rest in (metric_names.KNN, metric_names.LINEAR_PROBE))
    return at_k(knn, 1), at_k(linear, 1)


class _Probe:
    """Both classifiers of one set; they share its features."""

    def __init__(self, data: ProbeSet, device: torch.device) -> None:
        self.data = data
        knn = KNN(len(data.classes), k=data.k)
        linear = LinearProbe(len(data.classes), l2=data.l2, max_iter=data.max_iter)
        self._classifiers = [knn.to(device), linear.to(device)]

    def users(self) -> list[ImageUser]:
        """Training and test images; the position in its part is an image's id."""
        parts = ((self.data.train, self._add_train), (self.data.test, self._add_test))
        return [ImageUser(name=self.data.name, images=part.images, add=add) for part, add in parts]

    def _add_train(self, rows: Tensor, ids: Tensor) -> None:
        self._update(rows, self.data.train.labels[ids], ids, train=True)

    def _add_test(self, rows: Tensor, ids: Tensor) -> None:
        self._update(rows, self.data.test.labels[ids], ids, train=False)

    def _update(self, rows: Tensor, labels: Tensor, ids: Tensor, *, train: bool) -> None:
        for classifier in self._classifiers:
            classifier.update(rows, labels, train=train, ids=ids)

    def compute(self) -> dict[str, float]:
        names = metrics_of(self.data.name)
        return {
            name: classifier.compute()["top1"].item() for name, classifier in zip(names, self._classifiers, strict=True)
        }
