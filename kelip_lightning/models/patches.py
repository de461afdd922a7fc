"""Images as rows of patches, and which patches a mask keeps.

Shapes: B batch, N = (H / p) * (W / p) patches in raster order, P = p * p * 3 values of a patch, K kept patches.
"""

import torch
from torch import Tensor


def patchify(images_BCHW: Tensor, patch_size: int) -> Tensor:
    """The images cut into patches, (B, N, P); a patch lists its pixels in raster order, channels innermost."""
    b, c, h, w = images_BCHW.shape
    rows, columns = h // patch_size, w // patch_size
    cut = images_BCHW.reshape(b, c, rows, patch_size, columns, patch_size)
    return cut.permute(0, 2, 4, 3, 5, 1).reshape(b, rows * columns, patch_size * patch_size * c)


def unpatchify(patches_BNP: Tensor, patch_size: int) -> Tensor:
    """The inverse of `patchify` for square images, (B, 3, H, W)."""
    b, n, p = patches_BNP.shape
    side, c = round(n**0.5), p // patch_size**2
    grid = patches_BNP.reshape(b, side, side, patch_size, patch_size, c)
    return grid.permute(0, 5, 1, 3, 2, 4).reshape(b, c, side * patch_size, side * patch_size)


def num_kept(num_patches: int, mask_ratio: float) -> int:
    """How many patches stay visible: N - floor(N * mask_ratio), at least 1.

    As many as He et al. 2022 keep wherever N * mask_ratio is whole.
    """
    return max(1, num_patches - int(num_patches * mask_ratio + 1e-9))  # 100 * 0.29 is 28.999... in floating point


def keep_lowest(noise_BN: Tensor, mask_ratio: float) -> Tensor:
    """Indices of the patches that stay visible: those with the lowest noise, int64 (B, K), ascending; of equals the first."""
    kept = num_kept(noise_BN.shape[1], mask_ratio)
    return noise_BN.argsort(dim=1, stable=True)[:, :kept].sort(dim=1).values


def mask_of(keep_BK: Tensor, num_patches: int) -> Tensor:
    """float32 (B, N): 0 where a patch is kept, 1 where it is masked."""
    mask = torch.ones(keep_BK.shape[0], num_patches, device=keep_BK.device)
    return mask.scatter(1, keep_BK, 0.0)
