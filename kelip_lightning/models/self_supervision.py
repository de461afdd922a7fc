"""Heads of a self-supervised loss on the image encoder, and BYOL's target network.

Checkpoints contain them; exported models do not.

Shapes: V views, B images, C/H/W image, D encoder width, E projection_dim.
"""

import copy

import torch
from torch import Tensor, nn

from kelip_lightning.models.config import SelfSupervisionConfig, SelfSupervisionMethod
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.sample_noise import view_seeds


class SelfSupervisedBranch(nn.Module):
    """SimCLR's projection head on the pooled features, before the joint space.

    Args:
        encoder: The model's image encoder, which does not become a submodule.
        config: Sizes of the head.

    Deviation: LayerNorm instead of the batch norm of SLIP and BYOL, with which a sample's features would depend on the
    ranks' batches; `byol_loss` standardises over the global batch instead.
    """

    hidden_layers = 2

    def __init__(self, encoder: ImageEncoder, config: SelfSupervisionConfig) -> None:
        super().__init__()
        self.config = config
        self.head = _perceptron(encoder.config.width, config, self.hidden_layers)

    def forward(self, encoder: ImageEncoder, views_VBCHW: Tensor, seeds_B: Tensor, first_view: int) -> Tensor:
        """Features of the loss, float32 (V, B, E), of any length.

        Args:
            encoder: The model's image encoder.
            views_VBCHW: Images of the stored size, uint8 or standardised.
            seeds_B: int64 seeds of the encoder's dropout.
            first_view: Index of the first view among all crops of a sample, whose dropout must differ.
        """
        views, batch = views_VBCHW.shape[:2]
        seeds = view_seeds(seeds_B, range(first_view, first_view + views))
        return self.transform(encoder(views_VBCHW.flatten(0, 1), seeds)).float().view(views, batch, -1)

    def transform(self, features_BD: Tensor) -> Tensor:
        """Apply the trained heads to pooled features, (B, E)."""
        projections_BE: Tensor = self.head(features_BD)
        return projections_BE


class ByolBranch(SelfSupervisedBranch):
    """BYOL's head and predictor, and its target: a moving average of encoder and head without gradient."""

    hidden_layers = 1

    def __init__(self, encoder: ImageEncoder, config: SelfSupervisionConfig) -> None:
        super().__init__(encoder, config)
        self.predictor = _perceptron(config.projection_dim, config, self.hidden_layers)
        self.target_encoder = copy.deepcopy(encoder).requires_grad_(False)
        self.target_head = copy.deepcopy(self.head).requires_grad_(False)

    def transform(self, features_BD: Tensor) -> Tensor:
        """The prediction of the target's projection, (B, E)."""
        predictions_BE: Tensor = self.predictor(self.head(features_BD))
        return predictions_BE

    @torch.no_grad()
    def targets(self, views_VBCHW: Tensor) -> Tensor:
        """The target's projections, float32 (V, B, E), without dropout."""
        projections: Tensor = self.target_head(self.target_encoder(views_VBCHW.flatten(0, 1)))
        return projections.float().view(*views_VBCHW.shape[:2], -1)

    @torch.no_grad()
    def update_targets(self, encoder: ImageEncoder, momentum: float) -> None:
        """Targets <- momentum * targets + (1 - momentum) * weights."""
        trained: list[Tensor] = [*encoder.parameters(), *self.head.parameters()]
        targets: list[Tensor] = [*self.target_encoder.parameters(), *self.target_head.parameters()]
        torch._foreach_lerp_(targets, trained, 1 - momentum)


def build_branch(encoder: ImageEncoder, config: SelfSupervisionConfig) -> SelfSupervisedBranch | None:
    """The configured branch; `None` without a self-supervised loss."""
    match config.method:
        case SelfSupervisionMethod.none:
            return None
        case SelfSupervisionMethod.simclr:
            return SelfSupervisedBranch(encoder, config)
        case SelfSupervisionMethod.byol:
            return ByolBranch(encoder, config)


def _perceptron(width: int, config: SelfSupervisionConfig, hidden_layers: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(hidden_layers):
        # The norm has a bias.
        layers += [nn.Linear(width, config.projection_width, bias=False), nn.LayerNorm(config.projection_width)]
        layers.append(nn.ReLU())
        width = config.projection_width
    return nn.Sequential(*layers, nn.Linear(width, config.projection_dim, bias=False))
