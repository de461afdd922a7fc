"""Attention against torch's on one sequence or caption after the other, and against the formula in NumPy."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.attention import Attention
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from kelip_lightning.models import attention
from kelip_lightning.models.attention import CaptionPacking, attend, attend_packed, pack_captions

WRITTEN_OUT = pytest.mark.parametrize("written_out", [True, False], ids=["written out", "torch's"])
SHORT = attention._SHORT
LENGTHS = [1, 2, SHORT, SHORT + 1, 50, 77]
Compute = Callable[..., Tensor]


@contextmanager
def path_of(written_out: bool) -> Iterator[None]:
    """The code of CPUs, or that of other devices."""
    with patch.object(attention, "_written_out", return_value=written_out):
        yield


def one_sequence(query_LC: Tensor, key_LC: Tensor, value_LC: Tensor, num_heads: int, *, causal: bool = False) -> Tensor:
    """The attention of torch on one sequence without a batch, (L, C)."""
    heads = [one.view(len(one), num_heads, -1).transpose(0, 1) for one in (query_LC, key_LC, value_LC)]
    return F.scaled_dot_product_attention(*heads, is_causal=causal).transpose(0, 1).flatten(1)


def each_sequence(qkv_BLC: Tensor, num_heads: int) -> Tensor:
    return torch.stack([one_sequence(*qkv_LC.chunk(3, dim=1), num_heads) for qkv_LC in qkv_BLC])


def each_caption(
    query_NC: Tensor, key_NC: Tensor, value_NC: Tensor, num_heads: int, lengths: list[int], *, causal: bool
) -> Tensor:
    captions = zip(*(one.split(lengths) for one in (query_NC, key_NC, value_NC)), strict=True)
    return torch.cat([one_sequence(*caption, num_heads, causal=causal) for caption in captions])


def value_and_gradients(compute: Compute, inputs: list[Tensor], upstream: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Computed in a dtype, as float64."""
    leaves = [one.detach().to(dtype).requires_grad_() for one in inputs]
    value = compute(*leaves)
    assert value.dtype == dtype
    gradients = torch.autograd.grad(value, leaves, upstream.to(dtype))
    return [value.detach().double(), *(one.double() for one in gradients)]


def errors(found: list[Tensor], exact: list[Tensor]) -> list[float]:
    """Relative errors of the value and of all gradients together, whose norm no single one need have."""
    gradients = [torch.cat([one.flatten() for one in many[1:]]) for many in (found, exact)]
    pairs = [(found[0], exact[0]), (gradients[0], gradients[1])]
    return [((one - other).norm() / other.norm()).item() for one, other in pairs]


def assert_equal_to_float64(ours: Compute, reference: Compute, inputs: list[Tensor], upstream: Tensor) -> None:
    """Float32 within 1e-5 of the reference in float64."""
    found = value_and_gradients(ours, inputs, upstream, torch.float32)
    assert max(errors(found, value_and_gradients(reference, inputs, upstream, torch.float64))) < 1e-5


