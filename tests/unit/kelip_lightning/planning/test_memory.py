"""Memory against the ZeRO paper's metrics, real optimizers, and what autograd really keeps."""

from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment
from kelip_lightning.losses.contrastive import ContrastiveKind, contrastive_loss
from kelip_lightning.losses.tiles import MatmulPrecision
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.image_encoder import Activation
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoder
from kelip_lightning.optim.optimizers import OptimizerConfig, OptimizerName, build_optimizer
from kelip_lightning.planning.memory import (
    Numbers,
    ParameterCounts,
    activation_bytes,
    block_bytes,
    count_state,
    loss_memory,
    numbers_of,
    state_memory,
)
from kelip_lightning.planning.passes import Pass, passes_of

Contrastive = Callable[..., ContrastiveExperiment]

MEDIUM: dict[str, Any] = {
    "image": {"width": 192, "depth": 4, "num_heads": 4},
    "text": {"width": 128, "depth": 4, "num_heads": 4},
    "embed_dim": 64,
    "vocab_size": 1000,
}


def kept_bytes(forward: Callable[[], object], constant: Iterable[Tensor]) -> int:
    """Bytes of the storages that autograd keeps for a backward pass, those of `constant` left out."""
    known = {one.untyped_storage().data_ptr() for one in constant}
    storages: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage
        return tensor

    # Fused attention, as on a GPU; the result is held so that no storage is freed and its address used again.
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        result = forward()
    total = sum(one.nbytes() for one in storages.values())
    del result
    return total


def cast_weights(model: nn.Module) -> int:
    """Bytes of autocast's bfloat16 copies of the weights, which count as the model's state."""
    return 2 * sum(one.weight.numel() for one in model.modules() if isinstance(one, nn.Linear | nn.Conv2d))


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_activation_bytes__are_what_autograd_keeps(
    precision: str,
    activation: str,
    contrastive: Contrastive,
    dual_encoder: Callable[[ContrastiveExperiment], DualEncoder],
    pairs: Callable[[ContrastiveExperiment, int], tuple[Tensor, Tensor, Tensor]],
) -> None:
    kind = {"activation": Activation[activation]}
    sections = MEDIUM | {"image": MEDIUM["image"] | kind, "text": MEDIUM["text"] | kind}
    stage = contrastive(**sections, transform={"num_global_crops": 2, "num_local_crops": 3})
    model, batch, numbers = dual_encoder(stage), 16, numbers_of(precision, "ddp")
    crops = pairs(stage, batch)

    def forward() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=numbers.autocast):
            return model(*crops)

    kept = kept_bytes(forward, model.parameters()) - (cast_weights(model) if numbers.autocast else 0)
    planned = activation_bytes(passes_of(stage), batch, numbers, checkpointing=False)
    assert planned == pytest.approx(kept, rel=0.05)
    assert 2 * count_state(stage).matrices == cast_weights(model)


def test_activation_bytes__of_the_mae_pretraining(
    masked: Callable[..., MaskedPretrainExperiment],
    autoencoder: Callable[[MaskedPretrainExperiment], MaskedAutoencoder],
) -> None:
    stage = masked(MEDIUM["image"], {"decoder_width": 128, "decoder_depth": 3, "decoder_num_heads": 4})
    model, batch, numbers = autoencoder(stage), 16, numbers_of("32-true", "ddp")
    images, noise = torch.randn(batch, 3, 224, 224), torch.rand(batch, 49)
    kept = kept_bytes(lambda: model(images, noise), model.parameters())
    planned = activation_bytes(passes_of(stage), batch, numbers, checkpointing=False)
    assert planned == pytest.approx(kept, rel=0.05)


def test_activation_bytes__checkpointing_keeps_inputs_and_one_block() -> None:
    small = Pass(name="a", times=2, tokens=10, width=8, hidden=32, depth=3, outer_flops=0, input_values=100)
    large = Pass(name="b", times=1, tokens=70, width=8, hidden=32, depth=2, outer_flops=0)
    numbers = Numbers(values=2, residual=4, autocast=True)
    assert block_bytes(large, numbers) == 2 * 8 * 4 + (2 + 4) * 8 * 2 + 2 * 32 * 2
    inputs = 5 * (2 * 10 * 8 * 4 * 3 + 70 * 8 * 4 * 2)
    expected = inputs + 5 * 70 * block_bytes(large, numbers) + 5 * 2 * 100 * 2
    assert activation_bytes([small, large], 5, numbers, checkpointing=True) == expected


