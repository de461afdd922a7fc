"""Losses on images alone: masked reconstruction (MAE), and losses between two views of an image (SimCLR, BYOL).

Shapes: B images on this rank, G images over all ranks, N patches, P values of a patch, V = 2 views, E width.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from kelip_lightning.losses.config import MatmulPrecision
from kelip_lightning.losses.contrastive import Gather
from kelip_lightning.losses.tiles import Operand, Products, TiledMatrix, info_nce_rows, with_gradients


def standardize_patches(patches_BNP: Tensor) -> Tensor:
    """Standardise each patch by its own mean and (unbiased) variance, to which 1e-6 is added."""
    mean = patches_BNP.mean(dim=-1, keepdim=True)
    variance = patches_BNP.var(dim=-1, keepdim=True)
    return (patches_BNP - mean) / (variance + 1e-6).sqrt()


def masked_mse(prediction_BNP: Tensor, target_BNP: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean squared error over masked patches, scalar; the mask is 1 for masked patches.

    Reference: He et al. 2022 (arXiv:2111.06377), sec. 3, "Reconstruction target".
    """
    error_BN = (prediction_BNP - target_BNP).square().mean(dim=-1)
    return (error_BN * mask_BN).sum() / mask_BN.sum()


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
    """NT-Xent: cross-entropy of each view's partner among the 2 G - 1 other views of the global batch, in nats.

    The mean over the rank's 2 B views; the mean over ranks is the loss of the global batch, and with a differentiable
    gather so is its gradient.

    Args:
        views_VBE: Unit-length float32 features of two views.
        temperature: Divides the cosines.
        max_logits_per_pair: Logits of a tile over 2 B; `None` computes the matrix in one tile.
        matmul_precision: Precision of matrix products.
        gather: Differentiable all-gather of rows; `None` with one process.
        rank: This process's position in the gathered rows.

    Reference: Chen et al. 2020 (SimCLR, arXiv:2002.05709), eq. 1 and alg. 1.
    """
    num_views, batch = views_VBE.shape[:2]
    assert num_views == 2, "a view has one partner"
    # The gather concatenates the first dimension, which must be the images.
    all_VGE = gather(views_VBE.transpose(0, 1)).transpose(0, 1) if gather else views_VBE
    inputs = [views_VBE.flatten(0, 1), all_VGE.flatten(0, 1)]
    query, key = operands = [Operand.of(one) for one in inputs]
    own_B = torch.arange(batch, device=views_VBE.device) + rank * batch
    partner = torch.cat([own_B + all_VGE.shape[1], own_B])
    products = Products(matmul_precision, views_VBE.device)
    # Filled on the device: copying a Python number synchronises.
    matrix = TiledMatrix(Operand.of(views_VBE.new_full((), 1 / temperature)), None, max_logits_per_pair, products)
    total, _ = matrix.add(query, key, partner, _nt_xent_rows, 1 / len(partner))
    return with_gradients(total / len(partner), inputs, operands)


def _nt_xent_rows(logits_RN: Tensor, partner_R: Tensor) -> Tensor:
    """As `info_nce_rows`, without the view itself, which is half a row away from its partner."""
    num_keys = logits_RN.shape[1]
    itself_R = (partner_R + num_keys // 2) % num_keys
    logits_RN.scatter_(1, itself_R.unsqueeze(1), -torch.inf)
    return info_nce_rows(logits_RN, partner_R)


def byol_loss(predictions_VBE: Tensor, targets_VBE: Tensor, *, gather: Gather | None = None) -> Tensor:
    """2 - 2 cos between each view's prediction and the other view's target, sum over both, mean over B.

    The mean over ranks is the loss of the global batch, and with a differentiable gather so is its gradient.

    Args:
        predictions_VBE: Float32 predictions of two views, of any length.
        targets_VBE: Float32 projections of the same views by the target network; they get no gradient.
        gather: Differentiable all-gather of rows; `None` with one process.

    Deviation: both are standardised over the global batch, since the heads have no batch norm. Without either, equal
    features for all images would minimise the loss.

    Reference: Grill et al. 2020 (BYOL, arXiv:2006.07733), eq. 2 and the symmetric loss after it.
    """
    predictions_VBE = F.normalize(_standardize(predictions_VBE, gather), dim=-1)
    targets_VBE = F.normalize(_standardize(targets_VBE.detach(), gather), dim=-1)
    cosines_VB = (predictions_VBE * targets_VBE.flip(0)).sum(dim=-1)
    return (2 - 2 * cosines_VB).sum(dim=0).mean()


def _standardize(features_VBE: Tensor, gather: Gather | None) -> Tensor:
    """Standardise every feature over the images of each view, on all ranks."""
    all_GVE = gather(features_VBE.transpose(0, 1)) if gather else features_VBE.transpose(0, 1)
    variance_VE, mean_VE = torch.var_mean(all_GVE, dim=0, correction=0)
    return (features_VBE - mean_VE.unsqueeze(1)) * torch.rsqrt(variance_VE.unsqueeze(1) + EPSILON)


def target_momentum(step: int, max_steps: int, start: float) -> float:
    """Momentum of BYOL's target after step k (from 0) of K: 1 - (1 - start) (cos(pi k / K) + 1) / 2.

    Reference: Grill et al. 2020 (arXiv:2006.07733), sec. 3.2.
    """
    return 1 - (1 - start) * (math.cos(math.pi * step / max_steps) + 1) / 2
