"""Losses between two views of the same image.

Shapes: V = 2 views, B images on this rank, G images over all ranks, N = V * G, E width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kelip_lightning.losses.contrastive import Gather
from kelip_lightning.losses.products import MatmulPrecision, Products
from kelip_lightning.losses.tiles import Operand, TiledMatrix, info_nce_rows, with_gradients

EPSILON = 1e-5
"""Added to variances over the batch, as batch norm does."""


def nt_xent(
    views_VBE: Tensor,
    temperature: float,
    *,
    max_logits_per_pair: int | None = None,
    matmul_precision: MatmulPrecision = MatmulPrecision.auto,
    gather: Gather | None = None,
    rank: int = 0,
) -> Tensor:
    """Cross-entropy of finding each view's partner among the 2 G - 1 other views of the global batch, in nats.

    The mean over the rank's 2 B views; the mean over ranks is the loss of the global batch, and with a differentiable
    gather so is its gradient.

    Args:
        views_VBE: Unit-length float32 features of two views.
        temperature: Divides the cosines.
        max_logits_per_pair: Logits in memory at a time, over 2 B; none: the whole matrix.
        matmul_precision: How matrices are multiplied.
        gather: Collects rows over ranks with gradient; none on one process.
        rank: Own position among the gathered rows.

    Reference: Chen et al. 2020 (SimCLR, arXiv:2002.05709), eq. 1 and alg. 1.
    """
    num_views, batch = views_VBE.shape[:2]
    assert num_views == 2, "a view has one partner"
    # Rows are images to the gather, so the views stand in the second place.
    all_VGE = gather(views_VBE.transpose(0, 1)).transpose(0, 1) if gather else views_VBE
    inputs = [views_VBE.flatten(0, 1), all_VGE.flatten(0, 1)]
    query, key = operands = [Operand.of(one) for one in inputs]
    own_B = torch.arange(batch, device=views_VBE.device) + rank * batch
    partner = torch.cat([own_B + all_VGE.shape[1], own_B])
    products = Products(matmul_precision, views_VBE.device)
    # Filled on the device: a copy of a Python number would make the host wait for it.
    matrix = TiledMatrix(Operand.of(views_VBE.new_full((), 1 / temperature)), None, max_logits_per_pair, products)
    total, _ = matrix.add(query, key, partner, _nt_xent_rows, 1 / len(partner))
    return with_gradients(total / len(partner), inputs, operands)


def _nt_xent_rows(logits_RN: Tensor, partner_R: Tensor) -> Tensor:
    """As `info_nce_rows`, without the view itself, which stands half a row away from its partner."""
    num_keys = logits_RN.shape[1]
    itself_R = (partner_R + num_keys // 2) % num_keys
    logits_RN.scatter_(1, itself_R.unsqueeze(1), -torch.inf)
    return info_nce_rows(logits_RN, partner_R)


def byol_loss(predictions_VBE: Tensor, targets_VBE: Tensor, *, gather: Gather | None = None) -> Tensor:
    """2 - 2 cos between each view's prediction and the other view's target, both directions added, mean over B.

    The mean over ranks is the loss of the global batch, and with a differentiable gather so is its gradient.

    Args:
        predictions_VBE: Float32 predictions of two views, of any length.
        targets_VBE: Float32 projections of the same views by the target network; they get no gradient.
        gather: Collects rows over ranks with gradient; none on one process.

    Deviation: both are standardised over the global batch here, since the heads have no batch norm inside. Without
    either, features that are alike for all images would solve the task.

    Reference: Grill et al. 2020 (BYOL, arXiv:2006.07733), eq. 2 and the symmetric loss after it.
    """
    predictions_VBE = F.normalize(_standardize(predictions_VBE, gather), dim=-1)
    targets_VBE = F.normalize(_standardize(targets_VBE.detach(), gather), dim=-1)
    cosines_VB = (predictions_VBE * targets_VBE.flip(0)).sum(dim=-1)
    return (2 - 2 * cosines_VB).sum(dim=0).mean()


def _standardize(features_VBE: Tensor, gather: Gather | None) -> Tensor:
    """Every feature with mean 0 and variance 1 over the images of each view, on all ranks."""
    all_GVE = gather(features_VBE.transpose(0, 1)) if gather else features_VBE.transpose(0, 1)
    variance_VE, mean_VE = torch.var_mean(all_GVE, dim=0, correction=0)
    return (features_VBE - mean_VE.unsqueeze(1)) * torch.rsqrt(variance_VE.unsqueeze(1) + EPSILON)


def target_momentum(step: int, max_steps: int, start: float) -> float:
    """Share of itself that BYOL's target keeps after step `step` (from 0): from `start` along a cosine to 1.

    1 - (1 - start) (cos(pi k / K) + 1) / 2.

    Reference: Grill et al. 2020 (arXiv:2006.07733), sec. 3.2.
    """
    return 1 - (1 - start) * (math.cos(math.pi * step / max_steps) + 1) / 2
