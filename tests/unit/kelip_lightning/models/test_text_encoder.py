"""CLIP's text encoder against the one of `transformers` on padded captions."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import CLIPTextConfig, CLIPTextModel

from kelip_lightning.models.config import Activation, TextEncoderConfig, TextPooling
from kelip_lightning.models.text_encoder import (
    TextEncoder,
    build_text_encoder,
    caption_lengths,
    packed,
    resample_caption_positions,
)

VOCAB, PAD, START, END = 40, 0, 38, 39
CONTEXT = 10


def build(end: int = END, pad: int = PAD, **options: Any) -> TextEncoder:
    """With every weight moved off its initial value, so that no zero hides a mistake."""
    config = TextEncoderConfig(**{"width": 16, "depth": 2, "num_heads": 2} | options)
    model = TextEncoder(config, vocab_size=VOCAB, context_length=CONTEXT, eot_id=end, pad_id=pad).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


@pytest.fixture
def encoder() -> TextEncoder:
    return build()


def library_model(encoder: TextEncoder) -> CLIPTextModel:
    """The model of `transformers` with the encoder's weights, in float64."""
    config = encoder.config
    model = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=VOCAB,
            hidden_size=config.width,
            intermediate_size=round(config.width * config.mlp_ratio),
            num_hidden_layers=config.depth,
            num_attention_heads=config.num_heads,
            max_position_embeddings=CONTEXT,
            hidden_act=config.activation.value,
            bos_token_id=None,
            eos_token_id=encoder.eot_id,
        )
    )
    model.load_state_dict(encoder.clip.state_dict(), strict=True)
    return model.double().eval()


def _tokens(*rows: list[int]) -> Tensor:
    return torch.tensor(rows)


def random_captions(lengths: list[int], end: int, fill: Callable[[int], list[int]]) -> Tensor:
    """Captions of these lengths, start and end included; `fill` gives what follows the end."""
    inner = [one for one in range(1, START) if one != end]
    rows = []
    for length in lengths:
        words = [inner[place] for place in torch.randint(len(inner), (length,)).tolist()]
        rows.append([START, *words[: length - 2], end, *fill(CONTEXT - length)])
    return torch.tensor(rows)


LENGTHS = [2, 10, 5, 7, 3, 3, 9]
WITHOUT_END = [[START, 5, 6, 7, 8], [3, 4, 5, 6, 7], [START, 9, END, PAD, PAD]]
CASES: dict[str, Callable[[], tuple[TextEncoder, Tensor, list[int]]]] = {
    "padding": lambda: (build(), random_captions(LENGTHS, END, lambda rest: [PAD] * rest), LENGTHS),
    "no padding": lambda: (build(), random_captions([CONTEXT] * 4, END, lambda _: []), [CONTEXT] * 4),
    "end tokens repeated": lambda: (build(), random_captions(LENGTHS, END, lambda rest: [END] * rest), LENGTHS),
    "other tokens behind the end": lambda: (
        build(),
        random_captions(LENGTHS, END, lambda rest: torch.randint(1, VOCAB, (rest,)).tolist()),
        LENGTHS,
    ),
    "padded by the end token, as OpenAI's": lambda: (
        build(pad=END),
        random_captions(LENGTHS, END, lambda rest: [END] * rest),
        LENGTHS,
    ),
    "an end token of a low id": lambda: (build(end=2), random_captions(LENGTHS, 2, lambda rest: [PAD] * rest), LENGTHS),
    "no end token: the first is read": lambda: (build(), _tokens(*WITHOUT_END), [1, 1, 3]),
    "gelu, wider MLP, more heads": lambda: (
        build(activation=Activation.gelu, mlp_ratio=3.0, num_heads=4, depth=3),
        random_captions(LENGTHS, END, lambda rest: [PAD] * rest),
        LENGTHS,
    ),
}


