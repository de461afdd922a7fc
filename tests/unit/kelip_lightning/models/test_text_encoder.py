"""CLIP's text encoder, and Hugging Face text models from tiny folders with random weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
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
from kelip_lightning.models.config import (
    Activation,
    DualEncoderConfig,
    ImageEncoderConfig,
    TextEncoderConfig,
    TextPooling,
)
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import build_dual_encoder, load_dual_encoder, save_dual_encoder
from kelip_lightning.models.text_encoder import HuggingFaceTextEncoder, TextEncoder

VOCAB, PAD, START, END = 40, 0, 38, 39


@pytest.fixture
def encoder() -> TextEncoder:
    model = TextEncoder(
        TextEncoderConfig(width=16, depth=2, num_heads=2), vocab_size=VOCAB, context_length=10, eot_id=END, pad_id=PAD
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def _tokens(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


def test_forward__padding_changes_nothing(encoder: TextEncoder) -> None:
    short = encoder(_tokens([START, 5, 6, END]))
    assert short.shape == (1, 16)
    for width in (5, 10):
        padded = [START, 5, 6, END, *[PAD] * (width - 4)]
        torch.testing.assert_close(encoder(_tokens(padded)), short)


def test_forward__tokens_behind_the_end_change_nothing(encoder: TextEncoder) -> None:
    features = encoder(_tokens([START, 5, END, 7, 8, 9], [START, 5, END, END, 1, 30], [START, 5, END, PAD, PAD, PAD]))
    torch.testing.assert_close(features[1], features[0])
    torch.testing.assert_close(features[2], features[0])


def test_forward__every_token_before_the_end_counts(encoder: TextEncoder) -> None:
    tokens = [START, 5, 6, 7, END]
    feature = encoder(_tokens(tokens))
    for place in range(4):
        changed = list(tokens)
        changed[place] = 20
        assert not torch.allclose(encoder(_tokens(changed)), feature)
    assert not torch.allclose(encoder(_tokens([START, 6, 5, 7, END])), feature), "order counts"


@pytest.mark.parametrize("end", [2, 1, 5, 20, END])
def test_forward__reads_the_first_end_token_whatever_its_id_is(end: int) -> None:
    """The feature and every gradient are those of the hidden state at the end token; other ids lie above and below."""
    encoder = TextEncoder(
        TextEncoderConfig(width=16, depth=2, num_heads=2), vocab_size=VOCAB, context_length=10, eot_id=end, pad_id=PAD
    )
    tokens = _tokens([START, 7, 30, end, PAD, PAD], [START, 3, end, 36, end, PAD], [START, 36, 4, 7, 3, end])
    places = [3, 2, 5]
    states = encoder.clip(input_ids=tokens).last_hidden_state
    expected = torch.stack([states[row, place] for row, place in enumerate(places)])
    weights = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad((expected * weights).sum(), list(encoder.parameters()))
    features = encoder(tokens)
    torch.testing.assert_close(features, expected)
    for found, gradient in zip(
        torch.autograd.grad((features * weights).sum(), list(encoder.parameters())), expected_gradients, strict=True
    ):
        torch.testing.assert_close(found, gradient)


def test_forward__captions_do_not_mix(encoder: TextEncoder) -> None:
    batch = _tokens([START, 5, 6, END, PAD], [START, 9, END, PAD, PAD])
    torch.testing.assert_close(encoder(batch)[1:], encoder(batch[1:]))


def test_forward__gradient_reaches_every_parameter_and_no_token_behind_the_end(encoder: TextEncoder) -> None:
    encoder(_tokens([START, 5, END, 7, 7, 7, 7, 7, 7, 7], [START, 6, 8, 9, 10, 11, 12, 13, 14, END])).sum().backward()
    gradients = {name: p.grad for name, p in encoder.named_parameters()}
    # A key's bias moves all scores of a query alike, so the softmax gives it no gradient but rounding.
    still = [name for name, gradient in gradients.items() if gradient is None]
    assert still == []
    (embedding,) = [gradient for name, gradient in gradients.items() if "token_embedding" in name]
    assert embedding is not None
    assert (embedding[7] == 0).all()
    assert (embedding[[START, 5, 6, END]].abs().sum(dim=1) > 0).all()


def test_text_encoder__dimensions_follow_the_configuration() -> None:
    config = TextEncoderConfig(width=16, depth=3, num_heads=4, mlp_ratio=2.0, activation=Activation.gelu)
    model = TextEncoder(config, vocab_size=VOCAB, context_length=7, eot_id=END, pad_id=PAD)
    block = 4 * (16 * 16 + 16) + (16 * 32 + 32) + (32 * 16 + 16) + 4 * 16
    assert sum(p.numel() for p in model.parameters()) == VOCAB * 16 + 7 * 16 + 3 * block + 2 * 16
    assert model.clip.config.hidden_act == "gelu"


def test_initial_statistics__are_clips() -> None:
    width, depth = 128, 3
    config = TextEncoderConfig(width=width, depth=depth, num_heads=4)
    model = TextEncoder(config, vocab_size=300, context_length=40, eot_id=299, pad_id=PAD)
    block = "encoder.layers.2"
    into, out_of = width**-0.5, width**-0.5 * (2 * depth) ** -0.5
    expected = {
        "embeddings.token_embedding.weight": 0.02,
        "embeddings.position_embedding.weight": 0.01,
        **{f"{block}.self_attn.{name}_proj.weight": into for name in "qkv"},
        f"{block}.self_attn.out_proj.weight": out_of,
        f"{block}.mlp.fc1.weight": (2 * width) ** -0.5,
        f"{block}.mlp.fc2.weight": out_of,
    }
    state = model.clip.state_dict()
    assert {name: state[name].std().item() for name in expected} == pytest.approx(expected, rel=0.05)
    assert all((tensor == 0).all() for name, tensor in state.items() if name.endswith("bias"))


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


def test_forward__no_dropout_in_training_mode(xlm_roberta: Path) -> None:
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


def test_encoder_decoder__only_the_encoder_is_used(tmp_path: Path) -> None:
    sizes = {"d_model": 16, "num_layers": 2, "num_heads": 2, "d_ff": 32, "d_kv": 8, "vocab_size": 300}
    T5EncoderModel(T5Config(**sizes)).save_pretrained(tmp_path)
    encoder = HuggingFaceTextEncoder(_config(tmp_path, pooling=TextPooling.mean), **TOKENS)
    assert encoder(BATCH).shape == (2, 16)
    assert not [name for name, _ in encoder.named_parameters() if "decoder" in name]


def _build(config: TextEncoderConfig, tokenizer: BilingualTokenizer) -> DualEncoder:
    image = ImageEncoderConfig(image_size=32, patch_size=8, width=16, depth=1, num_heads=2)
    return build_dual_encoder(image, config, DualEncoderConfig(embed_dim=8), tokenizer)


def test_saved_model__does_not_need_the_folder(xlm_roberta: Path, tiny_tokenizer: BilingualTokenizer) -> None:
    model = _build(_config(xlm_roberta, pooling=TextPooling.mean), tiny_tokenizer).eval()
    save_dual_encoder(xlm_roberta.parent / "saved", model, tiny_tokenizer, "# card")
    for file in xlm_roberta.iterdir():
        file.unlink()
    again = load_dual_encoder(xlm_roberta.parent / "saved").model
    tokens = tiny_tokenizer.encode(["사과", "red apple"])
    assert torch.equal(again.encode_text(tokens), model.encode_text(tokens))


def test_random_weights__use_the_runs_vocabulary(xlm_roberta: Path, tiny_tokenizer: BilingualTokenizer) -> None:
    model = _build(_config(xlm_roberta), tiny_tokenizer)
    assert model.text_encoder.vocab_size == tiny_tokenizer.vocab_size != 300


@pytest.mark.parametrize(
    ("options", "tokens", "message"),
    [
        ({"width": 32}, {}, r"set text_encoder\.width=16"),
        ({"depth": 3, "mlp_ratio": 4.0}, {}, r"text_encoder\.depth=2 text_encoder\.mlp_ratio=2\.0"),
        ({"hf_model": "no/such-model"}, {}, "no/such-model is neither a folder nor available"),
        ({}, {"context_length": 20}, r"tokenizer\.context_length = 20 is more than the 19 positions"),
        ({"hf_weights": True}, {"vocab_size": 301}, r"tokenizer\.vocab_size = 301 is more than the 300"),
    ],
)
def test_hugging_face__mismatches(
    xlm_roberta: Path, options: dict[str, Any], tokens: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        HuggingFaceTextEncoder(_config(xlm_roberta, **options), **TOKENS | tokens)


def test_hugging_face__folder_without_a_model(tmp_path: Path) -> None:
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
