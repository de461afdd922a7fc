"""Batched embedding, encode functions, and refusal of embeddings with NaN or infinity."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from data_modules.benchmarks.analogy_queries import AnalogyQuery
from data_modules.benchmarks.word_pairs import WordPair
from data_modules.errors import DataError
from kelip_lightning.analyses.analogy import analogy_findings, nearest_images, query_ranks
from kelip_lightning.analyses.cross_lingual import caption_findings, caption_similarity, gap_findings
from kelip_lightning.analyses.culture import choice_findings, compare_words, is_known
from kelip_lightning.analyses.divergence import divergence_test
from kelip_lightning.errors import NonFiniteEmbeddingsError
from kelip_lightning.evaluation.embed import (
    embed_images,
    embed_texts,
    error_context,
    image_encode_function,
    require_finite,
    text_encode_function,
    unit_rows,
)
from kelip_lightning.evaluation.ranks import retrieval_ranks
from kelip_lightning.evaluation.retrieval import CaptionRetrieval, RetrievalRecall
from kelip_lightning.evaluation.translations import centre, matched_and_random, matched_minus_random
from kelip_lightning.evaluation.zero_shot import ZeroShotAccuracy, class_embeddings
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.statistics.bootstrap import Bootstrap


def _mean_colour(images: Tensor) -> Tensor:
    return images.float().mean(dim=(2, 3))


def _length_and_first(texts: list[str]) -> Tensor:
    return torch.tensor([[len(text), ord(text[0]), 1.0] for text in texts])


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_embed_images__independent_of_batch_size(batch_size: int) -> None:
    images = torch.randint(0, 256, (7, 3, 5, 5), dtype=torch.uint8)
    expected = _mean_colour(images) / _mean_colour(images).norm(dim=1, keepdim=True)
    torch.testing.assert_close(embed_images(_mean_colour, images, batch_size), expected)


def test_embed_images__no_gradient_and_float32() -> None:
    weight = torch.nn.Parameter(torch.rand(3, 4, dtype=torch.bfloat16))
    images = torch.randint(1, 256, (4, 3, 2, 2), dtype=torch.uint8)
    features = embed_images(lambda batch: _mean_colour(batch).bfloat16() @ weight, images)
    assert features.dtype == torch.float32
    assert not features.requires_grad
    torch.testing.assert_close(features.norm(dim=1), torch.ones(4))


@pytest.mark.parametrize(
    "images", [torch.zeros(2, 3, 4, 4), torch.zeros(0, 3, 4, 4, dtype=torch.uint8), torch.zeros(3, 4, 4)]
)
def test_embed_images__rejects_other_inputs(images: Tensor) -> None:
    with pytest.raises(ValueError, match="uint8 of shape"):
        embed_images(_mean_colour, images)


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_embed_texts__rows_in_the_order_of_the_texts(batch_size: int) -> None:
    texts = ["사과", "a red apple", "개", "dog", "빨간 사과", "b"]
    expected = unit_rows(_length_and_first(texts))
    torch.testing.assert_close(embed_texts(_length_and_first, texts, batch_size), expected)


def test_embed_texts__batches_texts_of_similar_length() -> None:
    batches: list[list[str]] = []

    def encode(texts: list[str]) -> Tensor:
        batches.append(texts)
        return _length_and_first(texts)

    embed_texts(encode, ["aaaa", "b", "cccc", "d"], batch_size=2)
    assert batches == [["b", "d"], ["aaaa", "cccc"]]


def test_embed_texts__needs_a_text() -> None:
    with pytest.raises(ValueError, match="at least one text"):
        embed_texts(_length_and_first, [])


class _Tokenizer:
    def encode(self, texts: list[str]) -> Tensor:
        return torch.tensor([[len(text)] for text in texts])


class _Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.zeros(1))
        self.image_layer = nn.Linear(3, 4)
        self.text_layer = nn.Linear(1, 4)
        self.seen_dtype: torch.dtype | None = None

    def encode_image(self, images: Tensor, l2norm: bool = True) -> Tensor:
        features: Tensor = self.image_layer(images.mean(dim=(2, 3)))
        self.seen_dtype = features.dtype
        return features

    def encode_text(self, tokens: Tensor, l2norm: bool = True) -> Tensor:
        features: Tensor = self.text_layer(tokens.to(self.logit_scale.dtype))
        self.seen_dtype = features.dtype
        return features


def test_image_encode_function__normalises_and_ignores_autocast() -> None:
    model, images = _Model(), torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        features = image_encode_function(model)(images)
    assert model.seen_dtype == torch.float32
    expected = model.encode_image(normalize_images(images))
    torch.testing.assert_close(features, expected / expected.norm(dim=1, keepdim=True))


def test_encode_functions__follow_a_bfloat16_model() -> None:
    model = _Model().bfloat16()
    image_encode_function(model)(torch.zeros(2, 3, 4, 4, dtype=torch.uint8))
    assert model.seen_dtype == torch.bfloat16
    text_encode_function(model, _Tokenizer())(["a", "bc"])
    assert model.seen_dtype == torch.bfloat16


def test_encode_functions__enter_the_precision_and_normalise_in_float32() -> None:
    model, images = _Model(), torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    features = image_encode_function(model, lambda: torch.autocast("cpu", dtype=torch.bfloat16))(images)
    assert (model.seen_dtype, features.dtype) == (torch.bfloat16, torch.float32)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(2), rtol=0, atol=1e-6)


def test_text_encode_function__ignores_autocast() -> None:
    model = _Model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        text_encode_function(model, _Tokenizer())(["a"])
    assert model.seen_dtype == torch.float32


NUM, WIDTH, NUM_BAD = 48, 8, 3
INDEX = torch.arange(NUM)
BOOTSTRAP = Bootstrap(num_resamples=20)
PAIRS = [WordPair(ko=f"가{i}", en=f"a{i}", topic="food", control=i >= 4) for i in range(NUM)]
QUERIES = [
    AnalogyQuery(
        name=f"query {i}",
        relation="gender",
        cluster=str(i),
        image=i,
        left_out=(i,),
        right=((i + 1) % NUM,),
        source=i % 2,
        target=1 - i % 2,
    )
    for i in range(NUM)
]
CAPTIONS = {language: [f"{language} {i}" for i in range(NUM)] for language in ("ko", "en")}


def _rows(seed: int) -> Tensor:
    return F.normalize(torch.randn(NUM, WIDTH, generator=torch.Generator().manual_seed(seed)), dim=-1)


def both(ko: Tensor, en: Tensor) -> dict[str, Tensor]:
    return {"ko": ko, "en": en}


Metric = Callable[[Tensor, Tensor], Any]
METRICS: dict[str, Metric] = {
    "retrieval_ranks": lambda a, b: retrieval_ranks(a, b, INDEX),
    "retrieval_ranks of float64": lambda a, b: retrieval_ranks(a.double(), b.double(), INDEX),
    "RetrievalRecall": lambda a, b: RetrievalRecall().update(a, INDEX, b, INDEX),
    "CaptionRetrieval": lambda a, b: CaptionRetrieval().update(a, INDEX, b, INDEX),
    "ZeroShotAccuracy": lambda a, b: ZeroShotAccuracy(b).update(a, INDEX),
    "matched_and_random": matched_and_random,
    "matched_minus_random": matched_minus_random,
    "caption_similarity": lambda a, b: caption_similarity(both(a, b)),
    "caption_findings": lambda a, b: caption_findings("set", CAPTIONS, both(a, b), both(a, a), BOOTSTRAP),
    "control of caption_findings": lambda a, b: caption_findings(
        "set", CAPTIONS, both(_rows(2), _rows(3)), both(a, b), BOOTSTRAP
    ),
    "gap_findings of the languages": lambda a, b: gap_findings("set", both(a, b), None, BOOTSTRAP),
    "gap_findings of text and image": lambda a, b: gap_findings("set", both(_rows(2), a), b, BOOTSTRAP),
    "query_ranks": lambda a, b: query_ranks(QUERIES, a, b),
    "nearest_images": lambda a, b: nearest_images(QUERIES, a, b, 2),
    "analogy_findings": lambda a, b: analogy_findings("set", QUERIES, a, both(b[:2], _rows(2)[:2]), BOOTSTRAP),
    "is_known": lambda a, b: is_known(a, b, _rows(2)),
    "is_known of images": lambda a, b: is_known(_rows(2), b, a),
    "compare_words": lambda a, b: compare_words(PAIRS, both(a, b), both(a, a), _rows(2), BOOTSTRAP, 3, 20),
    "compare_words with nonsense and images": lambda a, b: compare_words(
        PAIRS, both(_rows(2), _rows(3)), both(_rows(4), a), b, BOOTSTRAP, 3, 20
    ),
    "divergence_test": lambda a, b: divergence_test(
        a.double().numpy(), b.double().numpy(), _rows(2), (INDEX >= 4).numpy(), 0, 20
    ),
    "divergence_test of images": lambda a, b: divergence_test(
        _rows(2).double().numpy(), a.double().numpy(), b, (INDEX >= 4).numpy(), 0, 20
    ),
    "choice_findings": lambda a, b: choice_findings(
        "set", a[: NUM // 2], b, [2] * (NUM // 2), [0] * (NUM // 2), BOOTSTRAP
    ),
}
"""Name -> a metric of two sets of unit rows, the first `NUM_BAD` rows of which it must look at."""


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("side", [0, 1])
@pytest.mark.parametrize("name", METRICS)
def test_metrics__refuse_rows_that_are_not_finite(name: str, side: int, bad: float) -> None:
    rows = [_rows(0), _rows(1)]
    METRICS[name](*rows)
    bad_rows = 2 if (name, side) == ("analogy_findings", 1) else NUM_BAD  # two texts, both of them bad
    rows[side][:bad_rows, 1:3] = bad
    with pytest.raises(ValueError, match=rf"{bad_rows} of \d+ [\w ]+ embeddings are not finite"):
        METRICS[name](*rows)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_embedding__counts_what_the_encoder_gives(bad: float) -> None:
    images = torch.full((NUM, 3, 2, 2), 7, dtype=torch.uint8)
    images[:NUM_BAD] = 0
    texts = [f"{'bad' if i < NUM_BAD else 'good'} {i}" for i in range(NUM)]

    def encode_images(batch: Tensor) -> Tensor:
        return torch.where(batch[:, :, 0, 0] == 0, bad, 1.0)

    def encode_texts(batch: list[str]) -> Tensor:
        return torch.tensor([[1.0, bad if text.startswith("bad") else 1.0] for text in batch])

    of_images = f"{NUM_BAD} of {NUM} image embeddings are not finite"
    of_texts = f"{NUM_BAD} of {NUM} text embeddings are not finite"
    for message, embed in (
        (of_images, lambda: embed_images(encode_images, images, batch_size=2)),
        (of_texts, lambda: embed_texts(encode_texts, texts, batch_size=2)),
        (of_texts, lambda: class_embeddings(encode_texts, [[text] for text in texts], ["{}"])),
    ):
        with pytest.raises(ValueError, match=message):
            embed()


def test_require_finite__counts_rows_of_any_float_dtype() -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16, torch.float16):
        rows = _rows(0).to(dtype)
        require_finite(rows, "image")
        rows[[1, 5, 9], [0, 3, 7]] = torch.tensor([math.nan, math.inf, -math.inf], dtype=dtype)
        with pytest.raises(NonFiniteEmbeddingsError, match=f"^3 of {NUM} image embeddings are not finite"):
            require_finite(rows, "image")
    require_finite(torch.empty(0, WIDTH), "image")


@pytest.mark.parametrize("error", [NonFiniteEmbeddingsError, DataError])
def test_error_context__names_the_place_and_keeps_the_class(error: type[Exception]) -> None:
    with pytest.raises(error, match=r"^evaluation set a: broken$"), error_context("evaluation set a"):
        raise error("broken")
    with pytest.raises(KeyError, match=r"^'other'$"), error_context("evaluation set a"):
        raise KeyError("other")


def test_message__says_what_and_what_to_do() -> None:
    rows = _rows(0)
    rows[4, 2] = math.nan
    with pytest.raises(ValueError, match=rf"1 of {NUM} query embeddings .*NaN or infinite.*checkpoint"):
        retrieval_ranks(rows, _rows(1), INDEX)


def test_finite_rows__may_be_large_and_zero() -> None:
    rows = torch.full((NUM, WIDTH), 3.0e38)
    rows[0] = 0.0
    assert len(centre(_rows(0))) == NUM
    assert retrieval_ranks(rows, _rows(0), INDEX).shape == (NUM,)
