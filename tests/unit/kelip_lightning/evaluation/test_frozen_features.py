"""Nearest neighbours and linear probe against NumPy and scikit-learn, over processes, and through torchmetrics."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression as SklearnRegression
from sklearn.metrics import balanced_accuracy_score
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from kelip_lightning.errors import NonFiniteEmbeddingsError
from kelip_lightning.evaluation.frozen_features import KNN, LinearProbe
from kelip_lightning.evaluation.logistic_regression import (
    L2_GRID,
    fit_logistic_regression,
    search_l2,
    validation_rows,
    validation_score,
)
from tests.distributed.launch import launch

NUM_TRAIN, NUM_TEST, WIDTH, NUM_CLASSES = 211, 67, 12, 7
Rows = tuple[Tensor, Tensor, Tensor]
METRICS: dict[str, Callable[[], KNN | LinearProbe]] = {
    "knn": lambda: KNN(NUM_CLASSES, k=9, chunk=16),
    "fixed": lambda: LinearProbe(NUM_CLASSES, l2=0.5, chunk=16),
    "searched": lambda: LinearProbe(NUM_CLASSES, max_iter=100, chunk=16),
}
every_metric = pytest.mark.parametrize("name", METRICS)


def _rows(seed: int = 0, num_classes: int = NUM_CLASSES, spread: float = 1.5) -> tuple[Rows, Rows]:
    """Features, labels and ids of training and evaluation rows: Gaussians around random centres, overlapping."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(num_classes, WIDTH, generator=generator)
    labels = torch.randint(0, num_classes, (NUM_TRAIN + NUM_TEST,), generator=generator)
    features = centres[labels] + spread * torch.randn(len(labels), WIDTH, generator=generator)
    ids = torch.randperm(10_000, generator=generator)[: len(labels)]
    train, test = slice(NUM_TRAIN), slice(NUM_TRAIN, None)
    return (features[train], labels[train], ids[train]), (features[test], labels[test], ids[test])


def _update(metric: Metric | MetricCollection, rows: Rows, train: bool, batch: int = 50) -> None:
    for features, labels, ids in zip(*(column.split(batch) for column in rows), strict=True):
        metric.update(features, labels, train=train, ids=ids)


def _computed(metric: KNN | LinearProbe, train: Rows, test: Rows) -> tuple[dict[str, float], Tensor, Tensor]:
    _update(metric, train, train=True)
    _update(metric, test, train=False)
    values = {name: value.item() for name, value in metric.compute().items()}
    return values, *metric.items()


def _shuffled(rows: Rows, seed: int) -> Rows:
    order = torch.randperm(len(rows[0]), generator=torch.Generator().manual_seed(seed))
    return rows[0][order], rows[1][order], rows[2][order]


def _naive_knn_rank(row: np.ndarray, label: int, train: np.ndarray, labels: np.ndarray, k: int, heat: float) -> int:
    similarity = [float(row @ one) / np.linalg.norm(row) / np.linalg.norm(one) for one in train]
    votes = np.zeros(NUM_CLASSES)
    for neighbour in sorted(range(len(train)), key=lambda index: -similarity[index])[:k]:
        votes[labels[neighbour]] += np.exp(similarity[neighbour] / heat)
    return sum(votes[one] >= votes[label] for one in range(NUM_CLASSES) if one != label)


@pytest.mark.parametrize(("k", "temperature", "chunk"), [(1, 0.07, 256), (20, 0.07, 10), (NUM_TRAIN, 1.0, 67)])
def test_knn__equals_naive_loop(k: int, temperature: float, chunk: int) -> None:
    train, test = _rows()
    values, ids, ranks = _computed(KNN(NUM_CLASSES, k, temperature, chunk), train, test)
    gallery, queries = train[0].double().numpy(), test[0].double().numpy()
    expected = {
        int(test[2][place]): _naive_knn_rank(row, int(test[1][place]), gallery, train[1].numpy(), k, temperature)
        for place, row in enumerate(queries)
    }
    assert ids.tolist() == sorted(expected)
    assert dict(zip(ids.tolist(), ranks.tolist(), strict=True)) == expected
    found = np.array(list(expected.values()))
    assert values["top1"] == pytest.approx((found < 1).mean())
    assert values["top5"] == pytest.approx((found < 5).mean())
    right, labels = found == 0, test[1].numpy()
    assert values["mean_per_class_recall"] == pytest.approx(
        np.mean([right[labels == one].mean() for one in np.unique(labels)])
    )
    assert 0.2 < values["top1"] < 0.9


