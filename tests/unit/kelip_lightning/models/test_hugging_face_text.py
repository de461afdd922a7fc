"""Hugging Face text models from tiny folders with random weights, against the library on padded captions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModel,
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
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig, TextPooling
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.hugging_face_text import HuggingFaceTextEncoder
from kelip_lightning.models.model_folder import build_dual_encoder, load_dual_encoder, save_dual_encoder

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


PACKED: dict[str, dict[str, Any]] = {
    "bert": {},
    "electra": {"embedding_size": 8},
    "roberta": {},
    "xlm-roberta": {},
    "camembert": {},
}
LENGTHS = [2, 12, 5, 7, 3, 3, 9]


def _captions(pad: int, end: int = 299) -> Tensor:
    """Captions of these lengths, padded to 12 tokens."""
    rows = [[298, *torch.randint(6, 298, (length - 2,)).tolist(), end] for length in LENGTHS]
    return torch.tensor([row + [pad] * (12 - len(row)) for row in rows])


def _encoder_of(
    folder: Path, kind: str, pooling: TextPooling, options: dict[str, Any] | None = None, **tokens: int
) -> HuggingFaceTextEncoder:
    """With every weight moved off its initial value, so that no zero hides a mistake."""
    AutoConfig.for_model(kind, **SIZES | (options or {})).save_pretrained(folder)
    encoder = HuggingFaceTextEncoder(_config(folder, pooling=pooling), **TOKENS | tokens).eval()
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return encoder


def _library_model(encoder: HuggingFaceTextEncoder) -> PreTrainedModel:
    """The library's own with the encoder's weights, in float64."""
    model: PreTrainedModel = AutoModel.from_config(AutoConfig.for_model(**encoder.record()))
    if getattr(model, "pooler", None) is not None:
        model.pooler = None
    model.load_state_dict(encoder.model.state_dict(), strict=True)
    return model.double().eval()


def _library_features(model: PreTrainedModel, tokens: Tensor, pooling: TextPooling, pad: int) -> Tensor:
    states = model(input_ids=tokens, attention_mask=(tokens != pad).long()).last_hidden_state
    return torch.stack(
        [
            {
                TextPooling.first: lambda one: one[0],
                TextPooling.mean: lambda one: one.mean(dim=0),
                TextPooling.end: lambda one: one[-1],
            }[pooling](states[row, :length])
            for row, length in enumerate(LENGTHS)
        ]
    )


def _seen_by(encoder: HuggingFaceTextEncoder, tokens: Tensor) -> list[int]:
    """The shape of the ids that the model gets."""
    shapes: list[list[int]] = []
    hook = encoder.model.register_forward_pre_hook(
        lambda _model, _inputs, options: shapes.append(list(options["input_ids"].shape)), with_kwargs=True
    )
    encoder(tokens)
    hook.remove()
    (shape,) = shapes
    return shape


def _assert_equal_to_the_library(encoder: HuggingFaceTextEncoder, tokens: Tensor, num_tokens: int | None) -> None:
    """Features and the gradient of every parameter, within 1e-5 of float64."""
    library, pooling = _library_model(encoder), encoder.config.pooling
    expected = _library_features(library, tokens, pooling, encoder.pad_id)
    found = encoder(tokens, num_tokens)
    assert (found - expected).norm() < 1e-5 * expected.norm()
    upstream = torch.randn_like(found)
    gradients = torch.autograd.grad(found, list(encoder.model.parameters()), upstream)
    references = torch.autograd.grad(expected, list(library.parameters()), upstream.double())
    largest = max(one.norm() for one in references)
    for (name, _), gradient, reference in zip(library.named_parameters(), gradients, references, strict=True):
        # A key's bias moves all scores of a query alike, so the softmax gives it no gradient but rounding.
        size = largest if name.endswith("key.bias") else reference.norm()
        assert (gradient - reference).norm() <= 1e-5 * size, name


@pytest.mark.parametrize("pad", [0, 1, 3])
@pytest.mark.parametrize("pooling", list(TextPooling))
@pytest.mark.parametrize("kind", PACKED)
def test_forward__packed_captions_equal_the_library_on_padded_ones(
    tmp_path: Path, kind: str, pooling: TextPooling, pad: int
) -> None:
    encoder = _encoder_of(tmp_path, kind, pooling, PACKED[kind], pad_id=pad)
    tokens = _captions(pad)
    assert _seen_by(encoder, tokens) == [1, sum(LENGTHS)]
    _assert_equal_to_the_library(encoder, tokens, sum(LENGTHS) if pad else None)


@pytest.mark.parametrize("pooling", list(TextPooling))
def test_forward__the_number_of_tokens_changes_no_bit(tmp_path: Path, pooling: TextPooling) -> None:
    encoder, tokens = _encoder_of(tmp_path, "bert", pooling), _captions(0)
    assert torch.equal(encoder(tokens, sum(LENGTHS)), encoder(tokens))


PADDED: dict[str, tuple[str, dict[str, Any]]] = {
    "another type": ("xlm-roberta-xl", {}),
    "a decoder, whose attention is causal": ("bert", {"is_decoder": True, "use_cache": False}),
}


@pytest.mark.parametrize("pooling", [TextPooling.mean, TextPooling.end])  # a causal first token sees itself alone
@pytest.mark.parametrize("name", PADDED)
def test_forward__other_models_get_padded_captions(tmp_path: Path, name: str, pooling: TextPooling) -> None:
    kind, options = PADDED[name]
    encoder, tokens = _encoder_of(tmp_path, kind, pooling, options), _captions(0)
    assert _seen_by(encoder, tokens) == [len(LENGTHS), 12]
    _assert_equal_to_the_library(encoder, tokens, sum(LENGTHS))


@pytest.mark.parametrize("kind", PACKED)
def test_forward__padding_by_the_end_token_stays_padded(tmp_path: Path, kind: str) -> None:
    """As before, the mask leaves the end token out, at which the feature is read."""
    encoder = _encoder_of(tmp_path, kind, TextPooling.end, PACKED[kind], pad_id=5, eot_id=5)
    tokens = _captions(5, 5)
    assert _seen_by(encoder, tokens) == [len(LENGTHS), 12]
    _assert_equal_to_the_library(encoder, tokens, None)


@pytest.mark.parametrize("kind", PACKED)
def test_forward__bfloat16_of_packed_captions_is_as_near_as_the_librarys(tmp_path: Path, kind: str) -> None:
    encoder, tokens = _encoder_of(tmp_path, kind, TextPooling.mean, PACKED[kind]), _captions(0)
    library = _library_model(encoder)
    exact = _library_features(library, tokens, TextPooling.mean, 0)
    library.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder(tokens)
        others = _library_features(library, tokens, TextPooling.mean, 0)
    errors = [((one - exact).norm() / exact.norm()).item() for one in (found, others)]
    assert errors[0] < 2 * errors[1] < 2**-5


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


@pytest.mark.parametrize(("kind", "longest"), [("bert", 20), ("xlm-roberta", 16), ("camembert", 16)])
def test_hugging_face__longest_caption(tmp_path: Path, kind: str, longest: int) -> None:
    """Positions of RoBERTa models begin behind the padding id, here at 4."""
    encoder = _encoder_of(tmp_path, kind, TextPooling.mean, pad_id=3, context_length=longest)
    assert encoder(torch.randint(6, 298, (1, longest))).isfinite().all()
    with pytest.raises(ConfigError, match=rf"{longest + 1} is more than the {longest} positions"):
        HuggingFaceTextEncoder(_config(tmp_path), **TOKENS | {"pad_id": 3, "context_length": longest + 1})


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
