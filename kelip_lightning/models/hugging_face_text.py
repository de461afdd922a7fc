"""Any text model of Hugging Face `transformers` as text encoder, for example XLM-R.

Shapes: B captions, T tokens, D width.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PretrainedConfig

from kelip_lightning.errors import ConfigError
from kelip_lightning.models.attention_masks import mask_without_looking
from kelip_lightning.models.text_encoder import TextEncoderConfig, TextPooling, TextTower, end_states


class HuggingFaceTextEncoder(TextTower):
    """One feature per caption: the mean of its tokens, the first or the end token's, as configured.

    The model's own dropout never acts: it would draw from torch's stream, and training here repeats exactly.

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
        if record is None:
            architecture = _read_architecture(config)
            _check_sizes(config, architecture)
            _fit_vocabulary(config, architecture, vocab_size, eot_id, pad_id)
        else:
            architecture = AutoConfig.for_model(**record)
        _check_context(architecture, context_length)
        super().__init__(
            config,
            vocab_size=int(architecture.vocab_size),
            context_length=context_length,
            eot_id=eot_id,
            pad_id=pad_id,
        )
        self._architecture = architecture
        model = AutoModel.from_config(architecture)  # type: ignore[no-untyped-call]
        mask_without_looking(model)
        self.model = _encoder_alone(model)

    def train(self, mode: bool = True) -> "HuggingFaceTextEncoder":
        """Training or evaluation mode; the model inside stays in evaluation mode, where it drops nothing."""
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
        """The architecture as plain values, so that a stored encoder needs neither the Hub nor the folder again."""
        return {key: value for key, value in self._architecture.to_diff_dict().items() if key != "architectures"}

    def load_trained_weights(self) -> None:
        """Load the trained weights of `config.hf_model`, all of them or none.

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
        trained = _encoder_alone(trained)
        missing = [key for key in report["missing_keys"] if not key.startswith("pooler.")]
        if missing:
            raise ConfigError([f"text_encoder.hf_model = {name} has no trained {', '.join(sorted(missing))}"])
        self.model.load_state_dict(trained.state_dict(), strict=True)


def _encoder_alone(model: nn.Module) -> nn.Module:
    """The encoder alone: no decoder, and no head that no feature would use and that would get no gradient."""
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


def _fit_vocabulary(
    config: TextEncoderConfig, architecture: PretrainedConfig, vocab_size: int, eot_id: int, pad_id: int
) -> None:
    """Fit the architecture to the tokenizer; trained weights keep their vocabulary, which must hold every token."""
    if not config.hf_weights:
        architecture.vocab_size, architecture.eos_token_id, architecture.pad_token_id = vocab_size, eot_id, pad_id
    elif vocab_size > architecture.vocab_size:
        raise ConfigError(
            [
                f"tokenizer.vocab_size = {vocab_size} is more than the {architecture.vocab_size} tokens that the "
                f"weights of text_encoder.hf_model = {config.hf_model} know; give that model's own tokenizer, or "
                "hf_weights=false"
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
