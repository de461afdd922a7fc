"""Image and text encoder with projections into a joint space, and the logit scale.

Shapes: V global views, V' local views, B pairs, E embed_dim, T tokens.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kelip_lightning.models.config import DualEncoderConfig
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.sample_noise import view_seeds
from kelip_lightning.models.text_encoder import TextTower


class PairFeatures(NamedTuple):  # ZeRO-3 finds tensors in tuples, not in dataclasses
    """Input of the loss; features are float32 and of unit length."""

    global_VBE: Tensor
    local_VBE: Tensor
    """(V', B, E), V' >= 0."""
    text_BE: Tensor
    logit_scale: Tensor
    """exp of the parameter, float32 (1,)."""
    logit_bias: Tensor | None
    """float32 (1,); `None` for a model without a bias."""


class DualEncoder(nn.Module):
    """CLIP's two towers around the shared image encoder."""

    def __init__(self, image_encoder: ImageEncoder, text_encoder: TextTower, config: DualEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.image_encoder = image_encoder
        self.text_encoder = text_encoder
        image_width, text_width = image_encoder.config.width, text_encoder.config.width
        self.image_projection = nn.Linear(image_width, config.embed_dim, bias=False)
        self.text_projection = nn.Linear(text_width, config.embed_dim, bias=False)
        nn.init.normal_(self.image_projection.weight, std=image_width**-0.5)
        nn.init.normal_(self.text_projection.weight, std=text_width**-0.5)
        # Shape (1,): DeepSpeed 0.19.8 fails on 0-dimensional parameters.
        self.logit_scale = nn.Parameter(torch.full((1,), -math.log(config.initial_temperature)))
        bias = config.initial_logit_bias
        self.logit_bias = None if bias is None else nn.Parameter(torch.full((1,), bias))

    def encode_image(self, images_BCHW: Tensor, l2norm: bool = True, seeds_B: Tensor | None = None) -> Tensor:
        """Image features, float32 (B, E), of unit length if l2norm.

        Images are uint8, or standardised floats; int64 seeds enable the encoder's dropout.
        """
        features_BE = self.image_projection(self.image_encoder(images_BCHW, seeds_B)).float()
        return F.normalize(features_BE, dim=-1) if l2norm else features_BE

    def encode_text(self, tokens_BT: Tensor, l2norm: bool = True, num_tokens: int | None = None) -> Tensor:
        """Text features, float32 (B, E), of unit length if l2norm.

        Tokens are int64; num_tokens is their number without padding, if the host knows it.
        """
        features_BE = self.text_projection(self.text_encoder(tokens_BT, num_tokens)).float()
        return F.normalize(features_BE, dim=-1) if l2norm else features_BE

    def scale(self) -> Tensor:
        """The factor on cosine similarities: exp(logit_scale), float32 (1,).

        The optimizer clamps the parameter; a clamp here would stop its gradient at the bound.
        """
        return self.logit_scale.float().exp()

    def forward(
        self,
        global_VBCHW: Tensor,
        local_VBCHW: Tensor,
        tokens_BT: Tensor,
        seeds_B: Tensor | None = None,
        num_tokens: int | None = None,
        on_crops: Callable[[Tensor], None] | None = None,
    ) -> PairFeatures:
        """Features of every crop and caption; one pass of the image encoder per resolution.

        Args:
            global_VBCHW: Crops of the stored size, uint8 or standardised.
            local_VBCHW: Local crops, V' >= 0.
            tokens_BT: int64.
            seeds_B: int64 seeds of the samples' dropout, which differs between crops; `None` disables it.
            num_tokens: Number of tokens without padding, if the host knows it; else reading it synchronises.
            on_crops: Called with the features of all crops, (V + V', B, E), before captions are encoded.
        """
        global_VBE = self._encode_views(global_VBCHW, 0, seeds_B)
        local_VBE = self._encode_views(local_VBCHW, len(global_VBCHW), seeds_B)
        if on_crops is not None:
            on_crops(torch.cat([global_VBE, local_VBE]))
        return PairFeatures(
            global_VBE=global_VBE,
            local_VBE=local_VBE,
            text_BE=self.encode_text(tokens_BT, num_tokens=num_tokens),
            logit_scale=self.scale(),
            logit_bias=None if self.logit_bias is None else self.logit_bias.float(),
        )

    def _encode_views(self, views_VBCHW: Tensor, first_view: int, seeds_B: Tensor | None) -> Tensor:
        views, batch = views_VBCHW.shape[:2]
        if views == 0:
            return torch.empty(0, batch, self.config.embed_dim, dtype=torch.float32, device=views_VBCHW.device)
        seeds = None if seeds_B is None else view_seeds(seeds_B, range(first_view, first_view + views))
        return self.encode_image(views_VBCHW.flatten(0, 1), seeds_B=seeds).view(views, batch, -1)
