"""All sets of a model, against the metrics by themselves and NumPy."""

import math
from collections import Counter
from collections.abc import Callable
from zlib import crc32

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from data_modules.benchmarks.class_names import ClassNames
from data_modules.benchmarks.evaluation_sets import CaptionSet, ClassificationSet, EvaluationSets, RetrievalSet
from data_modules.benchmarks.image_stream import SelectedImages
from data_modules.errors import DataError
from kelip_lightning.errors import NonFiniteEmbeddingsError
from kelip_lightning.evaluation.chance import chance_levels
from kelip_lightning.evaluation.encoders import Encoders
from kelip_lightning.evaluation.retrieval import CaptionRetrieval, RetrievalRecall
from kelip_lightning.evaluation.suite import Evaluation, Streaming, batch_size_of, evaluate_sets
from kelip_lightning.evaluation.tasks import first_positives, spread_evenly
from kelip_lightning.evaluation.zero_shot import ZeroShotAccuracy, class_embeddings
from tests.sample_tables import MemoryTable, raw_pixels

WIDTH, NUM_CAPTIONS = 12, 30
CAPTIONS = {"ko": [f"그림 {n}" for n in range(NUM_CAPTIONS)], "en": [f"picture {n} " * (n % 3 + 1) for n in range(30)]}
CONCEPTS = torch.cat([torch.arange(12), torch.arange(8), torch.tensor([3, 3])])
CLASSES = ClassNames(
    ids=[f"class {n}" for n in range(7)],
    names={"ko": [[f"가 {n}", f"{n}"] if n != 2 else [] for n in range(7)], "en": [[f"a {n}"] for n in range(7)]},
    templates={"ko": ["{} 그림"], "en": ["one {}", "the {c}"]},
)
"""The third has no Korean name."""


def _retrieval(name: str, table: MemoryTable, rows: np.ndarray, tie_rule: str = "pessimistic") -> RetrievalSet:
    """Each of 22 images with the caption of its concept, each caption an own concept."""
    pairs = torch.stack([torch.arange(22), CONCEPTS], dim=1)
    return RetrievalSet(
        name=name,
        identity=table.identity,
        tie_rule=tie_rule,
        images=SelectedImages(table, rows),
        captions=CAPTIONS,
        positives={"ko": pairs, "en": torch.cat([pairs, torch.tensor([[0, 29], [21, 28]])])},
        image_concepts=CONCEPTS,
        caption_concepts={language: torch.arange(NUM_CAPTIONS) for language in CAPTIONS},
    )


def _classification(table: MemoryTable, rows: np.ndarray) -> ClassificationSet:
    return ClassificationSet(
        name="groups",
        identity=table.identity,
        images=SelectedImages(table, rows),
        labels=torch.arange(len(rows)) % 7,
        classes=CLASSES,
    )


def _sets(broken: tuple[int, ...] = ()) -> EvaluationSets:
    """Two sets of one table with images in common, in different orders, one of another, and captions alone."""
    table = MemoryTable("one", 60, broken)
    return EvaluationSets(
        retrieval=[
            _retrieval("seen", table, np.arange(8, 52, 2)),
            _retrieval("by_topk", MemoryTable("other", 22), np.arange(22), "topk"),
        ],
        captions=[CaptionSet(name="all_captions", identity="captions", captions=CAPTIONS)],
        classification=[_classification(table, np.arange(40)[::-1].copy())],
    )


WEIGHT = torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(1)).double()


def _encode_images(images: Tensor) -> Tensor:
    assert not torch.is_grad_enabled()
    return (images.double().flatten(1) - 128) @ WEIGHT


def _encode_texts(texts: list[str]) -> Tensor:
    assert not torch.is_grad_enabled()
    generators = [torch.Generator().manual_seed(crc32(text.encode())) for text in texts]
    return torch.stack([torch.randn(WIDTH, generator=generator) for generator in generators])


def _encoders(
    encode_images: Callable[[Tensor], Tensor] = _encode_images,
    encode_texts: Callable[[list[str]], Tensor] = _encode_texts,
) -> Encoders:
    return Encoders(
        name="stub",
        preprocess=raw_pixels,
        encode_images=encode_images,
        encode_texts=encode_texts,
        logit_scale=10.0,
        device=torch.device("cpu"),
    )


def _evaluate(sets: EvaluationSets, encoders: Encoders | None = None, **streaming: int) -> Evaluation:
    return evaluate_sets(sets, encoders or _encoders(), Streaming(**streaming))


