"""The masked autoencoder that the official KELIP repository ships, beside the one of He et al.

Reference: navervision/KELIP, `kelip/model.py`, class `MAE`: the class token is dropped before the blocks, normalisation
    comes after masking, the projection of the joint space stands between encoder and decoder, the decoder has learned
    positions, QuickGELU and a causal mask (odd for pictures: a patch sees those before it in raster order), and ends in
    a tanh.
Deviation: the projection is the autoencoder's own and is not handed over to contrastive training, since what the paper
    did with it is unpublished. Its tanh is read as pixels in [-1, 1] and compared in CLIP's standardised pixels, in
    which the loss of every variant is measured; the official targets are unpublished too.

Shapes: B batch, N patches, K kept, D encoder width, d decoder width, P values of a patch.
"""

from functools import partial

import torch
from torch import Tensor, nn

from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import (
    MaskedAutoencoder,
    MaskedAutoencoderBase,
    MaskedAutoencoderConfig,
    MaskedAutoencoderVariant,
)
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.models.rows import take_rows


class OfficialMaskedAutoencoder(MaskedAutoencoderBase):
    """The masked autoencoder of the official repository; its predictions are pixels."""

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
                activation=_quick_gelu,
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
        patches_BND = self.encoder.embed(images_BCHW)[:, self.encoder.num_prefix_tokens :]
        visible_BKd: Tensor = self.projection(self.encoder.run_blocks(take_rows(patches_BND, keep_BK), seeds_B))
        return visible_BKd

    def _decode(self, visible_BLd: Tensor, keep_BK: Tensor, mask_BN: Tensor) -> Tensor:
        num_patches = mask_BN.shape[1]
        causal = nn.Transformer.generate_square_subsequent_mask(num_patches, device=visible_BLd.device)
        decoded_BNd = self._fill_in(visible_BLd, keep_BK, mask_BN) + self.decoder_positions
        for layer in self.decoder_blocks.layers:
            decoded_BNd = self._run_decoder_block(partial(layer, src_mask=causal, is_causal=True), decoded_BNd)
        squashed_BNP = torch.tanh(self.decoder_pixels(self.decoder_norm(decoded_BNd)).float())
        # Channels are innermost in a patch, and first where pixels are standardised.
        pixels = ((squashed_BNP + 1) / 2).unflatten(-1, (self.patch_size, self.patch_size, 3)).movedim(-1, -3)
        return normalize_images(pixels).movedim(-3, -1).flatten(-3)


def build_masked_autoencoder(encoder: ImageEncoder, config: MaskedAutoencoderConfig) -> MaskedAutoencoderBase:
    """The configured variant around an image encoder, its decoder freshly initialised."""
    match config.variant:
        case MaskedAutoencoderVariant.he:
            return MaskedAutoencoder(encoder, config)
        case MaskedAutoencoderVariant.official:
            return OfficialMaskedAutoencoder(encoder, config)


def _quick_gelu(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)
