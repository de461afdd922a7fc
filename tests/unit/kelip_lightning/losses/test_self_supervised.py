"""NT-Xent and BYOL's loss against the same written the long way, values and gradients."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kelip_lightning.losses.self_supervised import byol_loss, nt_xent, target_momentum


def _views(batch: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return F.normalize(torch.randn(2, batch, 7, generator=generator, dtype=torch.float64), dim=-1)


def _by_hand(views_VBE: Tensor, temperature: float) -> Tensor:
    """Each view against all 2 B - 1 others, one after the other."""
    features = torch.cat([views_VBE[0], views_VBE[1]])
    count = len(features)
    terms = []
    for index in range(count):
        others = [other for other in range(count) if other != index]
        logits = features[index] @ features[others].T / temperature
        partner = torch.tensor([others.index((index + count // 2) % count)])
        terms.append(F.cross_entropy(logits[None], partner))
    return torch.stack(terms).mean()


def _with_gradient(loss: Callable[[Tensor], Tensor], views: Tensor) -> tuple[Tensor, Tensor]:
    leaf = views.clone().requires_grad_()
    value = loss(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@pytest.mark.parametrize("tile_size", [None, 1, 3])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent__value_and_gradient_by_hand(tile_size: int | None, temperature: float) -> None:
    found = _with_gradient(lambda views: nt_xent(views, temperature, tile_size=tile_size), _views())
    expected = _with_gradient(lambda views: _by_hand(views, temperature), _views())
    torch.testing.assert_close(found, expected)


def test_nt_xent__equal_views_of_all_images_leave_a_guess_among_the_others() -> None:
    views = F.normalize(torch.ones(2, 4, 3), dim=-1)
    assert nt_xent(views, 0.1).item() == pytest.approx(math.log(2 * 4 - 1))


def test_nt_xent__two_halves_of_a_batch_make_the_whole() -> None:
    whole = _views(6).requires_grad_()
    halves = []
    for rank in range(2):
        own = whole[:, 3 * rank : 3 * rank + 3]
        halves.append(nt_xent(own, 0.2, gather=lambda _: whole.transpose(0, 1), rank=rank))
    torch.stack(halves).mean().backward()
    value, gradient = _with_gradient(lambda views: _by_hand(views, 0.2), _views(6))
    torch.testing.assert_close(torch.stack(halves).mean().detach(), value)
    torch.testing.assert_close(whole.grad, gradient)


def test_byol_loss__value_and_gradient_by_hand() -> None:
    targets = _views().flip(1).requires_grad_()
    found = _with_gradient(lambda predictions: byol_loss(predictions, targets), _views())
    cosine = torch.nn.CosineSimilarity(dim=-1)

    def by_hand(predictions: Tensor) -> Tensor:
        fixed = targets.detach()
        return (4 - 2 * cosine(predictions[0], fixed[1]) - 2 * cosine(predictions[1], fixed[0])).mean()

    value, gradient = _with_gradient(by_hand, _views())
    torch.testing.assert_close(found[0], value)
    # The cosine's gradient is the part across the prediction; the loss leaves the other to the normalisation before it.
    along = (found[1] * _views()).sum(dim=-1, keepdim=True) * _views()
    torch.testing.assert_close(found[1] - along, gradient)
    assert targets.grad is None


def test_target_momentum__from_its_start_along_a_cosine_to_one() -> None:
    found = [target_momentum(step, 100, 0.996) for step in range(101)]
    steps = np.arange(101)
    np.testing.assert_allclose(found, 1 - 0.004 * (np.cos(np.pi * steps / 100) + 1) / 2, rtol=1e-12)
    assert (found[0], found[100]) == (0.996, 1.0)