@WRITTEN_OUT
@given(
    batch=st.integers(1, 4),
    length=st.sampled_from(LENGTHS) | st.integers(1, 77),
    num_heads=st.integers(1, 3),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_attend__value_and_gradient_of_any_shape(
    written_out: bool, batch: int, length: int, num_heads: int, width: int, seed: int
) -> None:
    torch.manual_seed(seed)
    qkv, upstream = torch.randn(batch, length, 3 * num_heads * width), torch.randn(batch, length, num_heads * width)
    with path_of(written_out):
        assert_equal_to_float64(
            lambda one: attend(one, num_heads), lambda one: each_sequence(one, num_heads), [qkv], upstream
        )


@WRITTEN_OUT
@given(
    lengths=st.lists(st.sampled_from(LENGTHS) | st.integers(1, 77), min_size=1, max_size=5),
    padding=st.integers(0, 4),
    num_heads=st.integers(1, 3),
    causal=st.booleans(),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_attend_packed__value_and_gradients_of_captions_of_any_lengths(
    written_out: bool, lengths: list[int], padding: int, num_heads: int, causal: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    packing = pack_captions(torch.tensor(lengths), max(lengths) + padding)
    *inputs, upstream = torch.randn(4, sum(lengths), num_heads * 5)
    with path_of(written_out):
        assert_equal_to_float64(
            lambda *qkv: attend_packed(*qkv, num_heads, packing, causal=causal),
            lambda *qkv: each_caption(*qkv, num_heads, lengths, causal=causal),
            inputs,
            upstream,
        )


@WRITTEN_OUT
@pytest.mark.parametrize("length", [3, SHORT + 1])
def test_attend__gradcheck(written_out: bool, length: int) -> None:
    qkv = torch.randn(2, length, 12, dtype=torch.float64, requires_grad=True)
    with path_of(written_out):
        assert torch.autograd.gradcheck(lambda one: attend(one, 2), qkv)


@WRITTEN_OUT
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("lengths", [[3, 1, 5], [2, SHORT + 1]])
def test_attend_packed__gradcheck(written_out: bool, causal: bool, lengths: list[int]) -> None:
    packing = pack_captions(torch.tensor(lengths), max(lengths))
    qkv = [torch.randn(sum(lengths), 4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    with path_of(written_out):
        assert torch.autograd.gradcheck(lambda *one: attend_packed(*one, 2, packing, causal=causal), qkv)


@WRITTEN_OUT
def test_attend_packed__captions_do_not_mix_and_padding_is_not_read(written_out: bool) -> None:
    """NaN in one caption stays there."""
    lengths = [3, 2, 4]
    packing = pack_captions(torch.tensor(lengths), 6)
    qkv = torch.randn(3, 9, 4)
    qkv[:, 3:5] = torch.nan
    for causal in (True, False):
        with path_of(written_out):
            mixed = attend_packed(*qkv, 2, packing, causal=causal)
        assert mixed[3:5].isnan().all()
        others = torch.cat([mixed[:3], mixed[5:]])
        rest = qkv[:, [0, 1, 2, 5, 6, 7, 8]]
        torch.testing.assert_close(others, each_caption(*rest, 2, [3, 4], causal=causal))


def numpy_attention(query: np.ndarray, key: np.ndarray, value: np.ndarray, *, causal: bool) -> np.ndarray:
    """Of one head, in float64."""
    scores = query @ key.T / np.sqrt(query.shape[1])
    if causal:
        scores = np.where(np.tri(len(scores), dtype=bool), scores, -np.inf)
    shares = np.exp(scores - scores.max(axis=1, keepdims=True))
    mixed: np.ndarray = shares / shares.sum(axis=1, keepdims=True) @ value
    return mixed


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("length", [SHORT, SHORT + 1])
@pytest.mark.parametrize("sign", [1, -1, 0], ids=["large", "small", "both"])
def test_attend_packed__scores_of_ten_thousand(sign: int, length: int, causal: bool) -> None:
    """Queries and keys are integers, so that float32 scores are exact; exp of any of them overflows or is 0."""
    generator = np.random.default_rng(0)
    query, key = generator.integers(95, 105, (2, length, 16)).astype(np.float64)
    key *= np.where(generator.random((length, 1)) < 0.5, -1, 1) if sign == 0 else sign
    value = generator.standard_normal((length, 16))
    scores = query @ key.T / 4
    assert np.abs(scores).min() > 3e4
    expected = numpy_attention(query, key, value, causal=causal)
    qkv = [torch.from_numpy(one).float().requires_grad_() for one in (query, key, value)]
    mixed = attend_packed(*qkv, 1, pack_captions(torch.tensor([length]), length), causal=causal)
    torch.testing.assert_close(mixed.detach().double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-6)
    if not causal:
        packed = torch.cat([one.detach() for one in qkv], dim=1).unsqueeze(0)
        torch.testing.assert_close(attend(packed, 1)[0], mixed.detach(), rtol=1e-5, atol=1e-6)
    mixed.square().sum().backward()
    for one in qkv:
        assert one.grad is not None
        assert one.grad.isfinite().all()


def test_attend__equal_scores_average_the_values() -> None:
    """Also those that are -10,000 each."""
    for length in (SHORT, SHORT + 1):
        query, key, value = torch.full((length, 4), 100.0), torch.full((length, 4), -50.0), torch.randn(length, 4)
        mixed = attend(torch.cat([query, key, value], dim=1).unsqueeze(0), 1)[0]
        torch.testing.assert_close(mixed, value.mean(dim=0).expand(length, -1))


@pytest.mark.parametrize("length", [5, SHORT, 50, 77])
def test_attend__bfloat16_is_near_float64(length: int) -> None:
    """Inputs of variance 1: within 2**-7, and three times the error of torch's plain attention.

    That computes in float32 and rounds once; here scores and shares are rounded too.
    """
    qkv, upstream = torch.randn(8, length, 3 * 128).bfloat16(), torch.randn(8, length, 128).bfloat16()
    exact = value_and_gradients(lambda one: each_sequence(one, 4), [qkv], upstream, torch.float64)
    ours = value_and_gradients(lambda one: attend(one, 4), [qkv], upstream, torch.bfloat16)
    with sdpa_kernel(SDPBackend.MATH):
        plain = value_and_gradients(lambda one: each_sequence(one, 4), [qkv], upstream, torch.bfloat16)
    for found, others in zip(errors(ours, exact), errors(plain, exact), strict=True):
        assert found < 2**-7
        assert found < 3 * others


@pytest.mark.parametrize("scale", [1.0, 3.0], ids=["flat", "peaked"])
@pytest.mark.parametrize("length", [5, SHORT, 50, 77])
def test_attend__bfloat16_is_no_worse_than_timms_unfused_attention(length: int, scale: float) -> None:
    """That rounds the scores and computes their softmax in bfloat16."""
    qkv, upstream = scale * torch.randn(8, length, 3 * 128), torch.randn(8, length, 128)
    layer: Any = Attention(128, num_heads=4)
    layer.fused_attn, layer.qkv, layer.proj = False, nn.Identity(), nn.Identity()
    rounded = [qkv.bfloat16()], upstream.bfloat16()
    exact = value_and_gradients(lambda one: each_sequence(one, 4), *rounded, torch.float64)
    ours = value_and_gradients(lambda one: attend(one, 4), *rounded, torch.bfloat16)
    theirs = value_and_gradients(layer, *rounded, torch.bfloat16)
    for found, others in zip(errors(ours, exact), errors(theirs, exact), strict=True):
        assert found < 1.1 * others


@pytest.mark.parametrize("causal", [True, False])
def test_attend_packed__bfloat16_is_near_float64(causal: bool) -> None:
    """Bounds as of sequences of equal length."""
    lengths = [5, 77, 1, SHORT, 30]
    packing = pack_captions(torch.tensor(lengths), 77)
    *inputs, upstream = torch.randn(4, sum(lengths), 128).bfloat16()
    reference = lambda *qkv: each_caption(*qkv, 4, lengths, causal=causal)  # noqa: E731
    exact = value_and_gradients(reference, inputs, upstream, torch.float64)
    ours = value_and_gradients(
        lambda *qkv: attend_packed(*qkv, 4, packing, causal=causal), inputs, upstream, torch.bfloat16
    )
    with sdpa_kernel(SDPBackend.MATH):
        plain = value_and_gradients(reference, inputs, upstream, torch.bfloat16)
    for found, others in zip(errors(ours, exact), errors(plain, exact), strict=True):
        assert found < 2**-7
        assert found < 3 * others


@given(lengths=st.lists(st.integers(1, 9), min_size=1, max_size=6), padding=st.integers(0, 3), heads=st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_pack_captions__equals_a_loop(lengths: list[int], padding: int, heads: int) -> None:
    width = max(lengths) + padding
    for num_tokens in (None, sum(lengths)):
        packing = pack_captions(torch.tensor(lengths), width, num_tokens)
        cells = [(caption, place) for caption, length in enumerate(lengths) for place in range(length)]
        assert packing.num_captions == len(lengths)
        assert packing.width == width
        assert packing.cells_N.tolist() == [caption * width + place for caption, place in cells]
        assert packing.positions_N.tolist() == [place for _, place in cells]
        assert packing.starts.tolist() == [sum(lengths[:caption]) for caption in range(len(lengths) + 1)]
        assert packing.ends.tolist() == [sum(lengths[: caption + 1]) - 1 for caption in range(len(lengths))]
        rows = [(caption * heads + head) * width + place for caption, place in cells for head in range(heads)]
        assert packing.head_rows(heads).tolist() == rows
        for one in (packing.cells_N, packing.positions_N, packing.starts, packing.head_rows(heads)):
            assert one.dtype == torch.int64


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_attend_packed__gives_torchs_kernel_the_packed_captions(causal: bool, dtype: torch.dtype) -> None:
    """What the kernel of GPUs is asked for, on tensors without values."""
    asked: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def kernel(*arguments: Any, **options: Any) -> Tensor:
        asked.append((arguments, options))
        return arguments[0].clone()

    with FakeTensorMode(), patch.object(attention, "varlen_kernel", return_value=kernel):
        query, key, value = (torch.empty(9, 8, dtype=dtype, device="cuda") for _ in range(3))
        packing = pack_captions(torch.empty(3, dtype=torch.int64, device="cuda"), 6, 9)
        mixed = attend_packed(query, key, value, 2, packing, causal=causal)
    ((arguments, options),) = asked
    assert mixed.shape == (9, 8)
    assert [one.shape for one in arguments[:3]] == [(9, 2, 4)] * 3
    for heads, packed in zip(arguments[:3], (query, key, value), strict=True):
        assert heads._base is packed, "no copy"
    of_queries, of_keys = arguments[3:5]
    assert of_queries.dtype == of_keys.dtype == torch.int32
    assert of_queries.shape == of_keys.shape == (4,)
    assert arguments[5:] == (6, 6)
    assert options == {"window_size": (-1, 0) if causal else (-1, -1)}


def test_attend_packed__float32_on_a_gpu_takes_torchs_padded_attention() -> None:
    """The kernel takes half precision alone."""
    with FakeTensorMode(), patch.object(attention, "varlen_kernel", side_effect=AssertionError("not for float32")):
        packing = pack_captions(torch.empty(3, dtype=torch.int64, device="cuda"), 6, 9)
        query, key, value = (torch.empty(9, 8, device="cuda") for _ in range(3))
        assert attend_packed(query, key, value, 2, packing, causal=True).shape == (9, 8)


def test_varlen_kernel__the_installed_torchs_takes_these_arguments() -> None:
    """As far as shapes and dtypes go; its values need a GPU."""
    attention.varlen_kernel.cache_clear()
    assert attention.varlen_kernel() is not None
    with FakeTensorMode():
        packing = pack_captions(torch.empty(3, dtype=torch.int64, device="cuda"), 6, 9)
        query = torch.empty(9, 8, dtype=torch.bfloat16, device="cuda")
        mixed = attend_packed(query, query, query, 2, packing, causal=True)
    assert mixed.shape == (9, 8)
    assert mixed.dtype == torch.bfloat16


@pytest.mark.parametrize("signature", ["no window", "no module"])
def test_varlen_kernel__older_torch_has_none(monkeypatch: pytest.MonkeyPatch, signature: str) -> None:
    if signature == "no module":
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    else:
        monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", lambda query: query)
    attention.varlen_kernel.cache_clear()
    assert attention.varlen_kernel() is None
    attention.varlen_kernel.cache_clear()


def test_attend_packed__compiles_to_one_graph_and_its_gradients() -> None:
    lengths = [3, 1, 4]
    packing = pack_captions(torch.tensor(lengths), 5)

    def packed(query: Tensor, key: Tensor, value: Tensor, packing: CaptionPacking) -> Tensor:
        return attend_packed(query, key, value, 2, packing, causal=True)

    compiled = torch.compile(packed, backend="aot_eager", fullgraph=True)
    *inputs, upstream = torch.randn(4, 8, 6)
    assert_equal_to_float64(
        lambda *qkv: compiled(*qkv, packing),
        lambda *qkv: each_caption(*qkv, 2, lengths, causal=True),
        inputs,
        upstream,
    )
