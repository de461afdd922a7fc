"""Batched embedding: order, batch sizes, normalisation, gradients."""

import pytest
import torch
from torch import Tensor

from kelip_lightning.evaluation.embed import embed_images, embed_texts, unit_rows


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
