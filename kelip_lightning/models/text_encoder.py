"""The text encoder: CLIP's causal transformer as `transformers` keeps it, or another Hugging Face text model.

Shapes: B captions, T tokens, D width.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel

from data_modules.config_roles import above, at_least, check_ranges
from kelip_lightning.models.image_encoder import Activation


class TextPooling(Enum):
    """Which token gives the feature of a caption."""

    end = "end"
    mean = "mean"
    first = "first"


@dataclass(kw_only=True, slots=True)
class TextEncoderConfig:
    """Dimensions of the text transformer (defaults: as in the paper)."""

    width: int = field(default=512, metadata=at_least(1))
    """Token width."""
    depth: int = field(default=12, metadata=at_least(1))
    """Number of transformer blocks."""
    num_heads: int = field(default=8, metadata=at_least(1))
    """Attention heads; must divide width."""
    mlp_ratio: float = field(default=4.0, metadata=above(0))
    """Hidden width of an MLP over the token width."""
    activation: Activation = Activation.quick_gelu
    """Non-linearity of the MLPs (paper: quick_gelu); a Hugging Face model keeps its own."""
    pooling: TextPooling = TextPooling.end
    """end: the end token (paper); mean (of all tokens but the padding) and first: for a Hugging Face model."""
    hf_model: str | None = None
    """A Hugging Face text model instead of CLIP's, for example `FacebookAI/xlm-roberta-base`: a name on the Hub or a
    folder with a config.json; width, depth, num_heads and mlp_ratio must be that model's own. Null: CLIP's."""
    hf_weights: bool = False
    """Whether training starts from the trained weights of hf_model, which needs its tokenizer in tokenizer.file."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.width % self.num_heads:
            raise ValueError(f"width = {self.width} must be a multiple of num_heads = {self.num_heads}; change one")
        if self.hf_model is None and self.pooling is not TextPooling.end:
            raise ValueError(f"pooling = {self.pooling.name} needs hf_model; CLIP's own text encoder pools at the end")
        if self.hf_model is None and self.hf_weights:
            raise ValueError("hf_weights = true needs hf_model, the model whose weights are meant")


class TextTower(nn.Module):
    """A text encoder: int64 tokens (B, T) in, features (B, D) out.

    Args:
        config: Its configuration.
        vocab_size: Rows of its token embedding.
        context_length: Longest caption in tokens.
        eot_id: Id of the end token.
        pad_id: Id of the padding.
    """

    def __init__(
        self, config: TextEncoderConfig, *, vocab_size: int, context_length: int, eot_id: int, pad_id: int
    ) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = vocab_size
        self.context_length = context_length
        self.eot_id = eot_id
        self.pad_id = pad_id

    def record(self) -> dict[str, Any] | None:
        """What must be stored beside the configuration to build it again; None: nothing."""
        return None


class TextEncoder(TextTower):
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
        super().__init__(config, vocab_size=vocab_size, context_length=context_length, eot_id=eot_id, pad_id=pad_id)
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
        self._init_weights()

    def _init_weights(self) -> None:
        """CLIP's initialisation: what a block writes to the residual stream is scaled down by its depth.

        Reference: Radford et al. 2021, sec. 2.4 and code; official KELIP code, `CLIP.initialize_parameters`.
            `transformers` scales the inputs of attention down instead of its output.
        Deviation: biases of the MLPs start at zero, not at torch's default noise.
        """
        width, depth = self.config.width, self.config.depth
        into_block, out_of_block = width**-0.5, width**-0.5 * (2 * depth) ** -0.5
        std_of = {
            "token_embedding.weight": 0.02,
            "position_embedding.weight": 0.01,
            "q_proj.weight": into_block,
            "k_proj.weight": into_block,
            "v_proj.weight": into_block,
            "out_proj.weight": out_of_block,
            "fc1.weight": (2 * width) ** -0.5,
            "fc2.weight": out_of_block,
        }
        for name, parameter in self.clip.named_parameters():
            for ending, std in std_of.items():
                if name.endswith(ending):
                    nn.init.normal_(parameter, std=std)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """The end token's feature of each caption, (B, D); tokens are int64."""
        # Not the library's `pooler_output`: where the end token's id is 2 (XLM-R's), that reads the largest id instead.
        return end_states(self.clip(input_ids=tokens_BT).last_hidden_state, tokens_BT, self.eot_id)


def end_states(states_BTD: Tensor, tokens_BT: Tensor, eot_id: int) -> Tensor:
    """The state at each caption's first end token, (B, D)."""
    end_B = (tokens_BT == eot_id).int().argmax(dim=1)
    return states_BTD[torch.arange(len(end_B), device=end_B.device), end_B]


def build_text_encoder(
    config: TextEncoderConfig,
    *,
    vocab_size: int,
    context_length: int,
    eot_id: int,
    pad_id: int,
    record: Mapping[str, Any] | None = None,
) -> TextTower:
    """The configured text encoder, freshly initialised.

    Args:
        config: Which, and how large.
        vocab_size: Number of token ids.
        context_length: Longest caption in tokens.
        eot_id: Id of the end token.
        pad_id: Id of the padding.
        record: What `record()` of a stored encoder gave; none: a new one.

    Raises:
        ConfigError: A Hugging Face model cannot be had, or does not fit the other settings.
    """
    tokens = {"vocab_size": vocab_size, "context_length": context_length, "eot_id": eot_id, "pad_id": pad_id}
    if config.hf_model is None:
        return TextEncoder(config, **tokens)
    from kelip_lightning.models.hugging_face_text import HuggingFaceTextEncoder

    return HuggingFaceTextEncoder(config, record=record, **tokens)