@pytest.mark.parametrize(("stage", "gigabytes"), [(1, 31.4), (2, 16.6), (3, 1.9)])
def test_state_memory__is_that_of_the_zero_paper(stage: int, gigabytes: float) -> None:
    """Rajbhandari et al. 2020 (arXiv:1910.02054), fig. 1: 7.5 billion parameters on 64 devices."""
    counts = ParameterCounts(all=7_500_000_000, matrices=7_500_000_000, one_moment=0)
    state = state_memory(counts, f"deepspeed_stage_{stage}", "bf16-mixed", 64)
    assert round((state.weights + state.gradients + state.optimizer) / 1e9, 1) == gigabytes


@pytest.mark.parametrize("name", list(OptimizerName))
def test_state_memory__is_that_of_a_real_optimizer(
    name: OptimizerName, contrastive: Contrastive, dual_encoder: Callable[[ContrastiveExperiment], DualEncoder]
) -> None:
    stage = contrastive(**MEDIUM)
    stage.optimizer = OptimizerConfig(name=name)
    model = dual_encoder(stage)
    optimizer = build_optimizer(model, stage.optimizer)
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    moments = [one for state in optimizer.state.values() for one in state.values() if torch.is_tensor(one)]
    state = state_memory(count_state(stage), "auto", "32-true", num_ranks=1)
    assert state.weights == state.gradients == sum(one.nbytes for one in model.parameters())
    assert state.optimizer == sum(one.nbytes for one in moments if one.ndim)  # step counters left out
    assert state.buffers == 0
    assert state.total == 2 * state.weights + state.optimizer


def test_state_memory__by_precision_and_ranks() -> None:
    counts = ParameterCounts(all=1000, matrices=900, one_moment=0)
    mixed = state_memory(counts, "ddp", "bf16-mixed", 2)
    assert (mixed.weights, mixed.optimizer, mixed.buffers) == (4000, 8000, 4000 + 1800)
    averaged = state_memory(counts, "ddp", "bf16-mixed", 2, averaged=True)
    assert averaged.total - mixed.total == averaged.optimizer - mixed.optimizer == 4 * counts.all
    true = state_memory(counts, "ddp", "bf16-true", 2)
    assert (true.weights, true.optimizer, true.buffers) == (2000, 4000, 2000)
    assert numbers_of("bf16-mixed", "deepspeed_stage_2") == numbers_of("bf16-true", "ddp")


class TensorsMade(TorchDispatchMode):
    """Number of values of every tensor that is made inside, views and results in place left out."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        known = {one.untyped_storage().data_ptr() for one in args if isinstance(one, Tensor)}
        if isinstance(result, Tensor) and result.untyped_storage().data_ptr() not in known:
            self.sizes.append(result.numel())
        return result


@pytest.mark.parametrize("precision", [MatmulPrecision.float32, MatmulPrecision.tf32x3])
@pytest.mark.parametrize("tile", [None, 64])
@pytest.mark.parametrize("kind", list(ContrastiveKind))
def test_loss_memory__is_what_the_loss_makes(
    kind: ContrastiveKind, tile: int | None, precision: MatmulPrecision
) -> None:
    batch, embed_dim, num_crops = 256, 16, 5
    features = [F.normalize(torch.randn(n, batch, embed_dim), dim=-1).requires_grad_() for n in (2, 3, 1)]
    factors = [torch.tensor([10.0], requires_grad=True)]
    if kind is ContrastiveKind.sigmoid:
        factors.append(torch.tensor([-10.0], requires_grad=True))

    def loss() -> Tensor:
        return contrastive_loss(
            features[0],
            features[1],
            features[2][0],
            *factors,
            kind=kind,
            max_logits_per_pair=tile,
            matmul_precision=precision,
        ).total

    with TensorsMade() as made:
        loss().backward()
    planned = loss_memory(
        kind,
        batch_size=batch,
        negatives=batch,
        num_crops=num_crops,
        embed_dim=embed_dim,
        tile=64,
        precision=precision,
    )
    matrix = batch * (tile or batch)
    assert max(made.sizes) == max(matrix, num_crops * batch * embed_dim)
    num_tiles = batch * batch // matrix * num_crops * (1 if kind is ContrastiveKind.sigmoid else 2)
    # The copy that the sigmoid loss makes is gone before its gradient is taken in halves.
    gone = num_tiles * (kind is ContrastiveKind.sigmoid and precision is MatmulPrecision.tf32x3)
    held = num_tiles * (planned.full if tile is None else planned.tiled) // (4 * matrix)
    assert made.sizes.count(matrix) == held + gone
    assert kept_bytes(loss, [*features, *factors]) < planned.features
    halves = precision is MatmulPrecision.tf32x3
    assert planned.features == 2 * (num_crops + 1 + halves) * batch * embed_dim * 4
