"""Image–text contrastive losses.

Shapes: V views, B pairs on this rank, G pairs over all ranks, E embed_dim.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

Gather = Callable[[Tensor], Tensor]
"""(B, ...) -> (G, ...), differentiable, own rows at offset rank * B."""


@dataclass(kw_only=True, slots=True)
class ContrastiveLossConfig:
    """How crops enter the loss."""

    local_weight: float = 1.0
    """Weight of a local crop's term relative to a global crop's, >= 0 (unpublished; ours: equal)."""

    def __post_init__(self) -> None:
        if self.local_weight < 0:
            raise ValueError(f"local_weight = {self.local_weight} must not be negative: 0 ignores local crops")


@dataclass(slots=True, kw_only=True)
class ContrastiveLoss:
    """The loss in nats, and its parts for the log."""

    total: Tensor
    global_crops: Tensor
    local_crops: Tensor | None
    """None without local crops."""
    correct_B: Tensor
    """bool (B,): the first global crop's best caption of the batch is its own."""


def info_nce(
    image_BE: Tensor, text_BE: Tensor, logit_scale: Tensor, gather: Gather | None = None, rank: int = 0
) -> tuple[Tensor, Tensor]:
    """Symmetric InfoNCE of this rank's pairs against the captions and images of all ranks.

    loss = (CE(s * image @ text_all^T) + CE(s * text @ image_all^T)) / 2, mean over the B local rows; the mean over
    ranks is the loss of the global batch, and with a differentiable gather so is its gradient.

    Args:
        image_BE: Unit-length float32 image features.
        text_BE: Unit-length float32 text features.
        logit_scale: Factor on the cosines, (1,) or scalar.
        gather: Collects rows over ranks with gradient; none on one process.
        rank: Own position among the gathered rows.

    Returns:
        The loss (scalar, nats), and (B,) whether an image's best caption is its own.

    Reference:
        Radford et al. 2021 (arXiv:2103.00020), fig. 3; used by Ko & Gu 2022 for stage 2.
    """
    image_GE = gather(image_BE) if gather else image_BE
    text_GE = gather(text_BE) if gather else text_BE
    return _info_nce(image_BE, text_BE, image_GE, text_GE, logit_scale, rank)


def _info_nce(
    image_BE: Tensor, text_BE: Tensor, image_GE: Tensor, text_GE: Tensor, logit_scale: Tensor, rank: int
) -> tuple[Tensor, Tensor]:
    target_B = torch.arange(len(image_BE), device=image_BE.device) + rank * len(image_BE)
    image_logits_BG = logit_scale * image_BE @ text_GE.T
    text_logits_BG = logit_scale * text_BE @ image_GE.T
    loss = (F.cross_entropy(image_logits_BG, target_B) + F.cross_entropy(text_logits_BG, target_B)) / 2
    return loss, image_logits_BG.detach().argmax(dim=1) == target_B


def multi_crop_info_nce(
    global_VBE: Tensor,
    local_VBE: Tensor,
    text_BE: Tensor,
    logit_scale: Tensor,
    *,
    local_weight: float = 1.0,
    gather: Gather | None = None,
    rank: int = 0,
) -> ContrastiveLoss:
    """The weighted mean of each crop's InfoNCE against the same captions.

    total = (sum_v InfoNCE(global_v, text) + w * sum_u InfoNCE(local_u, text)) / (V + w * V').

    A crop's negatives are the same-numbered crops of other images, never other crops of its own image, so no term
    compares an image with itself; there is no image–image term.

    Args:
        global_VBE: Unit-length float32 features of V >= 1 global crops.
        local_VBE: The same of V' >= 0 local crops.
        text_BE: Unit-length float32 text features.
        logit_scale: Factor on the cosines.
        local_weight: w above.
        gather: As in `info_nce`.
        rank: As in `info_nce`.

    Reference:
        Ko & Gu 2022 (arXiv:2203.14463) train on low-resolution crops too; the terms are unpublished, this is our
        reading (each crop against the caption).
    """
    crops_VBE = torch.cat([global_VBE, local_VBE])
    # One collective for all crops: rows are pairs, so the views stand in the second place.
    crops_VGE = gather(crops_VBE.transpose(0, 1)).transpose(0, 1) if gather else crops_VBE
    text_GE = gather(text_BE) if gather else text_BE
    terms = [
        _info_nce(crop_BE, text_BE, crop_GE, text_GE, logit_scale, rank)
        for crop_BE, crop_GE in zip(crops_VBE, crops_VGE, strict=True)
    ]
    losses_V = torch.stack([loss for loss, _ in terms])
    num_global, num_local = len(global_VBE), len(local_VBE)
    global_sum, local_sum = losses_V[:num_global].sum(), losses_V[num_global:].sum()
    return ContrastiveLoss(
        total=(global_sum + local_weight * local_sum) / (num_global + local_weight * num_local),
        global_crops=global_sum.detach() / num_global,
        local_crops=local_sum.detach() / num_local if num_local else None,
        correct_B=terms[0][1],
    )
