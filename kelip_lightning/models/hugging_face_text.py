"""A text model of Hugging Face, such as XLM-R, as text encoder.

Shapes: B captions, T tokens of a padded caption, N tokens of all captions, D width.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Unpack

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig, AutoModel, PretrainedConfig
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from kelip_lightning.errors import ConfigError
from kelip_lightning.models.attention import CaptionPacking, attend_packed
from kelip_lightning.models.config import TextEncoderConfig, TextPooling
from kelip_lightning.models.patches import put_rows
from kelip_lightning.models.text_encoder import TextTower, TokenSpec, caption_lengths, packed

_PACKABLE = frozenset({"bert", "electra", "roberta", "xlm-roberta", "camembert"})
"""Model types whose encoders take packed captions."""
_FINAL_NORMS = ("final_layer_norm", "final_norm")
"""Names of the norm after the last block; BERT and its relatives have none."""


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
        has_sdpa = model.config._attn_implementation == "sdpa"
        # Where the padding is the end token, its first occurrence belongs to the caption.
        self._packs = has_sdpa and _is_packable(architecture) and self.pad_id != self.eot_id
        if has_sdpa:
            model.set_attn_implementation(_PACKED if self._packs else _ALWAYS_MASKED)
        self.model = _encoder_only(model)

    def train(self, mode: bool = True) -> "HuggingFaceTextEncoder":
        """Set the mode; the inner model stays in evaluation mode, without dropout."""
        super().train(mode)
        self.model.eval()
        return self

    def blocks(self) -> Sequence[nn.Module]:
        lists = (one for one in self.model.modules() if isinstance(one, nn.ModuleList))
        found = next((one for one in lists if len(one) == self.config.depth), None)
        if found is None:  # ALBERT's blocks share one set of weights
            raise ConfigError(
                [
                    f"text_encoder.hf_model = {self.config.hf_model} has no list of {self.config.depth} blocks, so the "
                    "last ones cannot be unlocked; set init.unlock_text_blocks=0"
                ]
            )
        return list(found)

    def final_norm(self) -> nn.Module | None:
        found = (getattr(self.model, name, None) for name in _FINAL_NORMS)
        return next((one for one in found if isinstance(one, nn.Module)), None)

    def use_padding(self) -> None:
        """Send padded captions through the network, as an exported graph needs it; features stay the same."""
        self._packs = False
        self.model.set_attn_implementation("eager")  # type: ignore[operator]

    def enable_gradient_checkpointing(self) -> None:
        super().enable_gradient_checkpointing()
        self.model.gradient_checkpointing_enable({"use_reentrant": False})  # type: ignore[operator]

    def forward(self, tokens_BT: Tensor, num_tokens: int | None = None) -> Tensor:
        """One feature of each caption, (B, D).

        Args:
            tokens_BT: int64.
            num_tokens: Tokens of all captions without padding, if the host knows it.
        """
        mask_BT = tokens_BT != self.pad_id
        if self._packs:
            states_BTD = self._packed_states(tokens_BT, mask_BT.sum(dim=1), num_tokens)
        else:
            states_BTD = self.model(input_ids=tokens_BT, attention_mask=mask_BT.long()).last_hidden_state
        match self.config.pooling:
            case TextPooling.first:
                return states_BTD[:, 0]
            case TextPooling.mean:
                weights_BT1 = mask_BT.unsqueeze(-1).to(states_BTD.dtype)
                return (states_BTD * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)
            case TextPooling.end:
                ends_B = caption_lengths(tokens_BT, self.eot_id) - 1
                return states_BTD[torch.arange(ends_B.shape[0], device=ends_B.device), ends_B]

    def _packed_states(self, tokens_BT: Tensor, lengths_B: Tensor, num_tokens: int | None) -> Tensor:
        """The states of the tokens, and zeros for the padding, (B, T, D)."""
        ids_N, packing = packed(tokens_BT, lengths_B, num_tokens)
        states_1ND: Tensor = self.model(
            input_ids=ids_N.unsqueeze(0),
            position_ids=(packing.positions_N + _first_position(self._architecture)).unsqueeze(0),
            token_type_ids=torch.zeros_like(ids_N).unsqueeze(0),
            packing=packing,
        ).last_hidden_state
        return put_rows(states_1ND, packing.cells_N.unsqueeze(0), tokens_BT.numel()).view(*tokens_BT.shape, -1)

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
    positions = getattr(architecture, "max_position_embeddings", None)
    if positions is not None and context_length > (longest := positions - _first_position(architecture)):
        raise ConfigError(
            [
                f"tokenizer.context_length = {context_length} is more than the {longest} positions of "
                f"text_encoder.hf_model; use at most {longest}"
            ]
        )


def _first_position(architecture: PretrainedConfig) -> int:
    """The position of a caption's first token; RoBERTa models, CamemBERT among them, count from the padding id + 1."""
    model_type = architecture.model_type
    return int(architecture.pad_token_id) + 1 if "roberta" in model_type or model_type == "camembert" else 0


def _is_packable(architecture: PretrainedConfig) -> bool:
    """Whether the model takes packed captions; as a decoder its attention would be causal."""
    return architecture.model_type in _PACKABLE and not architecture.is_decoder


def _always_a_mask(*arguments: Any, **options: Any) -> Tensor | None:
    """The mask of a batch whether or not it has padding.

    `transformers` leaves it out of batches without padding; that check synchronises with the GPU in every step.
    """
    return sdpa_mask(*arguments, **options | {"allow_is_causal_skip": False, "allow_is_bidirectional_skip": False})


_ALWAYS_MASKED = "sdpa_always_masked"
AttentionInterface.register(_ALWAYS_MASKED, sdpa_attention_forward)
AttentionMaskInterface.register(_ALWAYS_MASKED, _always_a_mask)


def _packed_attention(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    _mask: Tensor | None,
    *,
    packing: CaptionPacking,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within captions that stand one after the other, (1, H, N, d) -> (1, N, H, d)."""
    query_NC, key_NC, value_NC = (heads[0].transpose(0, 1).flatten(1) for heads in (query, key, value))
    mixed_NC = attend_packed(query_NC, key_NC, value_NC, query.shape[1], packing, causal=False)
    return mixed_NC.view(1, len(mixed_NC), query.shape[1], -1), None


def _no_mask(*_: Any, **__: Any) -> None:
    """No mask: `_packed_attention` knows where the captions are."""


_PACKED = "packed_captions"
AttentionInterface.register(_PACKED, _packed_attention)
AttentionMaskInterface.register(_PACKED, _no_mask)
