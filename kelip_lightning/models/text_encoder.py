"""Text encoders: CLIP's causal transformer, or a text model of Hugging Face (models/hugging_face_text.py).

Shapes: B captions, T tokens of a padded caption, N tokens of all captions, D width, F hidden width of an MLP.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from kelip_lightning.models.attention import CaptionPacking, attend_at_ends, attend_packed, pack_captions
from kelip_lightning.models.blocks import compute_dtype, normalize, quick_gelu_
from kelip_lightning.models.config import Activation, TextEncoderConfig
from kelip_lightning.models.patches import take_rows


class TokenSpec(TypedDict):
    """What a text encoder needs to know of the tokenizer."""

    vocab_size: int
    """Number of token ids."""
    context_length: int
    """Longest caption in tokens."""
    eot_id: int
    """Id of the end token."""
    pad_id: int
    """Id of the padding, which follows the end token."""


_EPS = 1e-5

NUM_KEPT_POSITIONS = 20
"""Positions that a longer context keeps (Long-CLIP: 20)."""


class TextTower(nn.Module, ABC):
    """A text encoder: int64 tokens (B, T) in, features (B, D) out.

    Only the tokens of the captions go through the network, not their padding.
    """

    def __init__(self, config: TextEncoderConfig, **tokens: Unpack[TokenSpec]) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = tokens["vocab_size"]
        self.context_length = tokens["context_length"]
        self.eot_id = tokens["eot_id"]
        self.pad_id = tokens["pad_id"]
        self.gradient_checkpointing = False
        """Whether blocks are recomputed in the backward pass."""

    def record(self) -> dict[str, Any] | None:
        """What is stored beside the configuration to rebuild the encoder, if anything."""
        return None

    def load_trained_weights(self) -> None:
        """Load the trained weights that the configuration names; CLIP's transformer has none."""

    @abstractmethod
    def blocks(self) -> Sequence[nn.Module]:
        """The transformer blocks, first to last."""

    @abstractmethod
    def final_norm(self) -> nn.Module | None:
        """The norm after the last block; `None`: there is none."""

    def enable_gradient_checkpointing(self) -> None:
        """Recompute blocks in the backward pass; gradients stay the same."""
        self.gradient_checkpointing = True


class ClipAttention(nn.Module):
    """Causal self-attention within captions."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.k_proj, self.v_proj, self.q_proj, self.out_proj = (nn.Linear(width, width) for _ in range(4))

    def forward(self, tokens_ND: Tensor, packing: CaptionPacking, at_ends: bool) -> Tensor:
        """The output, (N, D), or that of the last token of each caption, (B, D)."""
        key_ND, value_ND = self.k_proj(tokens_ND), self.v_proj(tokens_ND)
        if at_ends:
            query_BD = self.q_proj(last_tokens(tokens_ND, packing))
            mixed = attend_at_ends(query_BD, key_ND, value_ND, self.num_heads, packing)
        else:
            mixed = attend_packed(self.q_proj(tokens_ND), key_ND, value_ND, self.num_heads, packing, causal=True)
        output: Tensor = self.out_proj(mixed)
        return output


class ClipMlp(nn.Module):
    """The MLP of a block."""

    def __init__(self, width: int, hidden: int, activation: Activation) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)
        self.activate = quick_gelu_ if activation is Activation.quick_gelu else F.gelu

    def forward(self, tokens_ND: Tensor) -> Tensor:
        """The output, (N, D)."""
        output_ND: Tensor = self.fc2(self.activate(self.fc1(tokens_ND)))
        return output_ND


class ClipLayer(nn.Module):
    """A pre-norm block."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        width = config.width
        self.self_attn = ClipAttention(width, config.num_heads)
        self.layer_norm1 = nn.LayerNorm(width, eps=_EPS)
        self.mlp = ClipMlp(width, round(width * config.mlp_ratio), config.activation)
        self.layer_norm2 = nn.LayerNorm(width, eps=_EPS)

    def forward(self, tokens_ND: Tensor, packing: CaptionPacking, at_ends: bool = False) -> Tensor:
        """The output tokens, (N, D), or the last one of each caption, (B, D)."""
        change = self.self_attn(normalize(self.layer_norm1, tokens_ND), packing, at_ends)
        tokens = (last_tokens(tokens_ND, packing) if at_ends else tokens_ND) + change
        output: Tensor = tokens + self.mlp(normalize(self.layer_norm2, tokens))
        return output


class ClipEmbeddings(nn.Module):
    """Token and position embeddings."""

    def __init__(self, vocab_size: int, context_length: int, width: int) -> None:
        super().__init__()
        self.token_embedding = nn.Embedding(vocab_size, width)
        self.position_embedding = nn.Embedding(context_length, width)

    def forward(self, ids_N: Tensor, positions_N: Tensor) -> Tensor:
        """Their sum in the dtype of matrix products, (N, D)."""
        sum_ND: Tensor = self.token_embedding(ids_N) + self.position_embedding(positions_N)
        return sum_ND.to(compute_dtype(self.token_embedding.weight))


class ClipLayers(nn.Module):
    """The stack of blocks."""

    def __init__(self, config: TextEncoderConfig) -> None:
        super().__init__()
        self.layers = nn.ModuleList(ClipLayer(config) for _ in range(config.depth))


