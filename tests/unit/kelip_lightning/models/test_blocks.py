"""Blocks against timm's own forward pass, norms and activations against their formulas in float64."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from timm.layers import SwiGLU
from timm.layers.activations import QuickGELU
from timm.layers.attention import Attention
from timm.models.vision_transformer import Block, DiffParallelScalingBlock, ParallelScalingBlock, ResPostBlock
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from transformers.activations import QuickGELUActivation

from kelip_lightning.models.blocks import (
    attention_branch,
    compute_dtype,
    is_plain,
    mlp_branch,
    normalize,
    quick_gelu_,
    run_block,
)

WIDTH = 16


def build(cls: type[nn.Module] = Block, **options: Any) -> Any:
    """With every weight moved off its initial value, so that no zero hides a mistake."""
    block = cls(WIDTH, 2, **{"qkv_bias": True} | options)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return block


PLAIN: dict[str, dict[str, Any]] = {
    "gelu": {},
    "quick_gelu": {"act_layer": QuickGELU},
    "relu": {"act_layer": nn.ReLU},
    "layer scale": {"init_values": 0.3},
    "no biases": {"qkv_bias": False, "proj_bias": False},
    "norm of torch": {"norm_layer": nn.LayerNorm},
}
NOT_PLAIN: dict[str, Callable[[], nn.Module]] = {
    "norm of queries and keys": lambda: build(qk_norm=True),
    "norm of attention": lambda: build(scale_attn_norm=True),
    "norm in the MLP": lambda: build(scale_mlp_norm=True),
    "SwiGLU": lambda: build(mlp_layer=SwiGLU),
    "norms after the branches": lambda: build(ResPostBlock),
    "parallel branches": lambda: build(ParallelScalingBlock),
    "differential attention": lambda: build(DiffParallelScalingBlock),
    "subclass": lambda: build(type("Other", (Block,), {})),
}


def _gradients(output: Tensor, upstream: Tensor, tokens: Tensor, block: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(output, [tokens, *block.parameters()], upstream))


def assert_near(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert found.shape == expected.shape
    assert (found.double() - expected.double()).norm() <= tolerance * expected.double().norm()


def assert_alike(found: list[Tensor], expected: list[Tensor], block: nn.Module, tolerance: float) -> None:
    """A key's bias moves all scores of a query alike, so its gradient is nothing but rounding."""
    names = ["tokens", *(name for name, _ in block.named_parameters())]
    for name, ours, theirs in zip(names, found, expected, strict=True):
        if name == "attn.qkv.bias":
            ours, theirs = (one[[*range(WIDTH), *range(2 * WIDTH, 3 * WIDTH)]] for one in (ours, theirs))
        assert_near(ours, theirs, tolerance)


@pytest.mark.parametrize("options", PLAIN.values(), ids=PLAIN)
@pytest.mark.parametrize("length", [1, 5, 50])
def test_run_block__value_and_gradients_equal_timms(options: dict[str, Any], length: int) -> None:
    block = build(**options)
    assert is_plain(block)
    tokens, upstream = torch.randn(3, length, WIDTH, requires_grad=True), torch.randn(3, length, WIDTH)
    found, expected = run_block(block, tokens), block(tokens)
    assert_near(found, expected)
    ours, theirs = (_gradients(one, upstream, tokens, block) for one in (found, expected))
    if length > 1:
        assert_alike(ours, theirs, block, 1e-5)
    else:  # the softmax of one score has no gradient, so that rounding is all there is in those of qkv
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", NOT_PLAIN.values(), ids=NOT_PLAIN)
def test_run_block__other_blocks_run_as_they_are(make: Callable[[], nn.Module]) -> None:
    block, tokens = make(), torch.randn(2, 5, WIDTH)
    assert not is_plain(block)
    assert torch.equal(run_block(block, tokens), block(tokens))


def test_is_plain__gated_attention_is_not() -> None:
    block, tokens = build(), torch.randn(2, 5, WIDTH)
    block.attn = Attention(WIDTH, 2, gated=True)
    assert not is_plain(block)
    assert torch.equal(run_block(block, tokens), block(tokens))
    assert not is_plain(nn.Linear(2, 2))


def test_branches__are_what_timm_adds() -> None:
    block, tokens = build(init_values=0.3), torch.randn(2, 5, WIDTH)
    torch.testing.assert_close(attention_branch(block, tokens), block.ls1(block.attn(block.norm1(tokens))))
    torch.testing.assert_close(mlp_branch(block, tokens), block.ls2(block.mlp(block.norm2(tokens))))


