"""Text encoders: CLIP's causal transformer of `transformers`, or another Hugging Face text model, such as XLM-R.

Shapes: B captions, T tokens, D width.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModel,
    CLIPTextConfig,
    CLIPTextModel,
    PretrainedConfig,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kelip_lightning.errors import ConfigError
from kelip_lightning.models.config import TextEncoderConfig, TextPooling


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


class TextTower(nn.Module):
    """A text encoder: int64 tokens (B, T) in, features (B, D) out."""

    def __init__(self, config: TextEncoderConfig, **tokens: Unpack[TokenSpec]) -> None:
        super().__init__()
        self.config = config
        self.vocab_size = tokens["vocab_size"]
        self.context_length = tokens["context_length"]
        self.eot_id = tokens["eot_id"]
        self.pad_id = tokens["pad_id"]

    def record(self) -> dict[str, Any] | None:
        """What is stored beside the configuration to rebuild the encoder, if anything."""
        return None


class TextEncoder(TextTower):
    """CLIP's causal text transformer; the feature of a caption is read at its first end token."""

    def __init__(self, config: TextEncoderConfig, **tokens: Unpack[TokenSpec]) -> None:
        super().__init__(config, **tokens)
        self.clip = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=self.vocab_size,
                hidden_size=config.width,
                intermediate_size=round(config.width * config.mlp_ratio),
                num_hidden_layers=config.depth,
                num_attention_heads=config.num_heads,
                max_position_embeddings=self.context_length,
                hidden_act=config.activation.value,
                eos_token_id=self.eot_id,
                pad_token_id=self.pad_id,
                bos_token_id=None,
            )
        )
        self._init_weights()

    def _init_weights(self) -> None:
        """CLIP's initialisation; the output layers of a block are scaled down by the depth.

        Reference: Radford et al. 2021, sec. 2.4 and code; official KELIP code, `CLIP.initialize_parameters`.
            `transformers` scales the inputs of attention instead.
        Deviation: biases of the MLPs start at zero instead of torch's default noise.
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
        """The feature of each caption, (B, D); tokens are int64."""
        # Not `pooler_output`: with an end token of id 2 (XLM-R's) the library pools at the largest id instead.
        return end_states(self.clip(input_ids=tokens_BT).last_hidden_state, tokens_BT, self.eot_id)


def end_states(states_BTD: Tensor, tokens_BT: Tensor, eot_id: int) -> Tensor:
    """The state at each caption's first end token, (B, D)."""
    end_B = (tokens_BT == eot_id).int().argmax(dim=1)
    return states_BTD[torch.arange(len(end_B), device=end_B.device), end_B]


