"""Settings of the contrastive loss."""

from dataclasses import dataclass, field
from enum import Enum

from data_modules.config_roles import PERFORMANCE, at_least, check_ranges


class ContrastiveKind(Enum):
    """info_nce: softmax over the global batch (paper); sigmoid: every pair by itself (SigLIP, arXiv:2303.15343)."""

    info_nce = "info_nce"
    sigmoid = "sigmoid"


class MatmulPrecision(Enum):
    """float32: one product, no TF32; tf32x3: three of TF32 halves; auto: tf32x3 where a device has TF32."""

    auto = "auto"
    float32 = "float32"
    tf32x3 = "tf32x3"


@dataclass(kw_only=True, slots=True)
class ContrastiveLossConfig:
    """The contrastive loss and its computation."""

    kind: ContrastiveKind = ContrastiveKind.info_nce
    """info_nce (paper) or sigmoid (SigLIP, initial_temperature = 0.1), which needs dual_encoder.initial_logit_bias;
    with info_nce the bias must be null."""
    local_weight: float = field(default=1.0, metadata=at_least(0))
    """Weight of a local crop's term relative to a global crop's, >= 0 (unpublished; ours: equal)."""
    max_logits_per_pair: int | None = field(default=None, metadata=PERFORMANCE | at_least(1))
    """Rows of the logit matrix are computed in tiles of at most this many logits per pair of a device; null: in one
    tile. Loss and gradient do not depend on it. With 2,048 of 32,768 pairs on a device the matrix of one crop takes
    268 MB, a tile of 1,024 takes 8 MB."""
    matmul_precision: MatmulPrecision = MatmulPrecision.auto
    """Precision of the loss's matrix products. float32: without TF32; tf32x3: three products of TF32 halves, summed in
    float32, on tensor cores, with a gradient error as of float32, within the certificate's 1e-5; auto: tf32x3 on GPUs
    with TF32, float32 elsewhere."""

    def __post_init__(self) -> None:
        check_ranges(self)


def bias_problem(kind: ContrastiveKind, initial_bias: float | None, prefix: str = "") -> str | None:
    """Error message if a model's `initial_logit_bias` does not fit the loss, `None` if it does.

    `prefix` precedes the names of the settings in the message, with a dot at its end.
    """
    bias, loss = f"{prefix}dual_encoder.initial_logit_bias", f"{prefix}loss.kind"
    if kind is ContrastiveKind.sigmoid and initial_bias is None:
        return f"{bias} = null, but {loss} = sigmoid learns a bias; SigLIP starts it at -10"
    if kind is ContrastiveKind.info_nce and initial_bias is not None:
        return f"{bias} = {initial_bias} has no effect on {loss} = info_nce; set it to null"
    return None