@pytest.mark.parametrize("name", [name for name in PLAIN if name != "relu"])  # its derivative jumps
def test_run_block__tokens_stay_bfloat16_under_autocast(name: str) -> None:
    """The output is within 2**-7 of float64, and float32 gradients of 12,000 tokens within 2**-5."""
    options = PLAIN[name]
    block = build(**options)
    tokens, upstream = torch.randn(2, 400, 30, WIDTH).bfloat16()
    tokens.requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        changes = attention_branch(block, tokens), mlp_branch(block, tokens)
        found = run_block(block, tokens)
    assert [one.dtype for one in (*changes, found)] == [torch.bfloat16] * 3
    gradients = _gradients(found, upstream, tokens, block)
    assert {one.dtype for one in gradients[1:]} == {torch.float32}
    exact_block, exact_tokens = build(**options).double(), tokens.detach().double().requires_grad_()
    exact_block.load_state_dict(block.state_dict())
    expected = exact_block(exact_tokens)
    assert_near(found, expected, 2**-7)
    exact = _gradients(expected, upstream.double(), exact_tokens, exact_block)
    assert_alike(gradients, exact, block, 2**-5)


def test_run_block__under_autocast_float32_tokens_keep_their_dtype() -> None:
    block, tokens = build(), torch.randn(2, 5, WIDTH)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = run_block(block, tokens)
    assert found.dtype == torch.float32
    assert_near(found, block(tokens), 2**-6)


def test_run_block__calls_every_layer_as_a_module() -> None:
    """Hooks of ZeRO-3 gather the parameters, which have the dtype of the tokens there."""
    block = build(init_values=0.3).bfloat16()
    called: set[str] = set()
    for name, layer in block.named_modules():
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
    run_block(block, torch.randn(2, 5, WIDTH).bfloat16())
    assert {name.rpartition(".")[0] for name, _ in block.named_parameters()} <= called