class ClipTextTransformer(nn.Module):
    """CLIP's causal text transformer on packed captions; parameters are named and ordered as in `transformers`.

    Reference: Radford et al. 2021 (arXiv:2103.00020), sec. 2.4.
    """

    def __init__(self, config: TextEncoderConfig, vocab_size: int, context_length: int) -> None:
        super().__init__()
        self.embeddings = ClipEmbeddings(vocab_size, context_length, config.width)
        self.encoder = ClipLayers(config)
        self.final_layer_norm = nn.LayerNorm(config.width, eps=_EPS)

    def forward(self, ids_N: Tensor, packing: CaptionPacking, recompute: bool = False) -> Tensor:
        """The normalised state at the end of each caption, (B, D).

        Args:
            ids_N: int64 tokens of all captions.
            packing: Where the captions are.
            recompute: Whether blocks are recomputed in the backward pass.
        """
        tokens_ND = self.embeddings(ids_N, packing.positions_N)
        layers = self.encoder.layers
        for place, layer in enumerate(layers, start=1):
            run: Callable[..., Tensor] = layer
            if recompute and torch.is_grad_enabled():
                run = partial(checkpoint, layer, use_reentrant=False, preserve_rng_state=False)
            tokens_ND = run(tokens_ND, packing, place == len(layers))
        return normalize(self.final_layer_norm, tokens_ND)


def last_tokens(tokens_ND: Tensor, packing: CaptionPacking) -> Tensor:
    """The last token of each caption, (B, D)."""
    # As unique rows, whose gradient is deterministic.
    return take_rows(tokens_ND.unsqueeze(0), packing.ends.unsqueeze(0))[0]


class TextEncoder(TextTower):
    """CLIP's causal text transformer; the feature of a caption is read at its first end token."""

    def __init__(self, config: TextEncoderConfig, **tokens: Unpack[TokenSpec]) -> None:
        super().__init__(config, **tokens)
        self.clip = ClipTextTransformer(config, self.vocab_size, self.context_length)
        self._init_weights()

    def _init_weights(self) -> None:
        """CLIP's initialisation; the output layers of a block are scaled down by the depth.

        Reference: Radford et al. 2021, sec. 2.4 and code; official KELIP code, `CLIP.initialize_parameters`.
            `transformers` scales the inputs of attention instead.
        Deviation: biases start at zero instead of torch's default noise.
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
            if name.endswith("bias"):
                nn.init.zeros_(parameter)

    def blocks(self) -> Sequence[nn.Module]:
        return list(self.clip.encoder.layers)

    def final_norm(self) -> nn.Module:
        return self.clip.final_layer_norm

    def forward(self, tokens_BT: Tensor, num_tokens: int | None = None) -> Tensor:
        """The feature of each caption, (B, D).

        Args:
            tokens_BT: int64.
            num_tokens: Tokens of all captions up to their end tokens, if the host knows it (`caption_lengths`).
        """
        # Tokens after the end neither influence the feature nor are influenced by it.
        ids_N, packing = packed(tokens_BT, caption_lengths(tokens_BT, self.eot_id), num_tokens)
        states_BD: Tensor = self.clip(ids_N, packing, self.gradient_checkpointing)
        return states_BD


def resample_caption_positions(positions_LD: Tensor, length: int) -> Tensor:
    """Position embeddings of CLIP's text transformer for another context length, (length, D) in the input's dtype.

    A shorter context keeps the first rows: captions that fit keep their features. A longer one keeps the first 20,
    which are the well-trained ones, and interpolates the others linearly, the last row staying the last.

    Args:
        positions_LD: The stored table.
        length: Rows wanted, >= 1.

    Reference: Zhang et al. 2024 (Long-CLIP, arXiv:2403.15378), sec. 3.1, knowledge-preserved stretching.
    Deviation: any length instead of four times the remaining rows. open_clip interpolates the whole table, which gives
        the words of every caption the positions of earlier ones.
    """
    stored = len(positions_LD)
    if length <= stored:
        return positions_LD[:length].clone()
    kept = min(NUM_KEPT_POSITIONS, stored - 1)
    places_N = torch.linspace(kept, stored - 1, length - kept, dtype=torch.float64)
    below_N = places_N.floor().long()
    above_N = (below_N + 1).clamp(max=stored - 1)
    share_N1 = (places_N - below_N).unsqueeze(1)
    rows_LD = positions_LD.double()
    stretched_ND = rows_LD[below_N] * (1 - share_N1) + rows_LD[above_N] * share_N1
    return torch.cat([positions_LD[:kept], stretched_ND.to(positions_LD.dtype)])


def caption_lengths(tokens_BT: Tensor, eot_id: int) -> Tensor:
    """Tokens of each caption up to its first end token, int64 (B,); 1 without an end token."""
    return (tokens_BT == eot_id).int().argmax(dim=1) + 1


def packed(tokens_BT: Tensor, lengths_B: Tensor, num_tokens: int | None) -> tuple[Tensor, CaptionPacking]:
    """The first `lengths_B` tokens of each caption, int64 (N,), and where they are."""
    if tokens_BT.is_meta:  # operations are counted without values: as if there was no padding
        lengths_B = torch.full((len(tokens_BT),), tokens_BT.shape[1], device="meta")
        num_tokens = tokens_BT.numel()
    packing = pack_captions(lengths_B, tokens_BT.shape[1], num_tokens)
    return tokens_BT.flatten()[packing.cells_N], packing


def build_text_encoder(
    config: TextEncoderConfig, record: Mapping[str, Any] | None = None, **tokens: Unpack[TokenSpec]
) -> TextTower:
    """The configured text encoder with random weights.

    Args:
        config: Kind and sizes.
        record: Result of `record()` of a stored encoder; `None` for a new one.
        tokens: Properties of the tokenizer.

    Raises:
        ConfigError: A Hugging Face model is not available, or does not fit the other settings.
    """
    if config.hf_model is None:
        return TextEncoder(config, **tokens)
    # Here, since importing transformers takes seconds.
    from kelip_lightning.models.hugging_face_text import HuggingFaceTextEncoder

    return HuggingFaceTextEncoder(config, record, **tokens)