@torch.no_grad()
def _features_of(images: SelectedImages) -> Tensor:
    table = images.table
    assert isinstance(table, MemoryTable)
    return _encode_images(table.pixels[torch.from_numpy(images.rows)])


def _rows_of(images: SelectedImages) -> Tensor:
    return F.normalize(_features_of(images).float(), dim=1)


@torch.no_grad()
def _text_rows(texts: list[str]) -> Tensor:
    return F.normalize(_encode_texts(texts), dim=1)


def test_metrics__have_the_names_of_chance_levels() -> None:
    metrics = _evaluate(_sets()).metrics
    expected = {
        f"eval/{name}_{language}/{rest}"
        for name in ("seen", "by_topk")
        for language in ("ko", "en")
        for rest in (
            *(f"{direction}_R@{k}" for direction in ("image_to_text", "text_to_image") for k in (1, 5, 10)),
            *("image_to_text_median_rank", "text_to_image_median_rank", "mean_recall"),
        )
    }
    pairs = [f"{pair}{suffix}" for pair in ("ko_to_en", "en_to_ko") for suffix in ("", "_centred")]
    expected |= {f"eval/all_captions/{pair}_R@{k}" for pair in pairs for k in (1, 5, 10)}
    expected |= {"eval/all_captions/matched_minus_random"}
    expected |= {
        f"eval/groups_{language}/{rest}"
        for language in ("ko", "en")
        for rest in ("zero_shot_top1", "zero_shot_top5", "mean_per_class_recall")
    }
    assert set(metrics) == expected == set(chance_levels(_sets()))
    assert all(type(value) is float for value in metrics.values())


def test_values__equal_the_metrics_by_themselves() -> None:
    sets, expected = _sets(), {}
    for data in sets.retrieval:
        for language, captions in data.captions.items():
            retrieval = RetrievalRecall(data.positives[language], tie_rule=data.tie_rule)
            retrieval.update(
                _features_of(data.images), torch.arange(22), _encode_no_grad(captions), torch.arange(NUM_CAPTIONS)
            )
            expected |= {f"eval/{data.name}_{language}/{name}": one for name, one in retrieval.compute().items()}
    captions_alone, ids = CaptionRetrieval(), torch.arange(NUM_CAPTIONS)
    captions_alone.update(_encode_no_grad(CAPTIONS["ko"]), ids, _encode_no_grad(CAPTIONS["en"]), ids)
    expected |= {f"eval/all_captions/{name}": value for name, value in captions_alone.compute().items()}
    classified = sets.classification[0]
    for language, names in CLASSES.names.items():
        named = [number for number, own in enumerate(names) if own]
        rows = class_embeddings(_encode_no_grad, [names[one] for one in named], CLASSES.templates[language])
        metric = ZeroShotAccuracy(rows)
        known = torch.isin(classified.labels, torch.tensor(named))
        labels = torch.tensor([named.index(one) for one in classified.labels[known].tolist()])
        metric.update(_features_of(classified.images)[known], labels)
        for name, value in metric.compute().items():
            expected[f"eval/groups_{language}/{name if name.startswith('mean') else f'zero_shot_{name}'}"] = value
    found = _evaluate(sets, batch_size=5).metrics
    assert found == pytest.approx({name: value.item() for name, value in expected.items()}, abs=1e-9)


@torch.no_grad()
def _encode_no_grad(texts: list[str]) -> Tensor:
    return _encode_texts(texts)


def test_recalls__equal_numpy() -> None:
    sets = _sets()
    found = _evaluate(sets).metrics
    scores = (_rows_of(sets.retrieval[0].images) @ _text_rows(CAPTIONS["ko"]).T).numpy()
    owner = CONCEPTS.numpy()
    for k in (1, 5, 10):
        to_text = [owner[image] in np.argsort(-scores[image])[:k] for image in range(22)]
        to_image = [one in owner[np.argsort(-scores[:, one])[:k]] for one in range(12)]
        assert found[f"eval/seen_ko/image_to_text_R@{k}"] == pytest.approx(np.mean(to_text))
        assert found[f"eval/seen_ko/text_to_image_R@{k}"] == pytest.approx(np.mean(to_image))


def _plain(evaluation: Evaluation) -> tuple[object, ...]:
    items = [(one.task, one.outcomes.tolist(), one.groups.tolist(), one.texts) for one in evaluation.items]
    examples = [(one.language, one.images, one.texts, one.correct, one.true_texts) for one in evaluation.examples]
    return evaluation.metrics, items, evaluation.tie_differences, examples


