"""timm Vision Transformers by name, and position embeddings for any image size.

Shapes: B batch, D width, L tokens, M patches of the stored grid, N patches of the image's grid, K kept
patches, P values of a patch.
"""

import difflib
from functools import cache
from typing import Any

import timm
import torch
from timm.layers import Mlp
from timm.layers.activations import QuickGELU
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from kelip_lightning.models.patches import take_rows

Grid = tuple[int, int]
"""Rows and columns of patches."""

_MODULES = ("vision_transformer", "deit")
"""Modules of timm with plain Vision Transformers."""


class PatchProjection(nn.Conv2d):
    """The convolution of a patch embedding, whose parameters it shares, on patches that are cut out already.

    As a matrix product it needs no convolution kernel, and patches that are dropped are not projected.
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        nn.Module.__init__(self)
        self.__dict__ |= convolution.__dict__

    def forward(self, patches: Tensor) -> Tensor:
        """Patches (B, K, P), ordered as by `patchify` -> (B, K, D); images (B, C, H, W) as in `nn.Conv2d`."""
        if patches.ndim == 4:
            return super().forward(patches)
        weight_DP = self.weight.permute(0, 2, 3, 1).flatten(1)
        # Weights are bfloat16 under bf16-true and DeepSpeed; pixels are not.
        return F.linear(patches.to(weight_DP.dtype), weight_DP, self.bias)


def embed_patches(vit: VisionTransformer, patches_BKP: Tensor) -> Tensor:
    """The embedding of standardised patches, as `patchify` gives them, without positions, (B, K, D)."""
    embedded_BKD: Tensor = vit.patch_embed.norm(vit.patch_embed.proj(patches_BKP))
    return embedded_BKD


def add_positions(
    vit: VisionTransformer, patches_BKD: Tensor, grid: Grid, keep_BK: Tensor | None = None, *, official: bool
) -> Tensor:
    """Prefix tokens and embedded patches with positions, (B, num_prefix_tokens + K, D), as timm's `_pos_embed`.

    Args:
        vit: The network.
        patches_BKD: Embedded patches.
        grid: Rows and columns of all patches of an image.
        keep_BK: int64, place of each patch among all; `None`: they are all.
        official: Whether positions are resampled as in the official KELIP code; otherwise as in timm.
    """
    tokens = [getattr(vit, name, None) for name in ("cls_token", "dist_token", "reg_token")]
    prefix = [token.to(patches_BKD.dtype) for token in tokens if token is not None]
    if vit.pos_embed is not None:
        # Models with no_embed_class have positions for patches alone.
        with_position = 0 if vit.no_embed_class else vit.num_prefix_tokens
        positions_1LD = resample_positions(
            vit.pos_embed, vit.patch_embed.grid_size, grid, num_prefix_tokens=with_position, official=official
        ).to(patches_BKD.dtype)
        of_prefix_1LD, of_patches_1ND = positions_1LD[:, :with_position], positions_1LD[:, with_position:]
        if with_position:
            prefix = [torch.cat(prefix, dim=1) + of_prefix_1LD]
        if keep_BK is not None:
            of_patches_1ND = take_rows(of_patches_1ND.expand(patches_BKD.shape[0], -1, -1), keep_BK)
        patches_BKD = patches_BKD + of_patches_1ND
    tokens_BLD = torch.cat([*(one.expand(patches_BKD.shape[0], -1, -1) for one in prefix), patches_BKD], dim=1)
    result: Tensor = vit.pos_drop(tokens_BLD)
    return result


def resample_positions(
    positions_1LD: Tensor, stored: Grid, wanted: Grid, *, num_prefix_tokens: int = 1, official: bool = False
) -> Tensor:
    """Position embeddings for another grid of patches; those of prefix tokens are unchanged.

    A product with a constant matrix: the backward pass of bicubic `F.interpolate` is not deterministic on CUDA.

    Args:
        positions_1LD: (1, num_prefix_tokens + M, D), patches in raster order.
        stored: Grid of `positions_1LD`.
        wanted: Grid of the image.
        num_prefix_tokens: Positions before those of the patches.
        official: Whether to resample as in the official KELIP code; otherwise as in timm.

    Returns:
        (1, num_prefix_tokens + N, D) in the input's dtype; computed in float32.
    """
    if wanted == stored:
        return positions_1LD
    matrix_NM: Tensor = _resampling_matrix(stored, wanted, official, positions_1LD.device)
    with torch.autocast(positions_1LD.device.type, enabled=False):
        resampled_1ND = matrix_NM @ positions_1LD[:, num_prefix_tokens:].float()
    resampled_1ND = resampled_1ND.to(positions_1LD.dtype)
    return torch.cat([positions_1LD[:, :num_prefix_tokens], resampled_1ND], dim=1)


# Called once per graph: the compiler keeps the tensor as a constant.
@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _resampling_matrix(stored: Grid, wanted: Grid, official: bool, device: torch.device) -> Tensor:
    return _matrix_on(stored, wanted, official, device)


@cache
def _matrix_on(stored: Grid, wanted: Grid, official: bool, device: torch.device) -> Tensor:
    """float32 (N, M), cached per device; not a buffer, which would become bfloat16 with the module's weights."""
    # Inference tensors cannot be used in training.
    with torch.inference_mode(False), torch.no_grad():
        return _matrix(stored, wanted, official).float().to(device)


