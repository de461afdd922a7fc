"""Hugging Face text models as text encoder, from tiny folders of random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BertConfig,
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    XLMRobertaConfig,
    XLMRobertaModel,
)

from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.errors import ConfigError
from kelip_lightning.models.dual_encoder import DualEncoder, DualEncoderConfig
from kelip_lightning.models.dual_encoder_file import build_dual_encoder, load_dual_encoder, save_dual_encoder
from kelip_lightning.models.hugging_face_text import HuggingFaceTextEncoder
from kelip_lightning.models.image_encoder import ImageEncoderConfig
from kelip_lightning.models.text_encoder import TextEncoderConfig, TextPooling

SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 20, "vocab_size": 300, "pad_token_id": 0, "eos_token_id": 299,
}  # fmt: skip
OURS: dict[str, Any] = {"width": 16, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0}
TOKENS: dict[str, Any] = {"vocab_size": 300, "context_length": 12, "eot_id": 299, "pad_id": 0}
BATCH = torch.tensor([[298, 5, 6, 7, 299, 0], [298, 9, 299, 0, 0, 0]])


@pytest.fixture
def xlm_roberta(tmp_path: Path) -> Path:
    XLMRobertaModel(XLMRobertaConfig(**SIZES)).save_pretrained(tmp_path / "xlm")
    return tmp_path / "xlm"


def _config(folder: Path, **options: Any) -> TextEncoderConfig:
    return TextEncoderConfig(**OURS | {"hf_model": str(folder)} | options)


@torch.no_grad()
@pytest.mark.parametrize("pooling", list(TextPooling))
def test_forward__pools_the_librarys_own_states(xlm_roberta: Path, pooling: TextPooling) -> None:
    encoder = HuggingFaceTextEncoder(_config(xlm_roberta, pooling=pooling, hf_weights=True), **TOKENS).eval()
    encoder.load_trained_weights()
    library = XLMRobertaModel.from_pretrained(xlm_roberta, add_pooling_layer=False).eval()
    states = library(input_ids=BATCH, attention_mask=(BATCH != 0).long()).last_hidden_state
    expected = {
        TextPooling.first: states[:, 0],
        TextPooling.mean: torch.stack([states[0, :5].mean(dim=0), states[1, :3].mean(dim=0)]),
        TextPooling.end: torch.stack([states[0, 4], states[1, 2]]),
    }
    torch.testing.assert_close(encoder(BATCH), expected[pooling])
    longer = torch.nn.functional.pad(BATCH, (0, 5))
    torch.testing.assert_close(encoder(longer), encoder(BATCH), msg="padding changes nothing")


def test_forward__drops_nothing_in_training_mode(xlm_roberta: Path) -> None:
    encoder = HuggingFaceTextEncoder(_config(xlm_roberta), **TOKENS).train()
    assert encoder.training
    assert torch.equal(encoder(BATCH), encoder(BATCH))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["xlm", "clip"])
def test_forward__batch_without_padding_gives_the_librarys_own_states(tmp_path: Path, kind: str) -> None:
    """The library leaves the mask out there, and we do not; `clip` has a causal one."""
    made: PreTrainedModel = {
        "xlm": lambda: XLMRobertaModel(XLMRobertaConfig(**SIZES)),
        "clip": lambda: CLIPTextModel(CLIPTextConfig(**SIZES)),
    }[kind]()
    made.save_pretrained(tmp_path)
    encoder = HuggingFaceTextEncoder(_config(tmp_path, pooling=TextPooling.mean, hf_weights=True), **TOKENS).eval()
    encoder.load_trained_weights()
    full = torch.randint(1, 298, (2, 6))
    expected = made.eval()(input_ids=full, attention_mask=torch.ones_like(full)).last_hidden_state.mean(dim=1)
    torch.testing.assert_close(encoder(full), expected)


def test_forward__every_parameter_gets_a_gradient(xlm_roberta: Path) -> None:
    encoder = HuggingFaceTextEncoder(_config(xlm_roberta, pooling=TextPooling.mean), **TOKENS)
    encoder(BATCH).sum().backward()
    assert [name for name, parameter in encoder.named_parameters() if parameter.grad is None] == []


def test_encoder_decoder_gives_its_encoder(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 32, "d_kv": 8, "vocab_size": 300}
    T5EncoderModel(T5Config(**sizes)).save_pretrained(tmp_path)
    encoder = HuggingFaceTextEncoder(_config(tmp_path, pooling=TextPooling.mean), **TOKENS)
    assert encoder(BATCH).shape == (2, 16)
    assert not [name for name, _ in encoder.named_parameters() if "decoder" in name]


def _build(config: TextEncoderConfig, tokenizer: BilingualTokenizer) -> DualEncoder:
    image = ImageEncoderConfig(image_size=32, patch_size=8, width=16, depth=1, num_heads=2)
    return build_dual_encoder(image, config, DualEncoderConfig(embed_dim=8), tokenizer)


def test_saved_model_needs_the_folder_no_more(xlm_roberta: Path, tiny_tokenizer: BilingualTokenizer) -> None:
    model = _build(_config(xlm_roberta, pooling=TextPooling.mean), tiny_tokenizer).eval()
    save_dual_encoder(xlm_roberta.parent / "saved", model, tiny_tokenizer, "# card")
    for file in xlm_roberta.iterdir():
        file.unlink()
    again = load_dual_encoder(xlm_roberta.parent / "saved").model
    tokens = tiny_tokenizer.encode(["사과", "red apple"])
    assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))


def test_fresh_weights_take_the_runs_own_vocabulary(xlm_roberta: Path, tiny_tokenizer: BilingualTokenizer) -> None:
    model = _build(_config(xlm_roberta), tiny_tokenizer)
    assert model.text_encoder.vocab_size == tiny_tokenizer.vocab_size != 300


@pytest.mark.parametrize(
    ("options", "tokens", "message"),
    [
        ({"width": 32}, {}, r"set text_encoder\.width=16"),
        ({"depth": 3, "mlp_ratio": 4.0}, {}, r"text_encoder\.depth=2 text_encoder\.mlp_ratio=2\.0"),
        ({"hf_model": "no/such-model"}, {}, "no/such-model is neither a folder nor to be had"),
        ({}, {"context_length": 20}, r"tokenizer\.context_length = 20 is more than the 19 positions"),
        ({"hf_weights": True}, {"vocab_size": 301}, r"tokenizer\.vocab_size = 301 is more than the 300"),
    ],
)
def test_what_does_not_fit_is_said(
    xlm_roberta: Path, options: dict[str, Any], tokens: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        HuggingFaceTextEncoder(_config(xlm_roberta, **options), **TOKENS | tokens)


def test_folder_without_a_model(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no model that transformers can read"):
        HuggingFaceTextEncoder(_config(tmp_path), **TOKENS)


def test_trained_weights__another_padding(xlm_roberta: Path) -> None:
    encoder = HuggingFaceTextEncoder(_config(xlm_roberta, hf_weights=True), **TOKENS | {"pad_id": 1})
    with pytest.raises(ConfigError, match="has its padding at 1, but the weights"):
        encoder.load_trained_weights()


def test_trained_weights__none_there(tmp_path: Path) -> None:
    BertConfig(**SIZES).save_pretrained(tmp_path)
    encoder = HuggingFaceTextEncoder(_config(tmp_path, hf_weights=True), **TOKENS)
    with pytest.raises(ConfigError, match="holds no model that transformers can read"):
        encoder.load_trained_weights()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pooling": TextPooling.mean}, "pooling = mean needs hf_model"), ({"hf_weights": True}, "needs hf_model")],
)
def test_config__settings_of_a_hugging_face_model_alone(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextEncoderConfig(**options)
