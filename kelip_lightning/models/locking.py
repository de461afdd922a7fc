"""Locked encoders: whole towers, or all but their last blocks."""

from collections.abc import Sequence

from torch import nn

from kelip_lightning.models.dual_encoder import DualEncoder


def lock_encoders(
    model: DualEncoder,
    *,
    lock_image_encoder: bool,
    lock_text_encoder: bool,
    unlock_image_blocks: int = 0,
    unlock_text_blocks: int = 0,
) -> None:
    """Set `requires_grad` of both encoders; projections, logit scale and bias are always trained.

    With n >= 1 unlocked blocks, the last n blocks and the norm after them are trained; embeddings, positions and the
    norm before the blocks stay locked, for n = depth too.

    Args:
        model: The model, perhaps on the meta device.
        lock_image_encoder: Whether the image encoder is locked.
        lock_text_encoder: Whether the text encoder is locked.
        unlock_image_blocks: Last blocks of the image encoder that are trained although it is locked.
        unlock_text_blocks: The same of the text encoder.

    Raises:
        ConfigError: The blocks of a Hugging Face text model cannot be told apart.

    Reference: Zhai et al. 2022 (LiT, arXiv:2111.07991); open_clip, `--lock-image-unlocked-groups` and
        `--lock-text-unlocked-layers`.
    Deviation: in open_clip a locked tower includes its projection, which is its first group to be unlocked: n blocks
        here are n + 1 groups there.
    """
    image, text = model.image_encoder, model.text_encoder
    image.requires_grad_(not lock_image_encoder)
    text.requires_grad_(not lock_text_encoder)
    if lock_image_encoder and unlock_image_blocks:
        _unlock_last(list(image.vit.blocks), image.vit.norm, unlock_image_blocks)
    if lock_text_encoder and unlock_text_blocks:
        _unlock_last(text.blocks(), text.final_norm(), unlock_text_blocks)


def _unlock_last(blocks: Sequence[nn.Module], norm: nn.Module | None, number: int) -> None:
    for part in [*blocks[-number:], *([] if norm is None else [norm])]:
        part.requires_grad_(True)
