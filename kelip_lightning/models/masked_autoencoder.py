"""The masked autoencoder of MAE pre-training: the shared image encoder and a light decoder.

Reference: He et al. 2022 (arXiv:2111.06377), sec. 3: the encoder sees the kept patches only, class token kept,
decoder with fixed sine-cosine positions.

Shapes: B batch, N patches, K kept, D encoder width, d decoder width, P values of a patch.
"""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from data_modules.config_roles import at_least, between, check_ranges
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.patches import keep_lowest, mask_of
from kelip_lightning.models.rows import put_rows


class MaskedAutoencoderVariant(Enum):
    """Which masked autoencoder."""

    he = "he"
    official = "official"


@dataclass(kw_only=True, slots=True)
class MaskedAutoencoderConfig:
    """Masking and decoder (defaults: He et al. 2022)."""

    variant: MaskedAutoencoderVariant = MaskedAutoencoderVariant.he
    """he: as He et al. 2022; official: as the code that ships with the official KELIP, without class token in the
    encoder, with a causal decoder and a tanh at its end. The default is he: its decoder sees every patch, and it trains
    the class token and all weights that are handed over; no metric of the official one is published."""

    mask_ratio: float = field(default=0.75, metadata=between(0, 1, "neither"))
    """Share of patches hidden from the encoder, in (0, 1) (paper: 0.75 "following MAE")."""
    norm_pix_loss: bool = True
    """Whether each target patch is standardised by its own mean and standard deviation."""
    decoder_width: int = field(default=512, metadata=at_least(1))
    """Token width of the decoder; a multiple of 4 and of decoder_num_heads."""
    decoder_depth: int = field(default=8, metadata=at_least(1))
    """Blocks of the decoder."""
    decoder_num_heads: int = field(default=16, metadata=at_least(1))
    """Attention heads of the decoder."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.decoder_width % self.decoder_num_heads or self.decoder_width % 4:
            raise ValueError(
                f"decoder_width = {self.decoder_width} must be a multiple of decoder_num_heads = "
                f"{self.decoder_num_heads} and of 4; change one"
            )
        if self.variant is MaskedAutoencoderVariant.official and self.norm_pix_loss:
            raise ValueError(
                "norm_pix_loss = true cannot be met by variant = official, whose tanh gives pixels; set it to false"
            )


class MaskedReconstruction(NamedTuple):  # ZeRO-3 finds tensors in tuples, not in dataclasses
    """What the decoder made of the visible patches."""

    prediction_BNP: Tensor
    """float32, every patch in raster order; standardised pixel values if norm_pix_loss."""
    mask_BN: Tensor
    """float32, 1 where the encoder did not see the patch."""


class MaskedAutoencoderBase(nn.Module):
    """Reconstructs all patches of an image from the few that the noise leaves visible, by encoder and decoder."""

    mask_token: nn.Parameter

    def __init__(self, encoder: ImageEncoder, config: MaskedAutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = encoder

    @property
    def patch_size(self) -> int:
        """Side of a patch in pixels."""
        return self.encoder.config.patch_size

    @property
    def norm_pix_loss(self) -> bool:
        """Whether predictions are standardised patch by patch."""
        return self.config.norm_pix_loss

    def forward(self, images_BCHW: Tensor, noise_BN: Tensor, seeds_B: Tensor | None = None) -> MaskedReconstruction:
        """Reconstruct standardised images from the patches with the lowest noise.

        With int64 seeds the encoder's dropout and stochastic depth act, as in training.
        """
        keep_BK = keep_lowest(noise_BN, self.config.mask_ratio)
        mask_BN = mask_of(keep_BK, noise_BN.shape[1])
        prediction_BNP = self._decode(self._encode(images_BCHW, keep_BK, seeds_B), keep_BK, mask_BN)
        return MaskedReconstruction(prediction_BNP=prediction_BNP, mask_BN=mask_BN)

    @abstractmethod
    def _encode(self, images_BCHW: Tensor, keep_BK: Tensor, seeds_B: Tensor | None) -> Tensor:
        """The encoder's tokens in the decoder's width."""

    @abstractmethod
    def _decode(self, visible_BLd: Tensor, keep_BK: Tensor, mask_BN: Tensor) -> Tensor:
        """The prediction of every patch, float32 (B, N, P), from what `_encode` gave."""

    def _fill_in(self, visible_BKd: Tensor, keep_BK: Tensor, mask_BN: Tensor) -> Tensor:
        """The visible patches at their places and the mask token at all others, (B, N, d)."""
        patches_BNd = put_rows(visible_BKd, keep_BK, mask_BN.shape[1])
        return torch.where(mask_BN.bool().unsqueeze(-1), self.mask_token.to(visible_BKd.dtype), patches_BNd)

    def _run_decoder_block(self, block: Callable[[Tensor], Tensor], tokens_BLd: Tensor) -> Tensor:
        """The block's output; its activations are computed again in the backward pass where the encoder's are."""
        if not (self.encoder.gradient_checkpointing and torch.is_grad_enabled()):
            return block(tokens_BLd)
        output_BLd: Tensor = checkpoint(block, tokens_BLd, use_reentrant=False, preserve_rng_state=False)
        return output_BLd


class MaskedAutoencoder(MaskedAutoencoderBase):
    """The masked autoencoder of He et al."""

    decoder_positions: Tensor

    def __init__(self, encoder: ImageEncoder, config: MaskedAutoencoderConfig) -> None:
        super().__init__(encoder, config)
        size, width = encoder.config, config.decoder_width
        side = size.image_size // size.patch_size
        self.decoder_embed = nn.Linear(size.width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        positions = build_sincos2d_pos_embed([side, side], width, interleave_sin_cos=False)
        self.register_buffer("decoder_positions", positions.unsqueeze(0), persistent=False)
        self.decoder_blocks = nn.Sequential(
            *(Block(width, config.decoder_num_heads, qkv_bias=True) for _ in range(config.decoder_depth))
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.decoder_pixels = nn.Linear(width, size.patch_size**2 * 3)
        self._init_decoder()

    def _init_decoder(self) -> None:
        """Xavier-uniform matrices, zero biases, normal mask token (std 0.02), as He et al. 2022, app. A.1."""
        nn.init.normal_(self.mask_token, std=0.02)
        for module in (self.decoder_embed, *self.decoder_blocks.modules(), self.decoder_pixels):
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def _encode(self, images_BCHW: Tensor, keep_BK: Tensor, seeds_B: Tensor | None) -> Tensor:
        """The class token too, (B, 1 + K, d)."""
        visible_BLd: Tensor = self.decoder_embed(self.encoder.tokens(images_BCHW, keep_BK, seeds_B))
        return visible_BLd

    def _decode(self, visible_BLd: Tensor, keep_BK: Tensor, mask_BN: Tensor) -> Tensor:
        prefix = self.encoder.num_prefix_tokens
        patches_BNd = self._fill_in(visible_BLd[:, prefix:], keep_BK, mask_BN)
        # DeepSpeed casts parameters to bfloat16 and leaves buffers as they are.
        patches_BNd = patches_BNd + self.decoder_positions.to(self.mask_token.dtype)
        decoded_BLd = torch.cat([visible_BLd[:, :prefix], patches_BNd], dim=1)
        for block in self.decoder_blocks:
            decoded_BLd = self._run_decoder_block(block, decoded_BLd)
        prediction_BNP: Tensor = self.decoder_pixels(self.decoder_norm(decoded_BLd[:, prefix:])).float()
        return prediction_BNP
