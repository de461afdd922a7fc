"""Which operands keep the gradient of a float32 loss: halves do, single TF32 and bfloat16 numbers do not.

A GPU's tensor cores multiply 11-bit (TF32) or 8-bit (bfloat16) numbers exactly and add in float32. So does a CPU that
is given numbers of so few bits, which is how the errors here are found without a GPU.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kelip_lightning.losses import contrastive
from kelip_lightning.losses.config import ContrastiveKind, MatmulPrecision
from kelip_lightning.losses.contrastive import contrastive_loss
from kelip_lightning.losses.self_supervised import nt_xent
from kelip_lightning.losses.tiles import Products, transposed
from tests.distributed.certificate import TOLERANCE

PAIRS, WIDTH, CROPS = 256, 128, 3
CPU = torch.device("cpu")


def _rounded(matrix: Tensor, bits: int) -> Tensor:
    """To the nearest number of so many bits, the leading one included."""
    fraction, exponent = torch.frexp(matrix.double())
    return torch.ldexp(torch.round(fraction * 2**bits) / 2**bits, exponent).float()


class RoundedProducts(Products):
    """Products of operands that are rounded once, as with torch's `allow_tf32`, or in bfloat16."""

    def __init__(self, bits: int) -> None:
        super().__init__(MatmulPrecision.float32, CPU)
        self._bits = bits

    def parts(self, matrix: Tensor, *, overwrite: bool = False) -> tuple[Tensor, ...]:
        return (_rounded(matrix, self._bits),)


def _features(correlation: float) -> list[Tensor]:
    """Crops and texts of pairs; correlated ones are those of a trained model."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(PAIRS, WIDTH, generator=generator)
    noise = torch.randn(CROPS + 1, PAIRS, WIDTH, generator=generator)
    features = F.normalize(correlation * shared + (1 - correlation) * noise, dim=-1)
    return [features[:1], features[1:-1], features[-1]]


def _gradients(features: list[Tensor], scale: float, kind: ContrastiveKind, dtype: torch.dtype) -> list[Tensor]:
    leaves = [one.to(dtype, copy=True).requires_grad_() for one in features]
    factors = [torch.tensor([scale], dtype=dtype, requires_grad=True)]
    if kind is ContrastiveKind.sigmoid:
        factors.append(torch.tensor([-10.0], dtype=dtype, requires_grad=True))
    precision = MatmulPrecision.tf32x3 if dtype is torch.float32 else MatmulPrecision.float32
    contrastive_loss(*leaves, *factors, kind=kind, max_logits_per_pair=100, matmul_precision=precision).total.backward()
    return [one.grad for one in [*leaves, *factors] if one.grad is not None]


def _error(features: list[Tensor], scale: float, kind: ContrastiveKind) -> float:
    """The largest relative error of a gradient in norm, as the certificate's, against float64."""
    found = _gradients(features, scale, kind, torch.float32)
    expected = _gradients(features, scale, kind, torch.float64)
    return max(float((one - other).norm() / other.norm()) for one, other in zip(found, expected, strict=True))


def _replace(monkeypatch: pytest.MonkeyPatch, products: Callable[..., Products]) -> None:
    double = Products(MatmulPrecision.float32, CPU)
    monkeypatch.setattr(
        contrastive, "Products", lambda asked, _: products() if asked is MatmulPrecision.tf32x3 else double
    )


CASES = [(0.2, 14.3), (0.2, 100.0), (0.6, 14.3), (0.4, 100.0)]


@pytest.mark.parametrize("kind", list(ContrastiveKind))
@pytest.mark.parametrize(("correlation", "scale"), CASES)
def test_gradient__halves_hold_the_certificates_bound(correlation: float, scale: float, kind: ContrastiveKind) -> None:
    assert _error(_features(correlation), scale, kind) < TOLERANCE / 3


