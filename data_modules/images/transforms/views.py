"""Strongly augmented views for a self-supervised loss beside contrastive training: two cuts of one image.

Reference: Mu et al. 2021 (SLIP, arXiv:2112.12750), sec. 3, and Chen et al. 2020 (SimCLR, arXiv:2002.05709), app. A.
"""

from dataclasses import dataclass, field

from data_modules.config_roles import at_least, between, check_ranges
from data_modules.images.transforms.crops import check_scales
from data_modules.images.transforms.strong import StrongConfig


@dataclass(kw_only=True, slots=True)
class ViewConfig:
    """Views of one image, of the global crops' size; no caption is compared with them."""

    num_views: int = field(default=0, metadata=at_least(0))
    """Views per image: 2 where self_supervision.method is set (SLIP), else 0."""
    scale_min: float = field(default=0.08, metadata=between(0, 1, "right"))
    """Smallest area share of a view, in (0, 1] (SLIP: 0.08)."""
    scale_max: float = field(default=1.0, metadata=between(0, 1, "right"))
    """Largest area share of a view, in (0, 1] (SLIP: 1)."""
    flip: float = field(default=0.5, metadata=between(0, 1))
    """Probability of mirroring a view (SLIP: 0.5)."""
    strong: StrongConfig = field(
        default_factory=lambda: StrongConfig(color_jitter=0.8, grayscale=0.2, gaussian_blur=0.5)
    )
    """Changes of the colours of every view; SLIP's color_jitter 0.8, grayscale 0.2 and gaussian_blur 0.5 by default."""

    def __post_init__(self) -> None:
        check_ranges(self)
        check_scales("scale", self.scale_min, self.scale_max)
