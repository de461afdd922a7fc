"""Masked autoencoders for MAE pre-training: the shared image encoder and a light decoder.

Reference: He et al. 2022 (arXiv:2111.06377), sec. 3.

Shapes: B batch, N patches, K kept, D encoder width, d decoder width, P values of a patch.
"""

from abc import abstractmethod
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.layers.activations import quick_gelu
from timm.models.vision_transformer import Block
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kelip_lightning.models.blocks import normalize, run_block
from kelip_lightning.models.config import MaskedAutoencoderConfig, MaskedAutoencoderVariant
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.patches import keep_lowest, mask_of, put_rows
from kelip_lightning.models.preprocessing import normalize_images


class MaskedReconstruction(NamedTuple):  # ZeRO-3 finds tensors in tuples, not in dataclasses
    """Output of a masked autoencoder."""

    prediction_BNP: Tensor
    """float32, every patch in raster order; standardised pixel values if norm_pix_loss."""
    mask_BN: Tensor
    """float32, 1 for masked patches."""


class MaskedAutoencoderBase(nn.Module):
    """Encodes the patches with the lowest noise, and predicts all patches of the image."""

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
        """Whether targets are standardised patch by patch."""
        return self.config.norm_pix_loss

    def forward(self, images_BCHW: Tensor, noise_BN: Tensor, seeds_B: Tensor | None = None) -> MaskedReconstruction:
        """Reconstruct images, uint8 or standardised; int64 seeds enable the encoder's dropout and stochastic depth."""
        keep_BK = keep_lowest(noise_BN, self.config.mask_ratio)
        mask_BN = mask_of(keep_BK, noise_BN.shape[1])
        prediction_BNP = self._decode(self._encode(images_BCHW, keep_BK, seeds_B), keep_BK, mask_BN)
        return MaskedReconstruction(prediction_BNP=prediction_BNP, mask_BN=mask_BN)

    @abstractmethod
    def _encode(self, images_BCHW: Tensor, keep_BK: Tensor, seeds_B: Tensor | None) -> Tensor:
        """The encoder's tokens, projected to the decoder's width."""

    @abstractmethod
    def _decode(self, visible_BLd: Tensor, keep_BK: Tensor, mask_BN: Tensor) -> Tensor:
        """The prediction of every patch, float32 (B, N, P), from the output of `_encode`."""

    def _fill_in(self, visible_BKd: Tensor, keep_BK: Tensor, mask_BN: Tensor) -> Tensor:
        """Visible patches at their places and the mask token at all others, (B, N, d)."""
        patches_BNd = put_rows(visible_BKd, keep_BK, mask_BN.shape[1])
        return torch.where(mask_BN.bool().unsqueeze(-1), self.mask_token.to(visible_BKd.dtype), patches_BNd)

    def _run_decoder_block(self, block: Callable[[Tensor], Tensor], tokens_BLd: Tensor) -> Tensor:
        """The block's output; recomputed in the backward pass if the encoder's blocks are."""
        if not (self.encoder.gradient_checkpointing and torch.is_grad_enabled()):
            return block(tokens_BLd)
        output_BLd: Tensor = checkpoint(block, tokens_BLd, use_reentrant=False, preserve_rng_state=False)
        return output_BLd


class MaskedAutoencoder(MaskedAutoencoderBase):
    """The masked autoencoder of He et al.: a decoder with fixed sine-cosine positions."""

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
        """Prefix tokens included, (B, num_prefix_tokens + K, d)."""
        visible_BLd: Tensor = self.decoder_embed(self.encoder.tokens(images_BCHW, keep_BK, seeds_B))
        return visible_BLd

    def _decode(self, visible_BLd: Tensor, keep_BK: Tensor, mask_BN: Tensor) -> Tensor:
        prefix = self.encoder.num_prefix_tokens
        patches_BNd = self._fill_in(visible_BLd[:, prefix:], keep_BK, mask_BN)
        patches_BNd = patches_BNd + self.decoder_positions.to(patches_BNd.dtype)
        decoded_BLd = torch.cat([visible_BLd[:, :prefix], patches_BNd], dim=1)
        for block in self.decoder_blocks:
            decoded_BLd = self._run_decoder_block(partial(run_block, block), decoded_BLd)
        prediction_BNP: Tensor = self.decoder_pixels(normalize(self.decoder_norm, decoded_BLd[:, prefix:])).float()
        return prediction_BNP


