"""The suite against direct computation, and its chance levels against random embeddings."""

from collections import Counter
from zlib import crc32

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kelip_lightning.evaluation.metrics import (
    class_embeddings,
    class_ranks,
    mean_per_class_recall,
    median_rank,
    recall_at,
    retrieval_ranks,
)
from torch import Tensor

from data_modules.benchmarks.evaluation_sets import (
    CaptionSet,
    ClassificationSet,
    EvaluationSets,
    RetrievalSet,
    image_digests,
)
from kelip_lightning.evaluation.embed import Embeddings
from kelip_lightning.evaluation.suite import chance_levels, evaluate_sets, items_of

NUM_CAPTIONS = 30
CAPTIONS = {"ko": [f"그림 {n}" for n in range(NUM_CAPTIONS)], "en": [f"picture {n}" for n in range(NUM_CAPTIONS)]}


def _images(count: int) -> Tensor:
    return torch.randint(0, 256, (count, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


def _sets() -> EvaluationSets:
    target = torch.cat([torch.arange(12), torch.arange(8), torch.tensor([3, 3])])
    return EvaluationSets(
        retrieval=[
            RetrievalSet(name="seen", images=_images(22), captions=CAPTIONS, target=target, image_keys=["k"] * 22)
        ],
        captions=[CaptionSet(name="all_captions", captions=CAPTIONS)],
        classification=[
            ClassificationSet(
                name="groups",
                images=_images(22),
                labels=torch.arange(22) % 7,
                class_names={language: [[f"{language} {n}", f"{n}"] for n in range(7)] for language in ("ko", "en")},
                templates={"ko": ["{} 그림"], "en": ["a {}", "the {}"]},
            )
        ],
    )


def _encode_images(images: Tensor) -> Tensor:
    return images.float().flatten(1)[:, :10] - 128


def _encode_texts(texts: list[str]) -> Tensor:
    generators = [torch.Generator().manual_seed(crc32(text.encode())) for text in texts]
    return torch.stack([torch.randn(10, generator=generator) for generator in generators])


def test_evaluate_sets__keys() -> None:
    keys = set(evaluate_sets(_encode_images, _encode_texts, _sets()))
    expected = {
        f"eval/seen_{language}/{direction}_R@{k}"
        for language in ("ko", "en")
        for direction in ("image_to_text", "text_to_image")
        for k in (1, 5, 10)
    }
    expected |= {f"eval/all_captions/{pair}_R@{k}" for pair in ("ko_to_en", "en_to_ko") for k in (1, 5, 10)}
    expected |= {"eval/all_captions/matched_minus_random"}
    expected |= {f"eval/seen_{language}/median_rank" for language in ("ko", "en")}
    expected |= {
        f"eval/groups_{language}/{name}"
        for language in ("ko", "en")
        for name in ("zero_shot_top1", "zero_shot_top5", "mean_per_class_recall")
    }
    assert keys == expected == set(chance_levels(_sets()))


def test_evaluate_sets__values_equal_direct_computation() -> None:
    sets = _sets()
    metrics = evaluate_sets(_encode_images, _encode_texts, sets, batch_size=5)
    images = F.normalize(_encode_images(sets.retrieval[0].images), dim=-1)
    texts = {language: F.normalize(_encode_texts(captions), dim=-1) for language, captions in CAPTIONS.items()}
    target = sets.retrieval[0].target
    for language in ("ko", "en"):
        ranks = retrieval_ranks(images, texts[language], target)
        for k, recall in recall_at(ranks).items():
            assert metrics[f"eval/seen_{language}/image_to_text_R@{k}"] == pytest.approx(recall)
        assert metrics[f"eval/seen_{language}/median_rank"] == median_rank(ranks)
        scores = (texts[language] @ images.T).numpy()
        for k in (1, 5, 10):
            hits = [caption in target[np.argsort(-scores[caption])[:k]] for caption in range(12)]
            assert metrics[f"eval/seen_{language}/text_to_image_R@{k}"] == pytest.approx(np.mean(hits))
    ko_to_en = recall_at(retrieval_ranks(texts["ko"], texts["en"], torch.arange(NUM_CAPTIONS)))
    en_to_ko = recall_at(retrieval_ranks(texts["en"], texts["ko"], torch.arange(NUM_CAPTIONS)))
    for k in (1, 5, 10):
        assert metrics[f"eval/all_captions/ko_to_en_R@{k}"] == pytest.approx(ko_to_en[k])
        assert metrics[f"eval/all_captions/en_to_ko_R@{k}"] == pytest.approx(en_to_ko[k])


def test_evaluate_sets__classification_equals_direct_computation() -> None:
    sets = _sets()
    metrics = evaluate_sets(_encode_images, _encode_texts, sets)
    data = sets.classification[0]
    images = F.normalize(_encode_images(data.images), dim=-1)
    for language in ("ko", "en"):
        classes = class_embeddings(_encode_texts, data.class_names[language], data.templates[language])
        ranks = class_ranks(images, classes, data.labels)
        for k in (1, 5):
            assert metrics[f"eval/groups_{language}/zero_shot_top{k}"] == pytest.approx((ranks < k).double().mean())
        recall = mean_per_class_recall(ranks, data.labels)
        assert metrics[f"eval/groups_{language}/mean_per_class_recall"] == pytest.approx(recall)


def test_items_of__groups_and_texts_of_the_correct_items() -> None:
    sets = _sets()
    tasks = {one.task: one for one in items_of(Embeddings(_encode_images, _encode_texts), sets)}
    to_text, to_image = tasks["eval/seen_ko/image_to_text"], tasks["eval/seen_ko/text_to_image"]
    assert to_text.groups.tolist() == sets.retrieval[0].target.tolist()
    assert to_text.texts == [CAPTIONS["ko"][index] for index in to_text.groups]
    assert to_image.texts == CAPTIONS["ko"][:12]
    assert tasks["eval/all_captions/en_to_ko"].texts == CAPTIONS["en"]
    assert tasks["eval/groups_en/zero_shot"].groups.tolist() == [n % 7 for n in range(22)]
    assert tasks["eval/groups_en/zero_shot"].texts[2] == "en 2"


def test_evaluate_sets__embeds_shared_texts_and_images_once() -> None:
    sets = _sets()
    assert sets.classification[0].images.data_ptr() != sets.retrieval[0].images.data_ptr(), "as decoded, set by set"
    half = {language: captions[:15] for language, captions in CAPTIONS.items()}
    sets.captions.append(CaptionSet(name="half", captions=half))
    seen: Counter[str] = Counter()
    num_images = 0

    def encode_texts(texts: list[str]) -> Tensor:
        seen.update(texts)
        return _encode_texts(texts)

    def encode_images(images: Tensor) -> Tensor:
        nonlocal num_images
        num_images += len(images)
        return _encode_images(images)

    evaluate_sets(encode_images, encode_texts, sets)
    assert set(seen.values()) == {1}
    assert num_images == 22


def test_embeddings__each_picture_once_whichever_sets_and_places_it_has() -> None:
    """Sets that overlap, a picture that comes twice in one, and a part of a set as panels show it."""
    pictures, encoded = _images(9), []

    def encode_images(images: Tensor) -> Tensor:
        encoded.extend(images.flatten(1).tolist())
        return _encode_images(images)

    embeddings = Embeddings(encode_images, _encode_texts, batch_size=4)
    for chosen in ([0, 1, 2, 3, 1, 0], [3, 4, 5], [5, 0], [8, 7, 6, 5, 4, 3, 2, 1, 0]):
        found = embeddings.images(pictures[chosen], image_digests(pictures[chosen]))
        torch.testing.assert_close(found, F.normalize(_encode_images(pictures[chosen]), dim=-1))
    assert sorted(encoded) == sorted(pictures.flatten(1).tolist())


def test_embeddings__pictures_of_equal_bytes_and_other_shape_are_others() -> None:
    wide = _images(2).reshape(2, 3, 2, 8)
    assert not set(image_digests(wide)) & set(image_digests(_images(2)))
    assert len(set(image_digests(wide))) == 2


def test_evaluate_sets__perfect_embeddings_score_one() -> None:
    table = F.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), dim=-1)
    images = torch.arange(4, dtype=torch.uint8)[:, None, None, None].expand(4, 3, 2, 2).contiguous()
    captions = {language: ["0", "1", "2", "3"] for language in ("ko", "en")}
    sets = EvaluationSets(
        retrieval=[
            RetrievalSet(name="set", images=images, captions=captions, target=torch.arange(4), image_keys=["k"] * 4)
        ],
        captions=[CaptionSet(name="captions", captions=captions)],
        classification=[],
    )
    metrics = evaluate_sets(
        lambda batch: table[batch[:, 0, 0, 0].long()], lambda texts: table[[int(text) for text in texts]], sets
    )
    assert metrics.pop("eval/captions/matched_minus_random") > 1.0  # 1 less a mean of negative cosines
    assert set(metrics.values()) == {1.0}


def test_chance_levels__equal_the_mean_of_random_embeddings() -> None:
    sets, rounds = _sets(), 200
    generator = torch.Generator().manual_seed(0)
    totals: Counter[str] = Counter()
    for _ in range(rounds):
        metrics = evaluate_sets(
            lambda images: torch.randn(len(images), 8, generator=generator),
            lambda texts: torch.randn(len(texts), 8, generator=generator),
            sets,
        )
        totals.update(metrics)
    for key, level in chance_levels(sets).items():
        scale = NUM_CAPTIONS if key.endswith("median_rank") else 1.0
        assert totals[key] / rounds / scale == pytest.approx(level / scale, abs=0.03), key


def test_chance_levels__text_to_image_counts_every_right_image() -> None:
    # Caption 3 has four of the 22 images: one draw hits with 4/22, not with 1/22.
    counts = [4 if n == 3 else 2 if n < 8 else 1 for n in range(12)]
    level = chance_levels(_sets())["eval/seen_ko/text_to_image_R@1"]
    assert level == pytest.approx(np.mean([count / 22 for count in counts]))
