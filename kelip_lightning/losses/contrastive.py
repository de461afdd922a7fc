"""Image–text contrastive losses.

Shapes: V views, B pairs on this rank, G pairs over all ranks, E embed_dim.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kelip_lightning.losses.config import ContrastiveKind, MatmulPrecision
from kelip_lightning.losses.tiles import Operand, Products, TiledMatrix, info_nce_rows, sigmoid_rows, with_gradients

Gather = Callable[[Tensor], Tensor]
"""(B, ...) -> (G, ...), differentiable, own rows at offset rank * B."""


@dataclass(slots=True, kw_only=True)
class ContrastiveLoss:
    """The loss in nats, and its parts for logging."""

    total: Tensor
    global_crops: Tensor
    local_crops: Tensor | None
    """`None` without local crops."""
    correct_B: Tensor
    """bool (B,): the first global crop's own caption has its highest logit."""


def contrastive_loss(
    global_VBE: Tensor,
    local_VBE: Tensor,
    text_BE: Tensor,
    logit_scale: Tensor,
    logit_bias: Tensor | None = None,
    *,
    kind: ContrastiveKind,
    local_weight: float = 1.0,
    max_logits_per_pair: int | None = None,
    matmul_precision: MatmulPrecision = MatmulPrecision.auto,
    gather: Gather | None = None,
    gathered_crops: Callable[[], Tensor] | None = None,
    rank: int = 0,
) -> ContrastiveLoss:
    """The weighted mean of each crop's loss against the same captions.

    total = (sum_v term(global_v) + w * sum_u term(local_u)) / (V + w * V'), where the term of a crop is

    * InfoNCE, (CE(s * image @ text_all^T) + CE(s * text @ image_all^T)) / 2, mean over the B local rows;
    * the sigmoid loss, -sum_ij log sigmoid(z_ij (s * image_i . text_all_j + b)) / B, z = 1 for pairs and -1 else.

    A crop's negatives are the crops of the same index of other images. The mean over ranks is the loss of the global
    batch, and with a differentiable gather so is its gradient.

    Args:
        global_VBE: Unit-length float32 features of V >= 1 global crops.
        local_VBE: The same of V' >= 0 local crops.
        text_BE: The same of the texts.
        logit_scale: s, factor on the cosines, (1,) or scalar.
        logit_bias: b, (1,) or scalar; `None` with InfoNCE.
        kind: InfoNCE or sigmoid.
        local_weight: w.
        max_logits_per_pair: Logits of a tile over B; `None` computes the matrix of a crop in one tile.
        matmul_precision: Precision of matrix products.
        gather: Differentiable all-gather of rows; `None` with one process.
        gathered_crops: Ends a gather of all crops, (G, V + V', E), that was started before; `None`: `gather` does it.
        rank: This process's position in the gathered rows.

    Raises:
        ValueError: InfoNCE with a bias, or the sigmoid loss without one.

    Reference: Radford et al. 2021 (arXiv:2103.00020), fig. 3, used by Ko & Gu 2022 (arXiv:2203.14463), who train on
        low-resolution crops too; the terms are unpublished, this is our reading (each crop against the caption).
        Zhai et al. 2023 (arXiv:2303.15343), alg. 1.
    """
    _check_bias(kind, logit_bias)
    crops_VBE = torch.cat([global_VBE, local_VBE])
    pairwise = kind is ContrastiveKind.sigmoid
    crops_VGE = _all_crops(crops_VBE, gather, gathered_crops) if gather and not pairwise else crops_VBE
    text_GE = gather(text_BE) if gather else text_BE
    inputs = [crops_VBE, text_BE, crops_VGE, text_GE, logit_scale, *([] if logit_bias is None else [logit_bias])]
    operands = [Operand.of(one) for one in inputs]
    shares = _shares(len(global_VBE), len(local_VBE), local_weight)
    products = Products(matmul_precision, text_BE.device)
    matrix = TiledMatrix(operands[4], operands[5] if pairwise else None, max_logits_per_pair, products)
    terms = [_term(matrix, operands[:4], view, share, rank, pairwise) for view, share in enumerate(shares)]
    losses_V = torch.stack([loss for loss, _ in terms])
    total = with_gradients(_weighted_sum(losses_V, shares), inputs, operands)
    return _with_parts(total, losses_V, len(global_VBE), terms[0][1])


def _shares(num_global: int, num_local: int, local_weight: float) -> list[float]:
    weights = [1.0] * num_global + [local_weight] * num_local
    return [weight / sum(weights) for weight in weights]


def _all_crops(crops_VBE: Tensor, gather: Gather, gathered: Callable[[], Tensor] | None) -> Tensor:
    # One collective for all crops; the gather concatenates the first dimension, which must be the pairs.
    crops_GVE = gathered() if gathered else gather(crops_VBE.transpose(0, 1))
    return crops_GVE.transpose(0, 1)


def _with_parts(total: Tensor, losses_V: Tensor, num_global: int, correct_B: Tensor) -> ContrastiveLoss:
    local = losses_V[num_global:].mean() if len(losses_V) > num_global else None
    return ContrastiveLoss(
        total=total, global_crops=losses_V[:num_global].mean(), local_crops=local, correct_B=correct_B
    )


def _weighted_sum(values_V: Tensor, weights: Sequence[float]) -> Tensor:
    # Filled on the device: copying Python numbers synchronises.
    return values_V @ torch.stack([values_V.new_full((), weight) for weight in weights])


def _check_bias(kind: ContrastiveKind, logit_bias: Tensor | None) -> None:
    if kind is ContrastiveKind.sigmoid and logit_bias is None:
        raise ValueError("the sigmoid loss needs a logit_bias, and the model has none")
    if kind is ContrastiveKind.info_nce and logit_bias is not None:
        raise ValueError("info_nce has no logit_bias, and the model has one")


def _term(
    matrix: TiledMatrix, features: Sequence[Operand], view: int, share: float, rank: int, pairwise: bool
) -> tuple[Tensor, Tensor]:
    """The term of one crop and (B,) whether it is classified correctly; adds `share` times its gradients."""
    crops, text, all_crops, all_text = features
    num_pairs = len(text.value)
    target_B = torch.arange(num_pairs, device=text.value.device) + rank * num_pairs
    if pairwise:
        loss, correct_B = matrix.add(crops[view], all_text, target_B, sigmoid_rows, share / num_pairs)
        return loss / num_pairs, correct_B
    weight = share / (2 * num_pairs)
    of_images, correct_B = matrix.add(crops[view], all_text, target_B, info_nce_rows, weight)
    of_texts, _ = matrix.add(text, all_crops[view], target_B, info_nce_rows, weight)
    return (of_images + of_texts) / (2 * num_pairs), correct_B