@pytest.mark.parametrize("streaming", [{"batch_size": 1}, {"batch_size": 7}, {"batch_size": 7, "num_workers": 1}])
def test_results__do_not_depend_on_batches_and_workers(streaming: dict[str, int]) -> None:
    expected = _evaluate(_sets(), num_examples=6)
    assert _plain(_evaluate(_sets(), num_examples=6, **streaming)) == _plain(expected)


def test_items__groups_and_texts_of_the_correct_items() -> None:
    sets = _sets()
    evaluation = _evaluate(sets)
    tasks = {one.task: one for one in evaluation.items}
    assert len(tasks) == len(evaluation.items) == 2 * 4 + 5 + 2
    to_text, to_image = tasks["eval/seen_ko/image_to_text"], tasks["eval/seen_ko/text_to_image"]
    assert to_text.groups.tolist() == CONCEPTS.tolist()
    assert to_text.texts == [CAPTIONS["ko"][index] for index in CONCEPTS]
    assert to_image.texts == CAPTIONS["ko"][:12]
    assert tasks["eval/seen_en/text_to_image"].texts == [*CAPTIONS["en"][:12], *CAPTIONS["en"][28:]]
    assert tasks["eval/all_captions/en_to_ko"].texts == CAPTIONS["en"]
    assert tasks["eval/groups_en/zero_shot"].groups.tolist() == [n % 7 for n in range(40)]
    korean = [n % 7 for n in range(40) if n % 7 != 2]
    assert tasks["eval/groups_ko/zero_shot"].groups.tolist() == korean
    assert tasks["eval/groups_ko/zero_shot"].texts == [f"가 {label}" for label in korean]
    for task, one in tasks.items():
        assert len(one.outcomes) == len(one.groups) == len(one.texts)
        if task.endswith("random"):
            assert one.outcomes.mean().item() == pytest.approx(evaluation.metrics[task])
        else:
            name = f"{task}_top1" if task.endswith("zero_shot") else f"{task}_R@1"
            assert (one.outcomes < 1).double().mean().item() == pytest.approx(evaluation.metrics[name])


def test_texts_and_images__are_embedded_once_for_all_sets_of_a_table() -> None:
    sets = _sets()
    texts: Counter[str] = Counter()
    images: Counter[bytes] = Counter()

    def encode_texts(given: list[str]) -> Tensor:
        texts.update(given)
        assert [len(one) for one in given] == sorted(len(one) for one in given)
        return _encode_texts(given)

    def encode_images(given: Tensor) -> Tensor:
        images.update(one.numpy().tobytes() for one in given)
        return _encode_images(given)

    table = sets.retrieval[0].images.table
    of_one_table = EvaluationSets(
        retrieval=[sets.retrieval[0], _retrieval("again", table, np.arange(22))],  # type: ignore[arg-type]
        classification=sets.classification,
    )
    evaluate_sets(of_one_table, _encoders(encode_images, encode_texts), Streaming(batch_size=16))
    union = set(range(8, 52, 2)) | set(range(22)) | set(range(40))
    assert images == Counter({table.image(row): 1 for row in union})
    captions = {one for own in CAPTIONS.values() for one in own}
    prompts = 6 * 2 * 1 + 7 * 2
    assert all(texts[one] == 1 for one in captions)
    assert len(texts) == texts.total() == len(captions) + prompts


