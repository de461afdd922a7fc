"""Settings of optimizer and learning-rate schedule."""

from dataclasses import dataclass, field
from enum import Enum

from data_modules.config_roles import above, at_least, between, check_ranges


class OptimizerName(Enum):
    """adamw, or muon: timm's Muon on the matrices of the blocks of every tower, its fallback on all else.

    Muon orthogonalises momentum (0.95, Nesterov) by Newton–Schulz iterations (Jordan et al. 2024); the fallback is
    AdamW with Nesterov momentum, which alone reads beta1 and beta2.
    """

    adamw = "adamw"
    muon = "muon"


@dataclass(kw_only=True, slots=True)
class OptimizerConfig:
    """The optimizer; learning rates are for the configured global batch and are not rescaled."""

    name: OptimizerName = OptimizerName.adamw
    """adamw or muon."""
    learning_rate: float = field(default=5e-4, metadata=above(0))
    """Peak learning rate per optimizer step at the configured global batch size (CLIP: 5e-4 at 32,768)."""
    weight_decay: float = field(default=0.2, metadata=at_least(0))
    """Decoupled decay of the weights of linear layers and convolutions; gains, biases, embeddings, positions, tokens
    and logit_scale never decay, in any tower (CLIP: 0.2)."""
    beta1: float = field(default=0.9, metadata=between(0, 1, "left"))
    """Decay of the first moment."""
    beta2: float = field(default=0.98, metadata=between(0, 1, "left"))
    """Decay of the second moment (CLIP: 0.98; MAE: 0.95)."""
    eps: float = field(default=1e-6, metadata=above(0))
    """Added to the root of the second moment."""
    layer_decay: float = field(default=1.0, metadata=between(0, 1, "right"))
    """Layer-wise learning-rate decay per block of a tower, in (0, 1]; 1: none. Layers after the last block have the
    full rate, embeddings layer_decay ** (blocks + 1) of it."""
    gradient_clip_norm: float | None = field(default=1.0, metadata=above(0))
    """Largest gradient norm over all parameters; null: no clipping."""

    def __post_init__(self) -> None:
        check_ranges(self)


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """Linear warm-up, then half a cosine; in optimizer steps."""

    max_steps: int = field(metadata=at_least(1))
    """Optimizer steps of the whole stage."""
    warmup_steps: int = field(default=0, metadata=at_least(0))
    """Steps of linear warm-up; below max_steps."""
    final_learning_rate_ratio: float = field(default=0.0, metadata=between(0, 1))
    """Final over peak learning rate, reached one step after the last; in [0, 1]."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.warmup_steps >= self.max_steps:
            raise ValueError(f"warmup_steps = {self.warmup_steps} must be below max_steps = {self.max_steps}")
