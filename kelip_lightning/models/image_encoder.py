"""The one image encoder of both stages: a timm Vision Transformer.

Shapes: B batch, C/H/W image, N patches, K kept patches, L tokens, D width.
"""

from collections.abc import Iterator
from functools import partial

import torch
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kelip_lightning.models.blocks import is_plain, normalize, run_block
from kelip_lightning.models.config import ImageEncoderConfig, Pooling, PositionResampling
from kelip_lightning.models.patches import keep_lowest, patchify, take_rows
from kelip_lightning.models.preprocessing import normalize_patches
from kelip_lightning.models.sample_noise import PATCHES, noisy_block, uniform
from kelip_lightning.models.vision_transformer import (
    add_positions,
    embed_patches,
    sizes_of,
    timm_vision_transformer,
    with_patch_projection,
)


class ImageEncoder(nn.Module):
    """Gives tokens for MAE pre-training and one feature per image for contrastive training."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.vit = build_vision_transformer(config)
        self.num_prefix_tokens: int = self.vit.num_prefix_tokens
        """Tokens before the patches: the class token, and registers of some timm models."""
        self.gradient_checkpointing = False
        """Whether blocks are recomputed in the backward pass."""
        if config.timm_name is None:
            self._init_positions()

    def _init_positions(self) -> None:
        """Initialise the learned positions from 2D sine and cosine, so that neighbours are similar from step 0.

        Deviation: the official code starts them from noise (std 0.01), from which a short run does not learn the grid.
        """
        side = self.config.image_size // self.config.patch_size
        grid = build_sincos2d_pos_embed([side, side], self.config.width, interleave_sin_cos=False)
        positions = self.vit.pos_embed
        assert positions is not None
        with torch.no_grad():
            positions[:, 1:] = grid * 0.02 * 2**0.5
            positions[:, :1] = 0

    def tokens(self, images_BCHW: Tensor, keep_BK: Tensor | None = None, seeds_B: Tensor | None = None) -> Tensor:
        """Normalised tokens after the last block, prefix tokens first.

        Args:
            images_BCHW: uint8 pixels, or standardised images, float; sides must be multiples of the patch size.
            keep_BK: int64 unique indices of the patches to encode, in raster order; `None` for every patch.
            seeds_B: int64 seeds of dropout and stochastic depth; `None` disables both.

        Returns:
            (B, num_prefix_tokens + K, D).
        """
        return self.run_blocks(self.embed(images_BCHW, keep_BK), seeds_B)

    def embed(self, images_BCHW: Tensor, keep_BK: Tensor | None = None) -> Tensor:
        """Prefix tokens and patch embeddings with positions, as they enter the blocks; arguments as of `tokens`."""
        size = self.config.patch_size
        height, width = images_BCHW.shape[2:]
        if height % size or width % size:
            raise ValueError(f"the sides of images, {height} x {width}, must be multiples of patch_size = {size}")
        patches_BKP = patchify(images_BCHW, size)
        if keep_BK is not None:
            patches_BKP = take_rows(patches_BKP, keep_BK)
        if patches_BKP.dtype == torch.uint8:
            patches_BKP = normalize_patches(patches_BKP)
        return add_positions(
            self.vit,
            embed_patches(self.vit, patches_BKP),
            (height // size, width // size),
            keep_BK,
            official=self.config.position_resampling is PositionResampling.official,
        )

    def run_blocks(self, tokens_BLD: Tensor, seeds_B: Tensor | None = None, num_outputs: int | None = None) -> Tensor:
        """Norms and all blocks on embedded tokens, (B, L, D).

        Args:
            tokens_BLD: From `embed`.
            seeds_B: As of `tokens`.
            num_outputs: The last block computes the first tokens only; `None`: all.
        """
        tokens_BLD = normalize(self.vit.norm_pre, tokens_BLD)
        run = self._run_block
        if self.gradient_checkpointing and torch.is_grad_enabled():
            run = partial(checkpoint, self._run_block, use_reentrant=False, preserve_rng_state=False)
        for index, block in enumerate(self.vit.blocks):
            is_last = index + 1 == len(self.vit.blocks)
            tokens_BLD = run(block, index, tokens_BLD, seeds_B, num_outputs if is_last else None)
        return normalize(self.vit.norm, tokens_BLD)

    def _run_block(
        self, block: nn.Module, index: int, tokens_BLD: Tensor, seeds_B: Tensor | None, num_outputs: int | None
    ) -> Tensor:
        config = self.config
        path_rate = config.drop_path_rate * index / max(1, config.depth - 1)
        if seeds_B is None or not (path_rate or config.dropout_rate):
            return run_block(block, tokens_BLD, num_outputs)
        assert is_plain(block), f"no dropout inside {type(block).__name__}"
        rates = {"path_rate": path_rate, "dropout_rate": config.dropout_rate}
        return noisy_block(block, tokens_BLD, seeds_B, index, num_outputs, **rates)

    def forward(self, images_BCHW: Tensor, seeds_B: Tensor | None = None) -> Tensor:
        """One feature per image, (B, D).

        Args:
            images_BCHW: uint8 pixels, or standardised images, float.
            seeds_B: int64 seeds of dropout, stochastic depth and patch dropout (on images of the stored size); `None`
                disables all three, in training mode too.
        """
        keep_BK = None
        if seeds_B is not None and self.config.patch_drop_rate and images_BCHW.shape[-1] == self.config.image_size:
            keep_BK = keep_lowest(uniform(seeds_B, PATCHES, [self.config.num_patches]), self.config.patch_drop_rate)
        if self.config.pooling is Pooling.cls:
            return self.run_blocks(self.embed(images_BCHW, keep_BK), seeds_B, num_outputs=1)[:, 0]
        return self.tokens(images_BCHW, keep_BK, seeds_B)[:, self.num_prefix_tokens :].mean(dim=1)


def build_vision_transformer(config: ImageEncoderConfig) -> VisionTransformer:
    """The configured network with random weights; its output is every token of the last block.

    Raises:
        ValueError: See `timm_problem`.
    """
    if config.timm_name is not None:
        if problem := timm_problem(config):
            raise ValueError(problem)
        return timm_vision_transformer(config.timm_name, img_size=config.image_size)
    # Pooling is done in ImageEncoder.forward, after the final norm.
    plain = VisionTransformer(
        img_size=config.image_size,
        patch_size=config.patch_size,
        embed_dim=config.width,
        depth=config.depth,
        num_heads=config.num_heads,
        mlp_ratio=config.mlp_ratio,
        num_classes=0,
        global_pool="",
        dynamic_img_size=True,
        pre_norm=config.pre_norm,
        act_layer=config.activation.value,
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )
    return with_patch_projection(plain)


def timm_problem(config: ImageEncoderConfig) -> str | None:
    """Error message if timm has no `timm_name`, or a model that the other fields do not fit; `None` if it does.

    The other fields must equal the sizes of timm's model, so that none of them is ignored.
    """
    if config.timm_name is None:
        return None
    try:
        with torch.device("meta"):
            model = timm_vision_transformer(config.timm_name, img_size=config.image_size)
    except ValueError as error:
        return str(error)
    return next(_mismatches(model, config), None)


def _mismatches(model: VisionTransformer, config: ImageEncoderConfig) -> Iterator[str]:
    name, sizes = config.timm_name, sizes_of(model)
    ours = {key: getattr(config, key) for key in sizes} | {"activation": config.activation.name}
    if wrong := {key: value for key, value in sizes.items() if value != ours[key]}:
        wanted = " ".join(f"image_encoder.{key}={str(value).lower()}" for key, value in wrong.items())
        yield f"timm_name = {name} has other sizes than the fields beside it; set {wanted}"
    if (config.drop_path_rate or config.dropout_rate) and not all(type(block) is Block for block in model.blocks):
        yield f"drop_path_rate and dropout_rate must be 0 for timm_name = {name}, whose blocks are no plain `Block`"
    if config.pooling is Pooling.cls and not model.has_class_token:
        yield f"pooling = cls, but timm_name = {name} has no class token; use pooling=mean"