class OfficialMaskedAutoencoder(MaskedAutoencoderBase):
    """The masked autoencoder of the official repository.

    Reference: navervision/KELIP, `kelip/model.py`, class `MAE`: the class token is dropped before the blocks, the
        projection to the joint space is between encoder and decoder, and the decoder has learned positions, QuickGELU,
        a causal mask (a patch attends to those before it in raster order) and a final tanh.
    Deviation: the projection belongs to the autoencoder and is not exported, since its use in the paper is
        unpublished. The tanh is read as pixels in [-1, 1] and compared in CLIP's standardised pixels, as in every
        variant; the official targets are unpublished too.
    """

    def __init__(self, encoder: ImageEncoder, config: MaskedAutoencoderConfig) -> None:
        super().__init__(encoder, config)
        size, width = encoder.config, config.decoder_width
        self.projection = nn.Linear(size.width, width, bias=False)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.decoder_positions = nn.Parameter(torch.zeros(size.num_patches, width))
        self.decoder_blocks = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(
                width,
                config.decoder_num_heads,
                dim_feedforward=4 * width,
                dropout=0.0,
                activation=quick_gelu,
                batch_first=True,
                norm_first=True,
            ),
            config.decoder_depth,
            enable_nested_tensor=False,
        )
        self.decoder_norm = nn.LayerNorm(width)
        self.decoder_pixels = nn.Linear(width, size.patch_size**2 * 3)
        self._init_decoder()

    def _init_decoder(self) -> None:
        """The official standard deviations; biases of the MLPs start at zero."""
        width, depth = self.config.decoder_width, self.config.decoder_depth
        nn.init.normal_(self.mask_token, std=0.02)
        nn.init.normal_(self.decoder_positions, std=0.01)
        nn.init.normal_(self.projection.weight, std=self.encoder.config.width**-0.5)
        nn.init.normal_(self.decoder_pixels.weight, std=width**-0.5)
        std_of = {
            "in_proj_weight": width**-0.5,
            "out_proj.weight": width**-0.5 * (2 * depth) ** -0.5,
            "linear1.weight": (2 * width) ** -0.5,
            "linear2.weight": width**-0.5 * (2 * depth) ** -0.5,
        }
        for name, parameter in self.decoder_blocks.named_parameters():
            for ending, std in std_of.items():
                if name.endswith(ending):
                    nn.init.normal_(parameter, std=std)
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def _encode(self, images_BCHW: Tensor, keep_BK: Tensor, seeds_B: Tensor | None) -> Tensor:
        """Without the class token, (B, K, d)."""
        patches_BKD = self.encoder.embed(images_BCHW, keep_BK)[:, self.encoder.num_prefix_tokens :]
        visible_BKd: Tensor = self.projection(self.encoder.run_blocks(patches_BKD, seeds_B))
        return visible_BKd

    def _decode(self, visible_BLd: Tensor, keep_BK: Tensor, mask_BN: Tensor) -> Tensor:
        num_patches = mask_BN.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(num_patches, device=visible_BLd.device)
        decoded_BNd = self._fill_in(visible_BLd, keep_BK, mask_BN) + self.decoder_positions
        for layer in self.decoder_blocks.layers:
            decoded_BNd = self._run_decoder_block(partial(layer, src_mask=causal, is_causal=True), decoded_BNd)
        squashed_BNP = torch.tanh(self.decoder_pixels(self.decoder_norm(decoded_BNd)).float())
        # Channels are last in a patch, and first for the standardisation.
        pixels = ((squashed_BNP + 1) / 2).unflatten(-1, (self.patch_size, self.patch_size, 3)).movedim(-1, -3)
        return normalize_images(pixels).movedim(-3, -1).flatten(-3)


def build_masked_autoencoder(encoder: ImageEncoder, config: MaskedAutoencoderConfig) -> MaskedAutoencoderBase:
    """The configured variant around an image encoder, with a randomly initialised decoder."""
    match config.variant:
        case MaskedAutoencoderVariant.he:
            return MaskedAutoencoder(encoder, config)
        case MaskedAutoencoderVariant.official:
            return OfficialMaskedAutoencoder(encoder, config)
