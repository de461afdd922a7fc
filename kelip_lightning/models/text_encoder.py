"""The causal text encoder: CLIP's, from `transformers`.

Shapes: B captions, T tokens, D width.
"""

from dataclasses import dataclass

from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from kelip_lightning.models.image_encoder import Activation


@dataclass(kw_only=True, slots=True)
class TextEncoderConfig:
    """Dimensions of the text transformer (defaults: as in the paper)."""

    width: int = 512
    """Token width."""
    depth: int = 12
    """Number of transformer blocks."""
    num_heads: int = 8
    """Attention heads; must divide width."""
    mlp_ratio: float = 4.0
    """Hidden width of an MLP over the token width."""
    activation: Activation = Activation.quick_gelu
    """Non-linearity of the MLPs (paper: quick_gelu)."""

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width = {self.width} must be a multiple of num_heads = {self.num_heads}; change one")


class TextEncoder(nn.Module):
    """The feature of a caption is its end token's, which has seen the whole caption through the causal mask.

    Args:
        config: Dimensions.
        vocab_size: Number of token ids.
        context_length: Longest caption in tokens.
        eot_id: Id of the end token; its first occurrence is where the feature is read.
        pad_id: Id of the padding; it stands behind the end token, where no feature looks.
    """

    def __init__(
        self, config: TextEncoderConfig, *, vocab_size: int, context_length: int, eot_id: int, pad_id: int
    ) -> None:
        super().__init__()
        self.config = config
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=vocab_size,
                hidden_size=config.width,
                intermediate_size=round(config.width * config.mlp_ratio),
                num_hidden_layers=config.depth,
                num_attention_heads=config.num_heads,
                max_position_embeddings=context_length,
                hidden_act=config.activation.value,
                eos_token_id=eot_id,
                pad_token_id=pad_id,
                bos_token_id=None,
            )
        )

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """The end token's feature of each caption, (B, D); tokens are int64."""
        feature_BD: Tensor = self.clip(input_ids=tokens_BT).pooler_output
        return feature_BD
