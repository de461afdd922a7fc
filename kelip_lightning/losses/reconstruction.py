"""The MAE loss.

Shapes: B batch, N patches, P values of a patch.
"""

from torch import Tensor


def standardize_patches(patches_BNP: Tensor) -> Tensor:
    """Each patch less its mean, over its standard deviation (unbiased, 1e-6 added to the variance)."""
    mean = patches_BNP.mean(dim=-1, keepdim=True)
    variance = patches_BNP.var(dim=-1, keepdim=True)
    return (patches_BNP - mean) / (variance + 1e-6).sqrt()


def masked_mse(prediction_BNP: Tensor, target_BNP: Tensor, mask_BN: Tensor) -> Tensor:
    """Mean squared error over the values of masked patches only, scalar.

    Args:
        prediction_BNP: Predicted patches.
        target_BNP: True patches, standardised if the model predicts standardised pixels.
        mask_BN: 1 where a patch counts, 0 where the encoder saw it.

    Reference:
        He et al. 2022 (arXiv:2111.06377), sec. 3, "Reconstruction target".
    """
    error_BN = (prediction_BNP - target_BNP).square().mean(dim=-1)
    return (error_BN * mask_BN).sum() / mask_BN.sum()