def test_perfect_embeddings__score_one() -> None:
    table = MemoryTable("one", 22)
    table.pixels = CONCEPTS[:, None, None, None].expand(22, 3, 2, 2).to(torch.uint8).contiguous()
    rows = F.normalize(torch.randn(NUM_CAPTIONS, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    number = {text: place for captions in CAPTIONS.values() for place, text in enumerate(captions)}
    sets = EvaluationSets(
        retrieval=[_retrieval("set", table, np.arange(22))],
        captions=[CaptionSet(name="captions", identity="captions", captions=CAPTIONS)],
    )
    sets.retrieval[0].positives["en"] = sets.retrieval[0].positives["ko"]
    encoders = _encoders(
        lambda images: rows[images[:, 0, 0, 0].long()], lambda texts: rows[[number[text] for text in texts]]
    )
    evaluation = evaluate_sets(sets, encoders, Streaming())
    assert evaluation.metrics.pop("eval/captions/matched_minus_random") > 0.9
    assert set(evaluation.metrics.values()) == {1.0}
    assert evaluation.tie_differences == {}


def test_tie_differences__of_a_collapsed_model() -> None:
    sets = _sets()
    ones = torch.zeros(1, 4)
    ones[0, 0] = 1
    evaluation = evaluate_sets(
        sets,
        _encoders(lambda images: ones.repeat(len(images), 1), lambda texts: ones.repeat(len(texts), 1)),
        Streaming(),
    )
    for name in ("seen", "by_topk"):
        for k in (1, 5, 10):
            metric = f"eval/{name}_ko/text_to_image_R@{k}"
            found = CONCEPTS[torch.ones(22).topk(k).indices]
            by_topk = torch.isin(torch.arange(12), found).double().mean().item()
            assert evaluation.tie_differences[metric] == {"pessimistic": 0.0, "topk": by_topk}
            assert evaluation.metrics[metric] == (by_topk if name == "by_topk" else 0.0)
    recalls = evaluation.tie_differences["eval/groups_en/mean_per_class_recall"]
    assert recalls == {"pessimistic": 0.0, "topk": pytest.approx(1 / 7)}
    assert evaluation.tie_differences["eval/all_captions/ko_to_en_R@5"]["topk"] == pytest.approx(5 / 30)


def test_examples__best_texts_with_probabilities() -> None:
    sets = _sets()
    evaluation = _evaluate(sets, num_examples=4)
    examples = {(one.data.name, one.language): one for one in evaluation.examples}
    assert set(examples) == {(name, one) for name in ("seen", "by_topk", "groups") for one in ("ko", "en")}
    found = examples["seen", "en"]
    assert found.images == [0, 7, 14, 21]
    assert found.true_texts == [CAPTIONS["en"][CONCEPTS[image]] for image in found.images]
    scores = 10 * _rows_of(sets.retrieval[0].images)[found.images] @ _text_rows(CAPTIONS["en"]).T
    values, best = scores.softmax(dim=1).topk(5, dim=1)
    assert found.texts == [[CAPTIONS["en"][one] for one in row] for row in best.tolist()]
    torch.testing.assert_close(torch.tensor(found.probabilities), values)
    right = {tuple(pair) for pair in sets.retrieval[0].positives["en"].tolist()}
    expected = [[(i, one) in right for one in row] for i, row in zip(found.images, best.tolist(), strict=True)]
    assert found.correct == expected
    classes = examples["groups", "ko"]
    assert classes.true_texts == [CLASSES.names["ko"][image % 7][0] for image in classes.images]
    for texts, correct, true in zip(classes.texts, classes.correct, classes.true_texts, strict=True):
        assert correct == [text == true for text in texts]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_embeddings_that_are_not_finite__name_the_set_and_the_number(bad: float) -> None:
    def images(given: Tensor) -> Tensor:
        return torch.cat([torch.full((2, WIDTH), bad), _encode_images(given[2:]).float()])

    def texts(given: list[str]) -> Tensor:
        rows = _encode_texts(given)
        rows[:3, 1] = bad
        return rows

    with pytest.raises(NonFiniteEmbeddingsError, match=r"^evaluation set seen: 2 of \d+ image embeddings are not fin"):
        evaluate_sets(_sets().retrieval[:1], _encoders(encode_images=images), Streaming())
    with pytest.raises(NonFiniteEmbeddingsError, match=r"^evaluation set seen: [1-3] of \d+ text embeddings are not"):
        evaluate_sets(_sets().retrieval[:1], _encoders(encode_texts=texts), Streaming(batch_size=60))
    with pytest.raises(NonFiniteEmbeddingsError, match=r"^evaluation set groups: \d of \d+ text embeddings are not"):
        evaluate_sets(_sets().classification, _encoders(encode_texts=texts), Streaming())


@pytest.mark.parametrize("num_workers", [0, 1])
def test_image_that_cannot_be_read__names_sets_and_key(num_workers: int) -> None:
    with pytest.raises(DataError, match=r"^evaluation set seen, groups: image 'image 10' cannot be used \(.*no bytes"):
        _evaluate(_sets(broken=(10,)), num_workers=num_workers)


@pytest.mark.parametrize(
    ("num_items", "largest", "expected"), [(0, 256, 16), (20, 256, 16), (20, 7, 7), (5000, 256, 79), (50_000, 256, 256)]
)
def test_batch_size_of__64_batches_or_full_ones(num_items: int, largest: int, expected: int) -> None:
    assert batch_size_of(num_items, largest) == expected


def test_first_positives_and_spread_evenly() -> None:
    assert first_positives(torch.tensor([[1, 4], [0, 3], [1, 2], [0, 9]])).tolist() == [3, 2]
    assert spread_evenly(10, 4).tolist() == [0, 3, 6, 9]
    assert spread_evenly(3, 8).tolist() == [0, 1, 2]
