"""k-NN and linear probe of a model's features against scikit-learn, their chance level, and errors."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from data_modules.benchmarks.image_stream import SelectedImages
from data_modules.benchmarks.probe_sets import LabelledImages, ProbeSet
from data_modules.errors import DataError
from kelip_lightning.errors import NonFiniteEmbeddingsError
from kelip_lightning.evaluation.encoders import ImageFunctions
from kelip_lightning.evaluation.probe import evaluate_probes, probe_chance
from kelip_lightning.evaluation.suite import Streaming
from tests.sample_tables import MemoryTable, raw_pixels

NUM_TRAIN, NUM_TEST, NUM_CLASSES, WIDTH, K, L2 = 90, 50, 4, 10, 7, 0.3
WEIGHT = torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(3)).double()


def _encode(images: Tensor) -> Tensor:
    assert not torch.is_grad_enabled()
    return (images.double().flatten(1) - 128) / 64 @ WEIGHT


def _labels(table: MemoryTable, rows: np.ndarray) -> Tensor:
    """Classes that the features tell in part: by the sum of three pixels."""
    sums = table.pixels[torch.from_numpy(rows)].flatten(1)[:, :3].sum(dim=1, dtype=torch.int64)
    return torch.bucketize(sums, torch.tensor([290, 382, 475]))


def _part(table: MemoryTable, rows: np.ndarray) -> LabelledImages:
    return LabelledImages(images=SelectedImages(table, rows), labels=_labels(table, rows))


def _set(name: str, table: MemoryTable, train: np.ndarray, test: np.ndarray, k: int = K) -> ProbeSet:
    return ProbeSet(
        name=name,
        train=_part(table, train),
        test=_part(table, test),
        classes=[str(number) for number in range(NUM_CLASSES)],
        k=k,
        l2=L2,
        max_iter=1000,
    )


def _functions(encode: object = _encode) -> ImageFunctions:
    return ImageFunctions(name="x", preprocess=raw_pixels, encode_images=encode, device=torch.device("cpu"))  # type: ignore[arg-type]


def _rows() -> tuple[np.ndarray, np.ndarray]:
    mixed = np.random.default_rng(0).permutation(NUM_TRAIN + NUM_TEST)
    return mixed[:NUM_TRAIN], mixed[NUM_TRAIN:]


def test_evaluate_probes__equal_scikit_learn() -> None:
    table, (train, test) = MemoryTable("one", NUM_TRAIN + NUM_TEST), _rows()
    found = evaluate_probes([_set("sums", table, train, test)], _functions(), Streaming())
    x, y = ((_encode_of(table, rows), _labels(table, rows).numpy()) for rows in (train, test))
    weights = KNeighborsClassifier(K, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07))
    regression = LogisticRegression(C=1 / L2, tol=1e-8, max_iter=5000)
    expected = {
        "eval/sums/knn_top1": weights.fit(*x).score(*y),
        "eval/sums/linear_probe_top1": regression.fit(*x).score(*y),
    }
    assert found == pytest.approx(expected, abs=1e-6)
    chance = max(probe_chance([_set("sums", table, train, test)]).values())
    assert chance < min(found.values()) < max(found.values()) < 1.0, "any classifier would agree"


def _encode_of(table: MemoryTable, rows: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return _encode(table.pixels[torch.from_numpy(rows)]).float().numpy()


def test_evaluate_probes__independent_of_batches_and_no_image_twice() -> None:
    table, (train, test) = MemoryTable("one", NUM_TRAIN + NUM_TEST), _rows()
    sets = [_set("all", table, train, test), _set("some", table, train[20:70], test[10:], k=3)]
    seen: list[int] = []

    def counted(images: Tensor) -> Tensor:
        seen.append(len(images))
        return _encode(images)

    found = evaluate_probes(sets, _functions(counted), Streaming(batch_size=16))
    assert sum(seen) == NUM_TRAIN + NUM_TEST
    for one in sets:
        alone = evaluate_probes([one], _functions(), Streaming(batch_size=64))
        assert alone == {name: value for name, value in found.items() if name.startswith(f"eval/{one.name}/")}
    assert len(found) == 4


def test_evaluate_probes__features_that_are_not_finite_name_their_set() -> None:
    table, (train, test) = MemoryTable("one", NUM_TRAIN + NUM_TEST), _rows()
    broken = _functions(lambda images: _encode(images).index_fill(0, torch.tensor([0]), torch.nan))
    with pytest.raises(NonFiniteEmbeddingsError, match="evaluation set sums: "):
        evaluate_probes([_set("sums", table, train, test)], broken, Streaming())


def test_evaluate_probes__a_broken_image_is_named() -> None:
    train, test = _rows()
    table = MemoryTable("one", NUM_TRAIN + NUM_TEST, [int(test[5])])
    with pytest.raises(DataError, match=rf"evaluation set sums: image 'image {test[5]}' cannot be used"):
        evaluate_probes([_set("sums", table, train, test)], _functions(), Streaming())


def test_probe_chance__the_most_frequent_training_class() -> None:
    images = SelectedImages(MemoryTable("one", 9), np.arange(5))
    train = LabelledImages(images=images, labels=torch.tensor([2, 1, 2, 0, 1]))  # 1 and 2 twice: 1
    test = LabelledImages(images=images, labels=torch.tensor([1, 2, 2, 1, 1]))
    one = ProbeSet(name="x", train=train, test=test, classes=["a", "b", "c"], k=1, l2=1.0, max_iter=10)
    assert probe_chance([one]) == {"eval/x/knn_top1": 0.6, "eval/x/linear_probe_top1": 0.6}
