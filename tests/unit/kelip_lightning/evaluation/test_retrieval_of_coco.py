"""Recalls of COCO's 5,000 test images and 25,000 captions against the `eccv_caption` package.

Its R@K is the share of queries with any correct item among the first K, over the queries that its list of positives
names, with the original pairs of COCO, those of CxC, or those of ECCV Caption. ECCV Caption names 1,261 images and
1,332 captions as queries, with positives of each direction by itself; each direction is therefore a metric of its own
here. Two of its positives are captions that are not among the 25,000 and cannot be found. Its mAP@R and R-Precision,
and the mean over five folds of 1,000 images, are other metrics.
"""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kelip_lightning.evaluation.retrieval import RetrievalRecall
from tests.embeddings import random_rows, trained_rows

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # without ujson it reads by json, and says so
    from eccv_caption import Metrics

KS = (1, 5, 10)
Positives = Mapping[int, Sequence[int]]
"""Query -> its correct items."""


class Rankings:
    """Embeddings of images and captions, and for each query its ten best items."""

    def __init__(self, captions: Mapping[int, int], width: int) -> None:
        """`captions`: caption id -> image id."""
        self.text_ids, self.image_ids = torch.tensor(sorted(captions)), torch.tensor(sorted(set(captions.values())))
        owners = torch.searchsorted(self.image_ids, torch.tensor([captions[one] for one in self.text_ids.tolist()]))
        self.images = random_rows(len(self.image_ids), width, 0)
        self.texts = trained_rows(owners, self.images, 1, noise=2.0)
        self.i2t = self._ranked(self.images, self.image_ids, self.texts, self.text_ids)
        self.t2i = self._ranked(self.texts, self.text_ids, self.images, self.image_ids)

    @staticmethod
    def _ranked(queries: Tensor, ids: Tensor, gallery: Tensor, gallery_ids: Tensor) -> dict[int, list[int]]:
        best = [(F.normalize(part) @ gallery.T).topk(max(KS), dim=1).indices for part in queries.split(500)]
        return dict(zip(ids.tolist(), gallery_ids[torch.cat(best)].tolist(), strict=True))


def _pairs(positives: Positives) -> Tensor:
    return torch.tensor([[query, item] for query, items in positives.items() for item in items])


def _recalls(metric: RetrievalRecall, direction: str) -> list[float]:
    values = metric.compute()
    return [values[f"{direction}_R@{k}"].item() for k in KS]


def _both_ways(rankings: Rankings, positives: Tensor) -> dict[str, list[float]]:
    """Direction -> recalls, from one metric with pairs (image, caption)."""
    metric = RetrievalRecall(positives)
    for ids in torch.randperm(len(rankings.image_ids)).split(999):
        metric.update(images=rankings.images[ids], image_ids=rankings.image_ids[ids])
    for ids in torch.randperm(len(rankings.text_ids)).split(999):
        metric.update(texts=rankings.texts[ids], text_ids=rankings.text_ids[ids])
    return {"i2t": _recalls(metric, "image_to_text"), "t2i": _recalls(metric, "text_to_image")}


def _one_way(queries: Tensor, ids: Tensor, gallery: Tensor, gallery_ids: Tensor, positives: Positives) -> list[float]:
    """Recalls of the queries that have positives; the others are not in the metric at all."""
    pairs = _pairs(positives)
    metric = RetrievalRecall(pairs[torch.isin(pairs[:, 1], gallery_ids)])
    is_query = torch.isin(ids, torch.tensor(list(positives)))
    metric.update(queries[is_query], ids[is_query], gallery, gallery_ids)
    return _recalls(metric, "image_to_text")


@pytest.fixture(scope="module")
def theirs() -> Any:
    return Metrics()


def _assert_equal(theirs: Any, name: str, rankings: Rankings, found: Mapping[str, list[float]]) -> None:
    ranked = {"i2t": rankings.i2t, "t2i": rankings.t2i}
    for column, k in enumerate(KS):
        expected = getattr(theirs, f"{name}_recalls")(ranked, "all", K=k)
        for direction, recalls in found.items():
            assert recalls[column] == pytest.approx(expected[direction], abs=1e-6), (name, direction, k)
            assert 0.02 < recalls[column] < 0.98, "tells nothing"


@pytest.fixture(scope="module")
def rankings(theirs: Any) -> Rankings:
    return Rankings({caption: images[0] for caption, images in theirs.coco_gts["t2i"].items()}, 16)


@pytest.mark.parametrize(("name", "num_pairs"), [("coco", 25_000), ("cxc", 35_585)])
def test_coco_and_cxc__both_directions_of_one_metric(
    theirs: Any, rankings: Rankings, name: str, num_pairs: int
) -> None:
    positives = _pairs(getattr(theirs, f"{name}_gts")["i2t"])
    assert len(positives) == num_pairs
    _assert_equal(theirs, f"{name}_5k" if name == "coco" else name, rankings, _both_ways(rankings, positives))


def test_eccv_caption__each_direction_by_its_own_positives(theirs: Any, rankings: Rankings) -> None:
    images, texts = (rankings.images, rankings.image_ids), (rankings.texts, rankings.text_ids)
    i2t, t2i = theirs.eccv_gts["i2t"], theirs.eccv_gts["t2i"]
    assert (len(i2t), len(t2i)) == (1261, 1332)
    found = {"i2t": _one_way(*images, *texts, i2t), "t2i": _one_way(*texts, *images, t2i)}
    _assert_equal(theirs, "eccv", rankings, found)