@pytest.mark.parametrize("kind", list(ContrastiveKind))
@pytest.mark.parametrize("bits", [11, 8])
def test_gradient__operands_rounded_once_break_the_bound(
    bits: int, kind: ContrastiveKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or TF32 and bfloat16 operands would do, in one product instead of three."""
    _replace(monkeypatch, lambda: RoundedProducts(bits))
    assert min(_error(_features(correlation), scale, kind) for correlation, scale in CASES) > 20 * TOLERANCE


def test_nt_xent__halves_hold_the_certificates_bound() -> None:
    views = torch.stack(_features(0.6)[1].unbind()[:2])
    gradients = []
    for precision, dtype in ((MatmulPrecision.tf32x3, torch.float32), (MatmulPrecision.float32, torch.float64)):
        leaf = views.to(dtype, copy=True).requires_grad_()
        nt_xent(leaf, 0.1, max_logits_per_pair=100, matmul_precision=precision).backward()
        assert leaf.grad is not None
        gradients.append(leaf.grad)
    assert (gradients[0] - gradients[1]).norm() / gradients[1].norm() < TOLERANCE / 3


@pytest.mark.parametrize("overwrite", [False, True])
def test_parts__are_tf32_numbers_that_sum_to_the_matrix(overwrite: bool) -> None:
    matrix = torch.randn(50, 40) * 10.0 ** torch.randint(-10, 10, (50, 40))
    before = matrix.clone()
    high, low = Products(MatmulPrecision.tf32x3, CPU).parts(matrix, overwrite=overwrite)
    for one in (high, low):
        assert torch.equal(_rounded(one, 11), one), "11 bits are all it has"
    assert ((high.double() + low.double() - before.double()).abs() <= 2**-20 * before.abs()).all()
    assert (low.data_ptr() == matrix.data_ptr()) is overwrite
    assert overwrite or torch.equal(matrix, before)


def test_multiply__numbers_that_are_not_finite_stay_so() -> None:
    """Whatever the bits of a NaN are, CUDA's among them."""
    nans = torch.tensor([0x7FFFFFFF, 0x7F800001, 0x7FC00000, -1], dtype=torch.int32).view(torch.float32)
    products = Products(MatmulPrecision.tf32x3, CPU)
    for value in (*nans, torch.tensor(torch.inf)):
        matrix = torch.eye(3).masked_fill_(torch.eye(3).bool(), value)
        product = products.multiply(products.parts(matrix), products.parts(torch.ones(3, 2)))
        assert not torch.isfinite(product).any()


def test_multiply_and_add__equal_float64() -> None:
    left, right, total = torch.randn(70, 30), torch.randn(70, 20), torch.randn(30, 20)
    products = Products(MatmulPrecision.tf32x3, CPU)
    parts = transposed(products.parts(left)), products.parts(right)
    expected = left.T.double() @ right.double()
    # Relative to the sum of all products' sizes, of which float32 itself loses some 1e-7.
    allowed = 1e-6 * (left.T.abs() @ right.abs()).double()
    assert ((products.multiply(*parts).double() - expected).abs() <= allowed).all()
    before = total.clone()
    products.add(total, *parts)
    assert ((total.double() - before.double() - expected).abs() <= allowed + 1e-6 * before.abs()).all()


def test_auto__is_float32_on_a_cpu_bit_for_bit() -> None:
    features = _features(0.6)
    losses = [
        contrastive_loss(
            *features, torch.tensor([14.3]), kind=ContrastiveKind.info_nce, matmul_precision=precision
        ).total
        for precision in (MatmulPrecision.auto, MatmulPrecision.float32)
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize(
    ("precision", "expected"), [(MatmulPrecision.tf32x3, "tf32"), (MatmulPrecision.float32, "ieee")]
)
def test_switch__is_set_for_the_product_alone_on_cuda(
    precision: MatmulPrecision, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tensors of this test are on the CPU, the products believe them on a GPU."""
    switch = torch.backends.cuda.matmul
    before, seen = switch.fp32_precision, []
    products = Products(precision, torch.device("cuda"))
    addmm = torch.Tensor.addmm_

    def noted(self: Tensor, *arguments: Tensor) -> Tensor:
        seen.append(switch.fp32_precision)
        return addmm(self, *arguments)

    monkeypatch.setattr(torch.Tensor, "addmm_", noted)
    products.add(torch.zeros(2, 2), products.parts(torch.eye(2)), products.parts(torch.eye(2)))
    assert set(seen) == {expected}
    assert switch.fp32_precision == before
