"""Contrastive losses and their multi-crop mean against open_clip, with tiles of any size."""

import math

import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch.nn import functional as F

from kelip_lightning.losses.config import ContrastiveKind
from kelip_lightning.losses.contrastive import contrastive_loss

INFO_NCE, SIGMOID = ContrastiveKind
B, E = 5, 4


def _unit(*shape: int, seed: int) -> Tensor:
    """A leaf of unit-length float64 rows."""
    rows = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return F.normalize(rows, dim=-1).requires_grad_()


def _factor(value: float) -> Tensor:
    return torch.tensor([value], dtype=torch.float64, requires_grad=True)


def _multi_crop(crops: Tensor, local: Tensor, text: Tensor, scale: Tensor, weight: float) -> Tensor:
    """The weighted mean of open_clip's loss over the crops."""
    terms = [ClipLoss()(crop, text, scale) for crop in crops]
    local_terms = [weight * ClipLoss()(crop, text, scale) for crop in local]
    return torch.stack(terms + local_terms).sum() / (len(terms) + weight * len(local_terms))


def _one_view(image: Tensor, text: Tensor, *factors: Tensor, max_logits: int | None = None) -> Tensor:
    kind = INFO_NCE if len(factors) == 1 else SIGMOID
    return contrastive_loss(
        image[None], image[None][:0], text, *factors, kind=kind, max_logits_per_pair=max_logits
    ).total


def _assert_equal(loss: Tensor, reference: Tensor, leaves: list[Tensor]) -> None:
    """Values and gradients with respect to the leaves, to rounding of float64."""
    assert loss.shape == ()
    torch.testing.assert_close(loss, reference, rtol=1e-12, atol=0)
    found, expected = (torch.autograd.grad(3 * one, leaves, materialize_grads=True) for one in (loss, reference))
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("max_logits", [None, 1, 2, 3, 5, 100])
@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
def test_info_nce__equals_open_clip(scale: float, max_logits: int | None) -> None:
    leaves = [_unit(B, E, seed=0), _unit(B, E, seed=1), _factor(scale)]
    _assert_equal(_one_view(*leaves, max_logits=max_logits), ClipLoss()(*leaves), leaves)


@pytest.mark.parametrize("max_logits", [None, 3])
@pytest.mark.parametrize(("scale", "bias"), [(10.0, -10.0), (100.0, 0.5)])
def test_sigmoid__equals_open_clip(scale: float, bias: float, max_logits: int | None) -> None:
    leaves = [_unit(8, 6, seed=2), _unit(8, 6, seed=3), _factor(scale), _factor(bias)]
    _assert_equal(_one_view(*leaves, max_logits=max_logits), SigLipLoss()(*leaves), leaves)


@pytest.mark.parametrize("max_logits", [None, 2])
@pytest.mark.parametrize(("num_local", "weight"), [(0, 1.0), (3, 1.0), (3, 0.25), (1, 0.0)])
def test_multi_crop__equals_the_weighted_mean(num_local: int, weight: float, max_logits: int | None) -> None:
    leaves = [_unit(2, B, E, seed=6), _unit(num_local, B, E, seed=7), _unit(B, E, seed=8), _factor(6.0)]
    loss = contrastive_loss(*leaves, kind=INFO_NCE, local_weight=weight, max_logits_per_pair=max_logits)
    _assert_equal(loss.total, _multi_crop(*leaves, weight), leaves)


@pytest.mark.parametrize(
    ("kind", "bias", "message"),
    [
        (SIGMOID, None, "the sigmoid loss needs a logit_bias, and the model has none"),
        (INFO_NCE, torch.tensor([-10.0]), "info_nce has no logit_bias, and the model has one"),
    ],
)
def test_kind__a_bias_that_does_not_fit(kind: ContrastiveKind, bias: Tensor | None, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        contrastive_loss(torch.eye(2)[None], torch.eye(2)[None][:0], torch.eye(2), torch.ones(1), bias, kind=kind)


def test_sigmoid__two_pairs() -> None:
    """Own logits 2 - 1 = 1, others 0 - 1 = -1: four terms of log(1 + exp(-1)) over two pairs."""
    loss = _one_view(torch.eye(2), torch.eye(2), torch.tensor([2.0]), torch.tensor([-1.0]))
    assert loss.item() == pytest.approx(2 * math.log1p(math.exp(-1.0)), rel=1e-6)


def test_correct__where_the_own_caption_is_best() -> None:
    text = torch.eye(4)
    crops, scale = text[None, [0, 2, 2, 3]], torch.tensor([10.0])
    loss = contrastive_loss(crops, text[None][:0], text, scale, kind=INFO_NCE, max_logits_per_pair=1)
    assert loss.correct_B.tolist() == [True, False, True, True]


def test_info_nce__one_pair_has_no_loss() -> None:
    assert _one_view(torch.eye(1), torch.eye(1), torch.tensor([14.0])).item() == 0


@pytest.mark.parametrize("max_logits", [None, 2])
@pytest.mark.parametrize("bias", [None, -2.0])
def test_mean_over_ranks__is_the_loss_of_the_whole_batch(max_logits: int | None, bias: float | None) -> None:
    image, text = _unit(6, E, seed=4), _unit(6, E, seed=5)
    factors = [_factor(9.0), *([] if bias is None else [_factor(bias)])]
    losses = []
    for rank in range(3):
        own = slice(2 * rank, 2 * rank + 2)
        one = contrastive_loss(
            image[None, own],
            image[None, own][:0],
            text[own],
            *factors,
            kind=INFO_NCE if bias is None else SIGMOID,
            gather=lambda rows: image.unsqueeze(1) if rows.ndim == 3 else text,
            rank=rank,
            max_logits_per_pair=max_logits,
        )
        assert one.correct_B.tolist() == ((image @ text.T).argmax(dim=1) == torch.arange(6))[own].tolist()
        losses.append(one.total)
    reference = (ClipLoss() if bias is None else SigLipLoss())(image, text, *factors)
    _assert_equal(torch.stack(losses).mean(), reference, [image, text, *factors])


def test_multi_crop__parts_for_the_log() -> None:
    crops, local, text = (_unit(*shape, seed=9) for shape in ((2, B, E), (3, B, E), (B, E)))
    scale = _factor(5.0)
    loss = contrastive_loss(crops, local, text, scale, kind=INFO_NCE, local_weight=0.5)
    means = [_multi_crop(views, local[:0], text, scale, 1.0).item() for views in (crops, local)]
    assert loss.local_crops is not None
    assert loss.global_crops.item() == pytest.approx(means[0])
    assert loss.local_crops.item() == pytest.approx(means[1])
    assert torch.equal(loss.correct_B, (crops[0] @ text.T).argmax(dim=1) == torch.arange(B))
    assert not loss.global_crops.requires_grad
    assert contrastive_loss(crops, local[:0], text, scale, kind=INFO_NCE).local_crops is None


def test_backward__a_second_one_raises() -> None:
    image = torch.eye(2).requires_grad_()
    loss = _one_view(image, torch.eye(2), torch.tensor([2.0]))
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="no second backward pass"):
        loss.backward()
