"""Our metrics as torchmetrics: without a process group, in any order, copied, cast and reset."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from kelip_lightning.evaluation.gathered_metric import GatheredMetric, sorted_once
from kelip_lightning.evaluation.ranks import TIE_RULES, QueryOutcomes
from kelip_lightning.evaluation.retrieval import CaptionRetrieval, RetrievalRecall
from kelip_lightning.evaluation.zero_shot import ZeroShotAccuracy
from tests.embeddings import random_rows, tied_rows

NUM, WIDTH, NUM_TEXTS = 41, 6, 95
IMAGES, TEXTS, CLASSES = tied_rows(NUM, WIDTH, 0), tied_rows(NUM_TEXTS, WIDTH, 1), tied_rows(7, WIDTH, 2)
PAIRS = torch.stack([torch.arange(NUM_TEXTS) % NUM, torch.arange(NUM_TEXTS)], dim=1)
METRICS: dict[str, Callable[[], GatheredMetric]] = {
    f"{name}, {rule}": make
    for rule in TIE_RULES
    for name, make in {
        "retrieval": lambda rule=rule: RetrievalRecall(PAIRS, tie_rule=rule, shown_ids=torch.tensor([4, 9])),
        "captions": lambda rule=rule: CaptionRetrieval(tie_rule=rule),
        "zero-shot": lambda rule=rule: ZeroShotAccuracy(CLASSES, tie_rule=rule),
    }.items()
}


@pytest.fixture(params=METRICS)
def make(request: pytest.FixtureRequest) -> Callable[[], GatheredMetric]:
    return METRICS[request.param]


def _add(metric: Metric, ids: Tensor, text_ids: Tensor) -> None:
    match metric:
        case RetrievalRecall():
            metric.update(IMAGES[ids], ids, TEXTS[text_ids], text_ids)
        case CaptionRetrieval():
            metric.update(IMAGES[ids], ids)
            metric.update(en=TEXTS[text_ids[text_ids < NUM]], en_ids=text_ids[text_ids < NUM])
        case ZeroShotAccuracy():
            metric.update(IMAGES[ids], ids % 7, ids)


def _add_all(metric: Metric) -> None:
    _add(metric, torch.arange(NUM), torch.arange(NUM_TEXTS))


def _results(metric: GatheredMetric) -> dict[str, object]:
    """All that a metric tells, as plain values."""
    found: dict[str, object] = {name: value.item() for name, value in metric.compute().items()}
    outcomes = metric.outcomes if isinstance(metric.outcomes, dict) else {"": metric.outcomes}
    for task, one in outcomes.items():
        assert isinstance(one, QueryOutcomes)
        found |= {f"{task} {name}": getattr(one, name).tolist() for name in ("ids", "pessimistic_ranks", "topk_hits")}
    for name in ("top_texts", "top_matches", "matched_minus_random", "item_labels"):
        if (value := getattr(metric, name, None)) is not None:
            found[name] = [part.tolist() for part in value]
    return found


def test_results__do_not_depend_on_order_and_batches_and_repeated_ids(make: Callable[[], GatheredMetric]) -> None:
    expected = make()
    _add_all(expected)
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        metric = make()
        images = torch.cat([torch.randperm(NUM, generator=generator), torch.arange(seed)])  # the last ones again
        texts = torch.cat([torch.randperm(NUM_TEXTS, generator=generator), torch.arange(seed)])
        for part in range(4):
            _add(metric, images[part::4], texts[part::4])
        assert _results(metric) == _results(expected)


def test_compute__twice_and_after_more_rows(make: Callable[[], GatheredMetric]) -> None:
    metric, whole = make(), make()
    _add_all(whole)
    _add_all(metric)
    first = metric.compute()
    assert metric.compute() == first == whole.compute()
    _add_all(metric)  # nothing new
    assert metric.compute() == first
    assert all(value.dtype == torch.float64 and value.ndim == 0 for value in first.values())


def test_reset__forgets_all_rows(make: Callable[[], GatheredMetric]) -> None:
    metric, fresh = make(), make()
    _add_all(metric)
    before = _results(metric)
    metric.reset()
    assert not any(getattr(metric, name) for name in metric.empty_states(0))
    _add_all(metric)
    _add_all(fresh)
    assert _results(metric) == before == _results(fresh)


@pytest.mark.parametrize(
    "copied", [lambda one: one.clone(), copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))]
)
def test_copies__have_rows_of_their_own(
    make: Callable[[], GatheredMetric], copied: Callable[[GatheredMetric], GatheredMetric]
) -> None:
    metric, whole = make(), make()
    _add_all(whole)
    _add(metric, torch.arange(20), torch.arange(60))
    other = copied(metric)
    _add(other, torch.arange(20, NUM), torch.arange(60, NUM_TEXTS))
    assert _results(other) == _results(whole)
    _add(metric, torch.arange(20, NUM), torch.arange(60, NUM_TEXTS))
    assert _results(metric) == _results(whole)


def test_float64__changes_nothing(make: Callable[[], GatheredMetric]) -> None:
    metric, whole = make(), make()
    _add_all(whole)
    _add(metric, torch.arange(20), torch.arange(60))
    metric = metric.to(torch.float64)
    _add(metric, torch.arange(20, NUM), torch.arange(60, NUM_TEXTS))
    assert _results(metric) == _results(whole)


def test_embeddings_of_other_precision_and_length__are_normalised_in_float32() -> None:
    images, ids = random_rows(30, WIDTH, 3), torch.arange(30)
    plain, long, half = (RetrievalRecall() for _ in range(3))
    plain.update(images, ids, images, ids)
    long.update(7 * images.double(), ids.int(), 0.1 * images, ids)
    half.update(images.bfloat16(), ids, images.bfloat16(), ids)
    assert plain.compute() == long.compute()
    torch.testing.assert_close(torch.cat(half.image_rows).norm(dim=1), torch.ones(30))


def test_empty_updates__add_nothing(make: Callable[[], GatheredMetric]) -> None:
    metric, whole, none = make(), make(), torch.empty(0, dtype=torch.int64)
    _add(metric, none, none)
    _add_all(metric)
    _add(metric, none, none)
    _add_all(whole)
    assert _results(metric) == _results(whole)


@pytest.mark.filterwarnings("ignore:The ``compute`` method of metric")
def test_nothing_added__is_one_sentence(make: Callable[[], GatheredMetric]) -> None:
    with pytest.raises(ValueError, match=r"(needs images|needs one translation)[^.]*$"):
        make().compute()


def test_collection__of_both_tie_rules() -> None:
    """Torchmetrics lets metrics of equal states share them."""
    alone = {rule: RetrievalRecall(PAIRS, tie_rule=rule) for rule in TIE_RULES}
    together = MetricCollection({rule: RetrievalRecall(PAIRS, tie_rule=rule) for rule in TIE_RULES})
    for _ in range(2):
        for ids, text_ids in ((torch.arange(9), torch.arange(50)), (torch.arange(9, NUM), torch.arange(50, NUM_TEXTS))):
            given = {"images": IMAGES[ids], "image_ids": ids, "texts": TEXTS[text_ids], "text_ids": text_ids}
            together.update(**given)
            for metric in alone.values():
                metric.update(**given)
        found = together.compute()
        for rule, metric in alone.items():
            for name, value in metric.compute().items():
                assert found[f"{rule}_{name}"] == value
        assert found["topk_mean_recall"] > found["pessimistic_mean_recall"]
        together.reset()
        for metric in alone.values():
            metric.reset()


def test_sorted_once__first_row_of_each_id_by_id() -> None:
    ids = [5, 2, 5, 9, 2, 2, 0]
    expected = [ids.index(one) for one in sorted(set(ids))]
    assert sorted_once(torch.tensor(ids)).tolist() == expected
    assert sorted_once(torch.tensor([], dtype=torch.int64)).tolist() == []
