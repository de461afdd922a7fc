"""NT-Xent and BYOL's loss against the same written the long way, values and gradients."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kelip_lightning.losses.self_supervised import EPSILON, byol_loss, nt_xent, target_momentum


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


@pytest.mark.parametrize("max_logits_per_pair", [None, 1, 3])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_nt_xent__value_and_gradient_by_hand(max_logits_per_pair: int | None, temperature: float) -> None:
    found = _with_gradient(lambda views: nt_xent(views, temperature, max_logits_per_pair=max_logits_per_pair), _views())
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


def _standardized(views: Tensor) -> Tensor:
    """One feature of one view after the other."""
    columns = [[(one - one.mean()) / (one.var(correction=0) + EPSILON).sqrt() for one in view.T] for view in views]
    return torch.stack([torch.stack(view, dim=1) for view in columns])


def _byol_by_hand(predictions: Tensor, targets: Tensor) -> Tensor:
    cosine = torch.nn.CosineSimilarity(dim=-1)
    first, second = _standardized(predictions), _standardized(targets)
    return (4 - 2 * cosine(first[0], second[1]) - 2 * cosine(first[1], second[0])).mean()


def test_byol_loss__value_and_gradient_by_hand() -> None:
    targets = _views().flip(1).requires_grad_()
    found = _with_gradient(lambda predictions: byol_loss(predictions, targets), _views())
    expected = _with_gradient(lambda predictions: _byol_by_hand(predictions, targets.detach()), _views())
    torch.testing.assert_close(found, expected)
    assert targets.grad is None


def test_byol_loss__two_halves_of_a_batch_make_the_whole() -> None:
    whole, targets = _views(6).requires_grad_(), _views(6).flip(1)
    halves = []
    for rows in (slice(0, 3), slice(3, 6)):
        gathered = iter((whole.transpose(0, 1), targets.transpose(0, 1)))
        halves.append(byol_loss(whole[:, rows], targets[:, rows], gather=lambda _, ranks=gathered: next(ranks)))
    torch.stack(halves).mean().backward()
    value, gradient = _with_gradient(lambda views: _byol_by_hand(views, targets), _views(6))
    torch.testing.assert_close(torch.stack(halves).mean().detach(), value)
    torch.testing.assert_close(whole.grad, gradient)


def test_byol_loss__features_alike_for_all_images_solve_nothing() -> None:
    alike = torch.ones(2, 64, 8) + 1e-6 * torch.randn(2, 64, 8, generator=torch.Generator().manual_seed(1))
    assert byol_loss(alike, alike).item() == pytest.approx(4, abs=0.5)
    assert byol_loss(_views(), _views().flip(0)).item() == pytest.approx(0, abs=1e-3)


def test_target_momentum__from_its_start_along_a_cosine_to_one() -> None:
    found = [target_momentum(step, 100, 0.996) for step in range(101)]
    steps = np.arange(101)
    np.testing.assert_allclose(found, 1 - 0.004 * (np.cos(np.pi * steps / 100) + 1) / 2, rtol=1e-12)
    assert (found[0], found[100]) == (0.996, 1.0)