def numpy_quick_gelu(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The value and its derivative."""
    gate = 1 / (1 + np.exp(-1.702 * values))
    return values * gate, gate + 1.702 * values * gate * (1 - gate)


def test_quick_gelu__value_and_gradient_equal_the_formula() -> None:
    values = np.concatenate([np.linspace(-12, 12, 241), [-50.0, 50.0]])
    expected, derivative = numpy_quick_gelu(values)
    for dtype, rtol in ((torch.float64, 1e-13), (torch.float32, 2e-6)):
        leaf = torch.from_numpy(values).to(dtype).requires_grad_()
        found = quick_gelu_(leaf.clone())
        (gradient,) = torch.autograd.grad(found.sum(), leaf)
        np.testing.assert_allclose(found.detach().numpy(), expected, rtol=10 * rtol, atol=rtol)
        np.testing.assert_allclose(gradient.numpy(), derivative, rtol=10 * rtol, atol=rtol)
        assert torch.equal(leaf.detach(), torch.from_numpy(values).to(dtype)), "the input is left alone"


def test_quick_gelu__gradcheck() -> None:
    assert torch.autograd.gradcheck(
        lambda one: quick_gelu_(one.clone()), torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    )


def test_quick_gelu__bfloat16_is_as_near_the_formula_as_transformers() -> None:
    values = (2 * torch.randn(10_000)).bfloat16()
    expected, derivative = (torch.from_numpy(one) for one in numpy_quick_gelu(values.double().numpy()))
    errors = []
    for function in (lambda one: quick_gelu_(one.clone()), QuickGELUActivation()):
        leaf = values.clone().requires_grad_()
        found = function(leaf)
        assert found.dtype == torch.bfloat16
        (gradient,) = torch.autograd.grad(found.sum(), leaf)
        pairs = [(found.detach(), expected), (gradient, derivative)]
        errors.append([((one.double() - exact).norm() / exact.norm()).item() for one, exact in pairs])
    for ours, theirs in zip(*errors, strict=True):
        assert ours < 2**-8
        assert ours < 2 * theirs


def test_quick_gelu__keeps_its_input_alone_for_the_backward_pass() -> None:
    kept: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        return tensor

    hidden = torch.randn(5, requires_grad=True).clone()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        quick_gelu_(hidden)
    assert [one.data_ptr() for one in kept] == [hidden.data_ptr()]


def test_quick_gelu__compiles_to_one_graph() -> None:
    values = torch.randn(5, requires_grad=True)
    compiled = torch.compile(quick_gelu_, backend="aot_eager", fullgraph=True)(values)
    torch.testing.assert_close(compiled, quick_gelu_(values.clone()))
    pair = [torch.autograd.grad(one.sum(), values)[0] for one in (compiled, quick_gelu_(values.clone()))]
    torch.testing.assert_close(*pair)


def _norm(width: int = 64) -> nn.LayerNorm:
    norm = nn.LayerNorm(width)
    nn.init.normal_(norm.weight, 1, 0.3)
    nn.init.normal_(norm.bias)
    return norm


def numpy_norm(norm: nn.LayerNorm, tokens: Tensor) -> Tensor:
    values = tokens.detach().double().numpy()
    gain, bias = (one.detach().double().numpy() for one in (norm.weight, norm.bias))
    centred = values - values.mean(axis=-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + norm.eps)
    return torch.from_numpy(scaled * gain + bias)


def test_normalize__float32_equals_the_formula() -> None:
    norm, tokens = _norm(), torch.randn(3, 5, 64) * 3 + 2
    torch.testing.assert_close(normalize(norm, tokens).double(), numpy_norm(norm, tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_normalize__bfloat16_under_autocast_has_the_statistics_of_float32(offset: float) -> None:
    """Within one rounding to bfloat16; at 100 the values are multiples of 0.5, whose variance bfloat16 would lose.

    Gradients of gains and biases are sums over 12,800 tokens, which stop growing in bfloat16.
    """
    norm = _norm()
    tokens = (torch.randn(12_800, 64) * 3 + offset).bfloat16().requires_grad_()
    upstream = (torch.randn(12_800, 64) + 0.5).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = normalize(norm, tokens)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.double(), numpy_norm(norm, tokens), rtol=2**-8, atol=1e-4)
    gradients = torch.autograd.grad(found, [tokens, norm.weight, norm.bias], upstream)
    exact_norm, exact_tokens = _norm().double(), tokens.detach().double().requires_grad_()
    exact_norm.load_state_dict(norm.state_dict())
    exact = torch.autograd.grad(
        exact_norm(exact_tokens), [exact_tokens, exact_norm.weight, exact_norm.bias], upstream.double()
    )
    assert [one.dtype for one in gradients] == [torch.bfloat16, torch.float32, torch.float32]
    for one, expected, tolerance in zip(gradients, exact, (2**-8, 1e-5, 1e-5), strict=True):
        assert_near(one, expected, tolerance)


@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("biases", [True, False])
def test_normalize__gradients_of_what_is_trained_alone(frozen: bool, biases: bool) -> None:
    norm, tokens = nn.LayerNorm(64, bias=biases).requires_grad_(not frozen), torch.randn(6, 64).bfloat16()
    normalize(norm, tokens.requires_grad_()).sum().backward()
    assert tokens.grad is not None
    assert [one.grad is None for one in norm.parameters()] == [frozen] * (1 + biases)


def test_normalize__compiles_to_one_graph() -> None:
    norm, tokens = _norm(), torch.randn(6, 64).bfloat16()
    found = torch.compile(normalize, backend="aot_eager", fullgraph=True)(norm, tokens)
    torch.testing.assert_close(found, normalize(norm, tokens))


def test_normalize__a_model_of_bfloat16_calls_its_norm() -> None:
    norm, tokens = _norm().bfloat16(), torch.randn(6, 64).bfloat16()
    assert torch.equal(normalize(norm, tokens), norm(tokens))


def test_normalize__without_gains_and_biases() -> None:
    norm, tokens = nn.LayerNorm(64, elementwise_affine=False), (torch.randn(6, 64) * 3 + 100).bfloat16()
    found = normalize(norm, tokens)
    assert found.dtype == torch.bfloat16
    expected = F.layer_norm(tokens.double(), [64])
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=1e-4)


@pytest.mark.parametrize("norm", [nn.Identity(), nn.RMSNorm(64)], ids=["none", "RMSNorm"])
def test_normalize__other_norms_keep_the_dtype_too(norm: nn.Module) -> None:
    tokens = torch.randn(6, 64).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = normalize(norm, tokens)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found, norm(tokens.float()).bfloat16())


def test_normalize__on_other_devices_and_without_values_keeps_the_dtype() -> None:
    with FakeTensorMode():
        norm = nn.LayerNorm(64, device="cuda")
        found = normalize(norm, torch.empty(6, 64, dtype=torch.bfloat16, device="cuda"))
    assert found.dtype == torch.bfloat16
    assert found.device.type == "cuda"
    assert normalize(nn.LayerNorm(64, device="meta"), torch.empty(6, 64, device="meta")).is_meta


def test_compute_dtype__is_autocasts_or_the_weights_own() -> None:
    weights = [torch.empty(2, dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert [compute_dtype(one) for one in weights] == [torch.float32, torch.bfloat16]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [compute_dtype(one) for one in weights] == [torch.bfloat16, torch.bfloat16]
        assert compute_dtype(torch.empty(2, device="meta")) == torch.float32
        with torch.autocast("cpu", enabled=False):
            assert compute_dtype(weights[0]) == torch.float32
