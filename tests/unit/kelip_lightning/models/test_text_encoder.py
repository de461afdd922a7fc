"""The causal text encoder: the feature is the end token's and sees nothing behind it."""

import pytest
import torch
from torch import Tensor

from kelip_lightning.models.image_encoder import Activation
from kelip_lightning.models.text_encoder import TextEncoder, TextEncoderConfig

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


def test_forward__hidden_states_are_causal(encoder: TextEncoder) -> None:
    states = [encoder.clip(input_ids=_tokens([START, 5, 6, last, END])).last_hidden_state for last in (7, 8)]
    torch.testing.assert_close(states[0][:, :3], states[1][:, :3])
    assert not torch.allclose(states[0][:, 3:], states[1][:, 3:])


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


def test_text_encoder_config__bad_width() -> None:
    with pytest.raises(ValueError, match="width = 10 must be a multiple of num_heads = 3"):
        TextEncoderConfig(width=10, num_heads=3)


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