@pytest.mark.parametrize("with_number", [True, False], ids=["number of tokens known", "counted"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_forward__value_and_gradients_equal_transformers(
    case: Callable[[], tuple[TextEncoder, Tensor, list[int]]], with_number: bool
) -> None:
    """Its states on padded captions, read at the end tokens; its parameters have our names and order."""
    encoder, tokens, lengths = case()
    library = library_model(encoder)
    states = library(input_ids=tokens).last_hidden_state
    expected = torch.stack([states[row, length - 1] for row, length in enumerate(lengths)])
    found = encoder(tokens, sum(lengths) if with_number else None)
    assert found.dtype == torch.float32
    assert (found - expected).norm() < 1e-5 * expected.norm()
    upstream = torch.randn_like(found)
    gradients = torch.autograd.grad(found, list(encoder.parameters()), upstream)
    references = torch.autograd.grad(expected, list(library.parameters()), upstream.double())
    names = [name for name, _ in library.named_parameters()]
    largest = max(one.norm() for one in references)
    for name, gradient, reference in zip(names, gradients, references, strict=True):
        # A key's bias moves all scores of a query alike, so the softmax gives it no gradient but rounding.
        size = largest if name.endswith("k_proj.bias") else reference.norm()
        assert (gradient - reference).norm() <= 1e-5 * size, name


def test_parameters__have_the_names_shapes_and_order_of_transformers(encoder: TextEncoder) -> None:
    ours, library = encoder.clip.named_parameters(), library_model(encoder).named_parameters()
    assert [(name, one.shape) for name, one in ours] == [(name, one.shape) for name, one in library]
    assert list(encoder.clip.state_dict()) == list(library_model(encoder).state_dict())


def test_forward__the_number_of_tokens_changes_no_bit(encoder: TextEncoder) -> None:
    tokens = random_captions(LENGTHS, END, lambda rest: [PAD] * rest)
    assert torch.equal(encoder(tokens, sum(LENGTHS)), encoder(tokens))


def test_forward__padding_does_not_enter_the_layers(encoder: TextEncoder) -> None:
    rows: list[int] = []
    for layer in encoder.clip.encoder.layers:
        assert isinstance(layer, nn.Module)
        layer.register_forward_hook(lambda _module, _inputs, tokens: rows.append(len(tokens)))
    encoder(random_captions(LENGTHS, END, lambda rest: [PAD] * rest))
    assert rows == [sum(LENGTHS), len(LENGTHS)], "of the last layer the end tokens alone are needed"


def test_forward__tokens_are_bfloat16_under_autocast(encoder: TextEncoder) -> None:
    """All lies about as near to float64 as that of `transformers`, which keeps a float32 residual stream."""
    kinds: set[torch.dtype] = set()
    for layer in encoder.clip.encoder.layers:
        assert isinstance(layer, nn.Module)
        layer.register_forward_hook(lambda _module, _inputs, tokens: kinds.add(tokens.dtype))
    lengths = LENGTHS * 10
    tokens = random_captions(lengths, END, lambda rest: [PAD] * rest)
    upstream = torch.randn(len(tokens), 16).bfloat16()
    library = library_model(encoder)

    def theirs(tokens: Tensor) -> Tensor:
        states: Tensor = library(input_ids=tokens).last_hidden_state
        return states[torch.arange(len(lengths)), torch.tensor(lengths) - 1]

    exact = value_and_gradients(theirs, library, tokens, upstream)
    library.float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = value_and_gradients(encoder, encoder, tokens, upstream)
        others = value_and_gradients(theirs, library, tokens, upstream)
    assert kinds == {found[0].dtype} == {torch.bfloat16}
    assert {one.dtype for one in found[1:]} == {torch.float32}
    ours, library_errors = ([_error(*pair) for pair in zip(many, exact, strict=True)] for many in (found, others))
    assert ours[0] < 2 * library_errors[0] < 2**-5
    assert sum(ours) < 2 * sum(library_errors) < len(ours) * 2**-3


def value_and_gradients(
    compute: Callable[[Tensor], Tensor], model: nn.Module, tokens: Tensor, upstream: Tensor
) -> list[Tensor]:
    """Without those of keys' biases, which move all scores of a query alike."""
    value = compute(tokens)
    trained = [one for name, one in model.named_parameters() if not name.endswith("k_proj.bias")]
    return [value, *torch.autograd.grad(value, trained, upstream.to(value.dtype))]


def _error(found: Tensor, exact: Tensor) -> float:
    return ((found.double() - exact).norm() / exact.norm()).item()


def test_gradient_checkpointing__changes_no_gradient_and_runs_every_block_twice(encoder: TextEncoder) -> None:
    runs: list[str] = []
    for name, layer in encoder.clip.encoder.layers.named_children():
        layer.register_forward_pre_hook(lambda *_, name=name: runs.append(name))
    tokens = random_captions(LENGTHS, END, lambda rest: [PAD] * rest)
    gradients = []
    for expected_runs in (["0", "1"], ["0", "1", "1", "0"]):
        runs.clear()
        gradients.append(torch.autograd.grad(encoder(tokens).square().sum(), list(encoder.parameters())))
        assert runs == expected_runs
        encoder.enable_gradient_checkpointing()
    for plain, recomputed in zip(*gradients, strict=True):
        assert torch.equal(plain, recomputed)
    runs.clear()
    with torch.no_grad():
        encoder(tokens)
    assert runs == ["0", "1"]


def test_forward__without_values_counts_every_cell_as_a_token() -> None:
    with torch.device("meta"):
        encoder = TextEncoder(TextEncoderConfig(width=16, depth=1, num_heads=2), **_spec())
        features = encoder(torch.zeros(3, CONTEXT, dtype=torch.int64))
        ids, packing = packed(torch.zeros(3, CONTEXT, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), None)
    assert features.is_meta
    assert features.shape == (3, 16)
    assert ids.shape == packing.positions_N.shape == (3 * CONTEXT,)


def _spec() -> Any:
    return {"vocab_size": VOCAB, "context_length": CONTEXT, "eot_id": END, "pad_id": PAD}


def test_caption_lengths__up_to_the_first_end_token() -> None:
    tokens = _tokens([START, 5, END, PAD], [START, END, END, END], [5, 6, 7, 8], [END, 5, 6, END])
    assert caption_lengths(tokens, END).tolist() == [3, 2, 1, 1]


def test_packed__takes_the_tokens_of_every_caption() -> None:
    ids, packing = packed(_tokens([1, 2, 3], [4, 5, 6]), torch.tensor([2, 3]), None)
    assert ids.tolist() == [1, 2, 4, 5, 6]
    assert packing.positions_N.tolist() == [0, 1, 0, 1, 2]


def test_build_text_encoder__clips_transformer_needs_no_library() -> None:
    encoder = build_text_encoder(TextEncoderConfig(width=16, depth=1, num_heads=2), **_spec())
    assert isinstance(encoder, TextEncoder)
    assert encoder.record() is None
    before = {name: one.clone() for name, one in encoder.state_dict().items()}
    encoder.load_trained_weights()
    assert all(torch.equal(one, before[name]) for name, one in encoder.state_dict().items())


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
    model = build(depth=3, num_heads=4, mlp_ratio=2.0)
    block = 4 * (16 * 16 + 16) + (16 * 32 + 32) + (32 * 16 + 16) + 4 * 16
    assert sum(p.numel() for p in model.parameters()) == VOCAB * 16 + CONTEXT * 16 + 3 * block + 2 * 16


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


@pytest.mark.parametrize(
    ("options", "message"),
    [({"pooling": TextPooling.mean}, "pooling = mean needs hf_model"), ({"hf_weights": True}, "needs hf_model")],
)
def test_config__settings_that_need_a_hugging_face_model(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TextEncoderConfig(**options)


def test_compile__captions_of_any_length_take_two_graphs() -> None:
    torch._dynamo.reset()
    compiler = CompileCounterWithBackend("aot_eager")
    encoder, compiled = build(), build()
    compiled.load_state_dict(encoder.state_dict())
    compiled.compile(backend=compiler)
    for lengths in ([3, 5], [2, 4, 7], [6, 2, 3, 9], [2, 2, 3], [8, 3], [4, 4, 4, 5, 2]):
        tokens = random_captions(lengths, END, lambda rest: [PAD] * rest)[:, : max(lengths)]
        torch.testing.assert_close(compiled(tokens, sum(lengths)), encoder(tokens, sum(lengths)))
    assert compiler.frame_count in (1, 2)


@pytest.mark.parametrize(("stored", "wanted"), [(77, 77), (77, 16), (77, 248), (32, 33), (12, 20), (1, 4)])
def test_resample_caption_positions__first_rows_stay_and_the_rest_is_stretched(stored: int, wanted: int) -> None:
    """As `numpy.interp` computes it for each column."""
    table = torch.randn(stored, 3)
    found = resample_caption_positions(table, wanted)
    kept = min(20, stored - 1)
    places = np.concatenate([np.arange(kept), np.linspace(kept, stored - 1, max(0, wanted - kept))])
    if wanted <= stored:
        places = np.arange(wanted)
    columns = [np.interp(places, np.arange(stored), table[:, column].numpy()) for column in range(3)]
    np.testing.assert_allclose(found.numpy(), np.stack(columns, axis=1), rtol=0, atol=1e-6)
    assert torch.equal(found[: min(kept, wanted)], table[: min(kept, wanted)])
    assert found.dtype == torch.float32
