"""Any text model of Hugging Face `transformers` as text encoder, for example XLM-R.

Shapes: B captions, T tokens, D width.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig

from kelip_lightning.errors import ConfigError
from kelip_lightning.models.text_encoder import TextEncoderConfig, TextPooling


class HuggingFaceTextEncoder(nn.Module):
    """One feature per caption: the mean of its tokens, the first or the end token's, as configured.

    Args:
        config: Names the model; its sizes are checked against the model's own.
        vocab_size: Number of token ids that the tokenizer gives.
        context_length: Longest caption in tokens.
        eot_id: Id of the end token.
        pad_id: Id of the padding, which is masked out.
        record: The architecture of a stored encoder; none: it is read from `config.hf_model`.

    Raises:
        ConfigError: The model cannot be read, or does not fit the configuration or the tokenizer.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        *,
        vocab_size: int,
        context_length: int,
        eot_id: int,
        pad_id: int,
        record: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        if record is None:
            architecture = _read_architecture(config)
            _check_sizes(config, architecture)
            _set_tokens(config, architecture, vocab_size, eot_id, pad_id)
        else:
            architecture = AutoConfig.for_model(**record)
        _check_context(architecture, context_length)
        self._architecture = architecture
        self.vocab_size = int(architecture.vocab_size)
        self._eot_id = eot_id
        self._pad_id = pad_id
        self.model = _without_pooler(AutoModel.from_config(architecture))

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """One feature of each caption, (B, D); tokens are int64."""
        mask_BT = tokens_BT != self._pad_id
        states_BTD: Tensor = self.model(input_ids=tokens_BT, attention_mask=mask_BT.long()).last_hidden_state
        match self.config.pooling:
            case TextPooling.first:
                return states_BTD[:, 0]
            case TextPooling.mean:
                weights_BT1 = mask_BT.unsqueeze(-1).to(states_BTD.dtype)
                return (states_BTD * weights_BT1).sum(dim=1) / weights_BT1.sum(dim=1)
            case TextPooling.end:
                end_B = (tokens_BT == self._eot_id).int().argmax(dim=1)
                return states_BTD[torch.arange(len(end_B), device=end_B.device), end_B]

    def record(self) -> dict[str, Any]:
        """The architecture as plain values, so that a stored encoder needs neither the Hub nor the folder again."""
        return {key: value for key, value in self._architecture.to_diff_dict().items() if key != "architectures"}

    def load_trained_weights(self) -> None:
        """Load the trained weights of `config.hf_model`, all of them or none.

        Raises:
            ConfigError: They cannot be read, or tensors are missing.
        """
        name = str(self.config.hf_model)
        try:
            trained, report = AutoModel.from_pretrained(name, output_loading_info=True)
        except (OSError, ValueError) as error:
            raise ConfigError([_unreadable(name, error)]) from error
        trained = _without_pooler(trained)
        missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
        if missing:
            raise ConfigError([f"text_encoder.hf_model = {name} has no trained {', '.join(sorted(missing))}"])
        self.model.load_state_dict(trained.state_dict(), strict=True)


def _without_pooler(model: nn.Module) -> nn.Module:
    """The encoder alone: no decoder, and no head that no feature would use and that would get no gradient."""
    if getattr(model.config, "is_encoder_decoder", False):
        model = model.get_encoder()  # type: ignore[operator]
    if isinstance(getattr(model, "pooler", None), nn.Module):
        model.pooler = None
    return model


def _read_architecture(config: TextEncoderConfig) -> PretrainedConfig:
    name = str(config.hf_model)
    try:
        return AutoConfig.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise ConfigError([_unreadable(name, error)]) from error


def _unreadable(name: str, error: Exception) -> str:
    reason = str(error).strip().splitlines()[0]
    what = "holds no model that transformers can read" if Path(name).is_dir() else "is neither a folder nor to be had"
    return f"text_encoder.hf_model = {name} {what} ({reason}); give a folder with a config.json, or a name on the Hub"


def _check_sizes(config: TextEncoderConfig, architecture: PretrainedConfig) -> None:
    """The fields beside hf_model must tell what the model is like, so that none of them is ignored."""
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
            [f"text_encoder.hf_model = {config.hf_model} has other sizes than the fields beside it say; set {wanted}"]
        )


def _set_tokens(
    config: TextEncoderConfig, architecture: PretrainedConfig, vocab_size: int, eot_id: int, pad_id: int
) -> None:
    """Fit the architecture to the tokenizer; trained weights have their own vocabulary, which must be the same."""
    if not config.hf_weights:
        architecture.vocab_size = vocab_size
        architecture.eos_token_id = eot_id
        architecture.pad_token_id = pad_id
        return
    if vocab_size > architecture.vocab_size or pad_id != architecture.pad_token_id:
        raise ConfigError(
            [
                f"tokenizer.file has {vocab_size} tokens and its padding at {pad_id}, but the weights of "
                f"text_encoder.hf_model = {config.hf_model} were trained with {architecture.vocab_size} and "
                f"{architecture.pad_token_id}; give that model's own tokenizer.json, or hf_weights=false"
            ]
        )


def _check_context(architecture: PretrainedConfig, context_length: int) -> None:
    longest = getattr(architecture, "max_position_embeddings", None)
    # RoBERTa and its kin count positions from the padding id on.
    offset = architecture.pad_token_id + 1 if "roberta" in architecture.model_type else 0
    if longest is not None and context_length + offset > longest:
        raise ConfigError(
            [
                f"tokenizer.context_length = {context_length} is more than the {longest - offset} positions of "
                f"text_encoder.hf_model; use at most {longest - offset}"
            ]
        )