def _matrix(stored: Grid, wanted: Grid, official: bool) -> Tensor:
    """Bicubic interpolation as a matrix, float64 (N, M): the interpolated unit grids.

    timm: with antialiasing. Official: without, and with scale factors (wanted + 0.1) / stored as in DINO; the 0.1
    shifts every sample slightly, so weights trained with it need it.

    Reference: timm, `resample_abs_pos_embed`; navervision/KELIP, `VisualTransformer.interpolate_pos_embedding`.
    Deviation: rows and columns keep their order for images that are not square; the official code swaps them there.
    """
    num_patches = stored[0] * stored[1]
    units = torch.eye(num_patches, dtype=torch.float64, device="cpu").view(1, num_patches, *stored)
    if official:
        factors = tuple((new + 0.1) / old for new, old in zip(wanted, stored, strict=True))
        return F.interpolate(units, scale_factor=factors, mode="bicubic").flatten(2)[0].T
    return F.interpolate(units, size=wanted, mode="bicubic", antialias=True).flatten(2)[0].T


def timm_vision_transformer(name: str, **options: Any) -> VisionTransformer:
    """Create a randomly initialised Vision Transformer of timm that returns every token of the last block.

    `name` is as in `timm.list_models("vit*")`, without a pretraining tag; ValueError for any other model.
    """
    if "." in name:
        raise ValueError(
            f"timm_name = {name} asks for trained weights; give {name.partition('.')[0]}, since training starts from "
            "random ones or from init.image_encoder"
        )
    known = [model for module in _MODULES for model in timm.list_models(module=module)]
    if name not in known:
        close = difflib.get_close_matches(name, known, n=2)
        hint = f"did you mean {' or '.join(close)}?" if close else f"see timm.list_models(module='{_MODULES[0]}')"
        raise ValueError(f"timm_name = {name} is no Vision Transformer of the installed timm; {hint}")
    model = timm.create_model(name, pretrained=False, num_classes=0, global_pool="", dynamic_img_size=True, **options)
    if not isinstance(model, VisionTransformer):
        raise ValueError(f"timm_name = {name} is a {type(model).__name__}; give one of timm's VisionTransformer models")
    return with_patch_projection(model)


def with_patch_projection(model: VisionTransformer) -> VisionTransformer:
    """The network with its patch embedding as a `PatchProjection`."""
    model.patch_embed.proj = PatchProjection(model.patch_embed.proj)
    return model


def sizes_of(model: VisionTransformer) -> dict[str, int | float | bool | str]:
    """The sizes of a Vision Transformer as fields of `ImageEncoderConfig`."""
    block: Any = model.blocks[0]
    mlp = block.mlp
    plain = isinstance(mlp, Mlp)
    return {
        "patch_size": model.patch_embed.patch_size[0],
        "width": model.embed_dim,
        "depth": len(model.blocks),
        "num_heads": block.attn.num_heads,
        "mlp_ratio": mlp.fc1.out_features / model.embed_dim if plain else type(mlp).__name__,
        "activation": _activation_name(mlp.act) if plain else type(mlp).__name__,
        "pre_norm": not isinstance(model.norm_pre, nn.Identity),
    }


def _activation_name(module: nn.Module) -> str:
    if isinstance(module, QuickGELU):
        return "quick_gelu"
    return "gelu" if isinstance(module, nn.GELU) else type(module).__name__