class HuggingFaceTextEncoder(TextTower):
    """One feature per caption: the mean of its tokens, the first or the end token's, as configured.

    The model's dropout is always off: it draws from torch's global stream, and runs must be repeatable.

    Args:
        config: Names the model; its sizes must equal the model's.
        record: The architecture of a stored encoder; `None` reads it from `config.hf_model`.
        tokens: Properties of the tokenizer; the padding is masked out.

    Raises:
        ConfigError: The model cannot be read, or does not fit the configuration or the tokenizer.
    """

    def __init__(
        self, config: TextEncoderConfig, record: Mapping[str, Any] | None = None, **tokens: Unpack[TokenSpec]
    ) -> None:
        if record is None:
            architecture = _read_architecture(config)
            _check_sizes(config, architecture)
            _fit_vocabulary(config, architecture, tokens)
        else:
            architecture = AutoConfig.for_model(**record)
        _check_context(architecture, tokens["context_length"])
        tokens["vocab_size"] = int(architecture.vocab_size)
        super().__init__(config, **tokens)
        self._architecture = architecture
        model = AutoModel.from_config(architecture)  # type: ignore[no-untyped-call]
        # Attentions of models that torch's own cannot serve keep their masks.
        if model.config._attn_implementation == "sdpa":
            model.set_attn_implementation(_ALWAYS_MASKED)
        self.model = _encoder_only(model)

    def train(self, mode: bool = True) -> "HuggingFaceTextEncoder":
        """Set the mode; the inner model stays in evaluation mode, without dropout."""
        super().train(mode)
        self.model.eval()
        return self

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """One feature of each caption, (B, D); tokens are int64."""
        mask_BT = tokens_BT != self.pad_id
        states_BTD: Tensor = self.model(input_ids=tokens_BT, attention_mask=mask_BT.long()).last_hidden_state
        match self.config.pooling:
            case TextPooling.first:
                return states_BTD[:, 0]
            case TextPooling.mean:
                weights_BT1 = mask_BT.unsqueeze(-1).to(states_BTD.dtype)
                return (states_BTD * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)
            case TextPooling.end:
                return end_states(states_BTD, tokens_BT, self.eot_id)

    def record(self) -> dict[str, Any]:
        """The architecture as plain values, so that a stored encoder can be rebuilt without the Hub or the folder."""
        return {key: value for key, value in self._architecture.to_diff_dict().items() if key != "architectures"}

    def load_trained_weights(self) -> None:
        """Load the trained weights of `config.hf_model`.

        Raises:
            ConfigError: They cannot be read, tensors are missing, or they were trained with another tokenizer.
        """
        name, trained_pad_id = str(self.config.hf_model), self._architecture.pad_token_id
        if self.pad_id != trained_pad_id:
            raise ConfigError(
                [
                    f"tokenizer.file has its padding at {self.pad_id}, but the weights of text_encoder.hf_model = "
                    f"{name} were trained with {trained_pad_id}; give that model's own tokenizer.json, or "
                    "hf_weights=false"
                ]
            )
        try:
            trained, report = AutoModel.from_pretrained(name, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise ConfigError([_unreadable(name, error)]) from error
        trained = _encoder_only(trained)
        missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
        if missing:
            raise ConfigError([f"text_encoder.hf_model = {name} has no trained {', '.join(sorted(missing))}"])
        self.model.load_state_dict(trained.state_dict(), strict=True)


def _encoder_only(model: nn.Module) -> nn.Module:
    """The encoder without decoder and pooler, whose parameters would get no gradient."""
    if isinstance(getattr(model, "decoder", None), nn.Module):
        model = model.get_encoder()  # type: ignore[operator]
    if isinstance(getattr(model, "pooler", None), nn.Module):
        setattr(model, "pooler", None)  # noqa: B010 - nn.Module's attributes have no types
    return model


def _read_architecture(config: TextEncoderConfig) -> PretrainedConfig:
    name = str(config.hf_model)
    try:
        architecture: PretrainedConfig = AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError([_unreadable(name, error)]) from error
    return architecture


def _unreadable(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0]
    what = (
        "holds no model that transformers can read"
        if Path(name).is_dir()
        else "is neither a folder nor available on the Hub"
    )
    return f"text_encoder.hf_model = {name} {what} ({reason}); give a folder with a config.json, or a name on the Hub"


def _check_sizes(config: TextEncoderConfig, architecture: PretrainedConfig) -> None:
    """The fields beside hf_model must equal the model's sizes, so that none of them is ignored."""
    hidden = getattr(architecture, "intermediate_size", None) or getattr(architecture, "d_ff", None)
    theirs = {
        "width": architecture.hidden_size,
        "depth": architecture.num_hidden_layers,
        "num_heads": architecture.num_attention_heads,
        "mlp_ratio": hidden / architecture.hidden_size if hidden else config.mlp_ratio,
    }
    wrong = {key: value for key, value in theirs.items() if value != getattr(config, key)}
    if wrong:
        wanted = " ".join(f"text_encoder.{key}={value}" for key, value in wrong.items())
        raise ConfigError(
            [f"text_encoder.hf_model = {config.hf_model} has other sizes than the fields beside it; set {wanted}"]
        )


def _fit_vocabulary(config: TextEncoderConfig, architecture: PretrainedConfig, tokens: TokenSpec) -> None:
    """Fit the architecture to the tokenizer; trained weights keep their vocabulary, which must hold every token."""
    if not config.hf_weights:
        architecture.vocab_size = tokens["vocab_size"]
        architecture.eos_token_id, architecture.pad_token_id = tokens["eot_id"], tokens["pad_id"]
    elif tokens["vocab_size"] > architecture.vocab_size:
        raise ConfigError(
            [
                f"tokenizer.vocab_size = {tokens['vocab_size']} is more than the {architecture.vocab_size} tokens of "
                f"the weights of text_encoder.hf_model = {config.hf_model}; give that model's own tokenizer, or "
                "hf_weights=false"
            ]
        )


def _check_context(architecture: PretrainedConfig, context_length: int) -> None:
    longest = getattr(architecture, "max_position_embeddings", None)
    # RoBERTa models count positions from the padding id.
    offset = architecture.pad_token_id + 1 if "roberta" in architecture.model_type else 0
    if longest is not None and context_length + offset > longest:
        raise ConfigError(
            [
                f"tokenizer.context_length = {context_length} is more than the {longest - offset} positions of "
                f"text_encoder.hf_model; use at most {longest - offset}"
            ]
        )


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
    return HuggingFaceTextEncoder(config, record, **tokens)


def _always_a_mask(*arguments: Any, **options: Any) -> Tensor | None:
    """The mask of a batch whether or not it has padding.

    `transformers` leaves it out of batches without padding; that check synchronises with the GPU in every step.
    """
    return sdpa_mask(*arguments, **options | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


_ALWAYS_MASKED = "sdpa_always_masked"
AttentionInterface.register(_ALWAYS_MASKED, sdpa_attention_forward)
AttentionMaskInterface.register(_ALWAYS_MASKED, _always_a_mask)