def test_knn__one_neighbour_equals_scikit_learn() -> None:
    train, test = _rows(1)
    peer = KNeighborsClassifier(1, metric="cosine").fit(train[0].numpy(), train[1].numpy())
    values, _, _ = _computed(KNN(NUM_CLASSES, k=1), train, test)
    predicted = peer.predict(test[0].numpy())
    assert values["top1"] == pytest.approx((predicted == test[1].numpy()).mean())
    assert values["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(test[1].numpy(), predicted))


def test_knn__of_equal_neighbours_the_lowest_ids_vote_and_a_class_without_votes_is_last() -> None:
    labels = torch.tensor([0, 0, 1, 1, 2])
    metric = KNN(num_classes=6, k=2, temperature=1e-4)
    metric.update(torch.ones(5, 3), labels, train=True, ids=torch.tensor([9, 8, 2, 1, 5]))
    metric.update(torch.ones(3, 3), torch.tensor([0, 1, 4]), train=False)
    metric.compute()
    assert metric.items()[1].tolist() == [5, 0, 5]


@pytest.mark.parametrize("num_classes", [2, 7])
@pytest.mark.parametrize("l2", [10.0, 0.1])
def test_linear_probe__equals_scikit_learn(num_classes: int, l2: float) -> None:
    (features, labels, ids), test = _rows(2, num_classes)
    peer = SklearnRegression(C=1 / l2, max_iter=10_000, tol=1e-10).fit(features.double().numpy(), labels.numpy())
    probe = LinearProbe(num_classes, l2=l2)
    values, _, ranks = _computed(probe, (features, labels, ids), test)
    assert probe.classifier is not None
    assert probe.classifier.converged
    assert probe.classifier.weight.dtype == torch.float64
    weight, bias, decisions = probe.classifier.weight, probe.classifier.bias, probe.classifier.scores(test[0])
    if num_classes == 2:  # scikit-learn has one weight for both
        weight, bias, decisions = weight[1:] - weight[:1], bias[1:] - bias[:1], decisions[:, 1] - decisions[:, 0]
    np.testing.assert_allclose(weight.numpy(), peer.coef_, atol=1e-4)
    np.testing.assert_allclose(bias.numpy(), peer.intercept_, atol=1e-4)
    np.testing.assert_allclose(decisions.numpy(), peer.decision_function(test[0].double().numpy()), atol=1e-4)
    predicted = peer.predict(test[0].double().numpy())
    assert probe.classifier.scores(test[0]).argmax(dim=1).tolist() == predicted.tolist()
    assert ranks[test[2].argsort().argsort()].eq(0).tolist() == (predicted == test[1].numpy()).tolist()
    assert values["mean_per_class_recall"] == pytest.approx(balanced_accuracy_score(test[1].numpy(), predicted))
    assert ("top5" in values) == (num_classes >= 5)


def test_linear_probe__a_class_without_training_rows_is_never_predicted() -> None:
    (features, labels, ids), test = _rows(3)
    kept = labels != 4
    probe = LinearProbe(NUM_CLASSES, l2=1.0)
    _computed(probe, (features[kept], labels[kept], ids[kept]), test)
    ranks = probe.items()[1][test[2].argsort().argsort()]
    assert (ranks[test[1] == 4] == NUM_CLASSES - 1).all()
    assert (ranks == 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_linear_probe__searched_penalty_is_the_best_of_the_whole_grid(seed: int) -> None:
    """Validation accuracies by scikit-learn on all 97 penalties of the grid; rows are sorted by id before."""
    train, test = _rows(seed, spread=2.5)
    order = train[2].argsort()
    features, labels, held_out = train[0][order], train[1][order], validation_rows(train[2][order])
    assert int(held_out.sum()) == round(0.2 * NUM_TRAIN)
    accuracies = {
        l2: SklearnRegression(C=1 / l2, max_iter=300)
        .fit(features[~held_out].numpy(), labels[~held_out].numpy())
        .score(features[held_out].numpy(), labels[held_out].numpy())
        for l2 in L2_GRID
    }
    probe = LinearProbe(NUM_CLASSES)
    _computed(probe, train, test)
    assert probe.classifier is not None
    chosen = fit_logistic_regression(features[~held_out], labels[~held_out], NUM_CLASSES, probe.classifier.l2)
    accuracy = validation_score(chosen, features[held_out], labels[held_out])[0].item()
    assert accuracy >= max(accuracies.values()) - 1e-9
    assert accuracy > min(accuracies.values())
    whole = fit_logistic_regression(features, labels, NUM_CLASSES, probe.classifier.l2)
    torch.testing.assert_close(probe.classifier.weight, whole.weight)


@pytest.mark.parametrize("peak", [0, 5, 42, 77, 96])
def test_search_l2__finds_a_single_peak_with_at_most_15_fits(peak: int) -> None:
    asked: list[float] = []

    def evaluate(penalties: list[float]) -> list[tuple[float, float]]:
        asked.extend(penalties)
        return [(-abs(np.log10(l2) - np.log10(L2_GRID[peak])), 0.0) for l2 in penalties]

    assert search_l2(evaluate) == L2_GRID[peak]
    assert len(asked) == len(set(asked)) <= 15
    np.testing.assert_allclose(asked[:7], [1e-6, 1e-4, 1e-2, 1, 1e2, 1e4, 1e6])


@every_metric
def test_order_and_repeated_ids__change_nothing(name: str) -> None:
    train, test = _rows(4)
    expected, ids, ranks = _computed(METRICS[name](), train, test)
    again = [torch.cat([column, column[:9]]) for column in train]
    values, other_ids, other_ranks = _computed(
        METRICS[name](), _shuffled((again[0], again[1], again[2]), 1), _shuffled(test, 2)
    )
    assert values == expected
    assert other_ids.equal(ids)
    assert other_ranks.equal(ranks)


def _work(rank: int, world: int, folder: Path) -> None:
    """Every rank has other rows, two of them with repeated ids; the last rank of three has none."""
    torch.distributed.init_process_group("gloo")
    train, test = _rows(5)
    busy = min(world, 2)
    for name, build in METRICS.items():
        metric = build()
        if rank < busy:
            own = slice(rank * 140, 150 + rank * 140)
            _update(metric, (train[0][own], train[1][own], train[2][own]), train=True)
            _update(metric, (test[0][rank::busy], test[1][rank::busy], test[2][rank::busy]), train=False)
        values = {key: value.item() for key, value in metric.compute().items()}
        torch.save((values, *metric.items()), folder / f"{name}-{rank}.pt")
        # Every rank updates, all but one with no rows: a rank with a cached result would not gather.
        rows = int(rank == 0)
        label = torch.zeros(rows, dtype=torch.int64)
        metric.update(torch.full((rows, WIDTH), torch.nan), label, train=True, ids=label + 10_001)
        for _ in range(2):  # the gathered state is given up after an error
            with pytest.raises(NonFiniteEmbeddingsError, match="1 of"):
                metric.compute()
    torch.distributed.destroy_process_group()


@pytest.mark.distributed
@pytest.mark.parametrize("world", [2, 3])
def test_processes__equal_one_item_by_item(world: int, tmp_path: Path) -> None:
    launch(_work, world, tmp_path)
    train, test = _rows(5)
    for name, build in METRICS.items():
        expected, ids, ranks = _computed(build(), train, test)
        for rank in range(world):
            values, other_ids, other_ranks = torch.load(tmp_path / f"{name}-{rank}.pt", weights_only=True)
            assert values == expected, f"{name}, rank {rank}"
            assert other_ids.equal(ids), f"{name}, rank {rank}"
            assert other_ranks.equal(ranks), f"{name}, rank {rank}"


@every_metric
def test_lifecycle__reset_pickle_clone_and_state_dict(name: str) -> None:
    train, test = _rows(6)
    metric = METRICS[name]()
    _update(metric, train, train=True)
    metric.persistent(True)
    restored = METRICS[name]()
    restored.persistent(True)
    restored.load_state_dict(metric.state_dict())
    copies = [metric.clone(), pickle.loads(pickle.dumps(metric)), restored, metric]
    results = []
    for one in copies:
        _update(one, test, train=False)
        results.append((one.compute(), one.items()[1].tolist()))
    assert all(result == results[0] for result in results)
    metric.reset()
    with pytest.raises(ValueError, match="has not been called since the reset"):
        metric.items()
    other_train, other_test = _rows(7)
    assert _computed(metric, other_train, other_test)[2].equal(_computed(METRICS[name](), other_train, other_test)[2])


def test_metric_collection__shares_rows_and_computes_anew_after_an_update() -> None:
    train, test = _rows(8)
    collection = MetricCollection({"knn": METRICS["knn"](), "probe": METRICS["fixed"]()}, prefix="frozen/")
    _update(collection, train, train=True)
    for part in (slice(30), slice(30, None)):
        _update(collection, (test[0][part], test[1][part], test[2][part]), train=False)
        values = collection.compute()
    assert len(collection.compute_groups) == 1
    for key, name in (("knn", "knn"), ("probe", "fixed")):
        expected, _, _ = _computed(METRICS[name](), train, test)
        assert {rest: values[f"frozen/{key}_{rest}"].item() for rest in expected} == expected


@pytest.mark.parametrize(
    "convert", [lambda metric: metric.to(torch.float64), lambda metric: metric.set_dtype(torch.float64)]
)
def test_dtype__features_are_converted_and_ids_stay_integers(convert: Callable[[Metric], Metric]) -> None:
    train, test = _rows(9)
    large = 2**60 + torch.arange(NUM_TEST)
    metric = METRICS["knn"]()
    _update(metric, train, train=True)
    convert(metric)
    metric.update(test[0].half(), test[1], train=False, ids=large)
    metric.compute()
    assert {one.dtype for one in metric.features} == {torch.float64}
    assert metric.items()[0].equal(large)


def _refused(**changes: object) -> KNN:
    given = {"num_classes": 3, "k": 1, "temperature": 0.07, "chunk": 8} | changes
    return KNN(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("features", "labels", "ids", "message"),
    [
        (torch.rand(2), torch.zeros(2, dtype=torch.int64), None, r"features must be floats \(B, E\)"),
        (torch.ones(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), None, "features must be floats"),
        (torch.rand(2, 3), torch.zeros(3, dtype=torch.int64), None, "labels must be int64"),
        (torch.rand(2, 3), torch.zeros(2), None, "labels must be int64"),
        (torch.rand(2, 3), torch.zeros(2, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), "ids must be int64"),
        (torch.rand(1, 3), torch.tensor([3]), None, r"labels must lie in \[0, 3\), got 0 to 3"),
        (torch.rand(1, 3), torch.tensor([-1]), None, r"got -1 to 0"),
        (torch.rand(1, 4), torch.tensor([0]), None, r"same width, got \[3, 4\]"),
        (torch.tensor([[0.0, torch.inf, 0.0]]), torch.tensor([0]), None, "not finite"),
        (torch.rand(1, 3), torch.tensor([1]), torch.tensor([5]), "for all rows of a split or for none"),
    ],
)
def test_update_and_compute__refuse(features: Tensor, labels: Tensor, ids: Tensor | None, message: str) -> None:
    metric = _refused()
    metric.update(torch.rand(2, 3), torch.zeros(2, dtype=torch.int64), train=True)
    metric.update(torch.rand(2, 3), torch.zeros(2, dtype=torch.int64), train=False)
    with pytest.raises(ValueError, match=message):  # noqa: PT012 - shapes are refused at once, contents later
        metric.update(features, labels, train=True, ids=ids)
        metric.compute()


def test_compute__refuses_missing_splits_contradicting_labels_and_too_few_rows() -> None:
    row, label = torch.rand(1, 3), torch.tensor([0])
    for train, missing in ((True, "evaluation"), (False, "training")):
        metric = _refused()
        metric.update(row, label, train=train)
        with pytest.raises(ValueError, match=f"there are no {missing} rows"):
            metric.compute()
    contradicting = _refused()
    for one in (0, 1):
        contradicting.update(row, torch.tensor([one]), train=True, ids=torch.tensor([77]))
    contradicting.update(row, label, train=False)
    with pytest.raises(ValueError, match="id 77 has several"):
        contradicting.compute()
    for small, message in ((_refused(k=2), "number of training rows, 1, got 2"), (LinearProbe(3), "at least two")):
        small.update(row, label, train=True)
        small.update(row, label, train=False)
        with pytest.raises(ValueError, match=message):
            small.compute()
    for build in (lambda: _refused(temperature=0.0), lambda: _refused(k=0), lambda: LinearProbe(3, l2=0.0)):
        with pytest.raises(ValueError, match="got"):
            build()
