"""Memory and parameter groups against the ZeRO paper, real optimizers, and what autograd saves."""

from collections.abc import Callable, Iterable
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment
from kelip_lightning.losses.config import ContrastiveKind, MatmulPrecision
from kelip_lightning.losses.contrastive import contrastive_loss
from kelip_lightning.models.config import Activation, SelfSupervisionConfig, SelfSupervisionMethod
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoder
from kelip_lightning.optim.config import OptimizerConfig, OptimizerName
from kelip_lightning.optim.optimizers import build_optimizer
from kelip_lightning.planning.flops import Pass, passes_of
from kelip_lightning.planning.memory import (
    ElementSizes,
    ParameterCounts,
    activation_bytes,
    block_bytes,
    count_state,
    element_sizes,
    loss_memory,
    planned_groups,
    state_memory,
)

Contrastive = Callable[..., ContrastiveExperiment]
Masked = Callable[..., MaskedPretrainExperiment]
BuildModel = Callable[[ContrastiveExperiment], DualEncoder]

MEDIUM: dict[str, Any] = {
    "image": {"width": 192, "depth": 4, "num_heads": 4},
    "text": {"width": 128, "depth": 4, "num_heads": 4},
    "embed_dim": 64,
    "vocab_size": 1000,
}


def kept_bytes(forward: Callable[[], object], constant: Iterable[Tensor]) -> int:
    """Bytes of the storages that autograd saves for a backward pass, without those of `constant`."""
    known = {one.untyped_storage().data_ptr() for one in constant}
    storages: dict[int, torch.UntypedStorage] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            storages[storage.data_ptr()] = storage
        return tensor

    # Fused attention, as on a GPU. The result stays alive: the address of a freed storage could be used again.
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        sdpa_kernel(SDPBackend.FLASH_ATTENTION),
        patch("kelip_lightning.models.attention._written_out", return_value=False),
    ):
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
    dual_encoder: BuildModel,
    pairs: Callable[[ContrastiveExperiment, int], tuple[Tensor, Tensor, Tensor]],
) -> None:
    kind = {"activation": Activation[activation]}
    sections = MEDIUM | {"image": MEDIUM["image"] | kind, "text": MEDIUM["text"] | kind}
    stage = contrastive(**sections, transform={"num_global_crops": 2, "num_local_crops": 3})
    model, batch, sizes = dual_encoder(stage), 16, element_sizes(precision, "ddp")
    crops = pairs(stage, batch)

    def forward() -> object:
        with torch.autocast("cpu", torch.bfloat16, enabled=sizes.autocast):
            return model(*crops)

    kept = kept_bytes(forward, model.parameters()) - (cast_weights(model) if sizes.autocast else 0)
    planned = activation_bytes(passes_of(stage), batch, sizes, checkpointing=False)
    assert planned == pytest.approx(kept, rel=0.05)
    assert 2 * count_state(stage).matrices == cast_weights(model)


def test_activation_bytes__of_the_mae_pretraining(
    masked: Masked,
    autoencoder: Callable[[MaskedPretrainExperiment], MaskedAutoencoder],
) -> None:
    stage = masked(MEDIUM["image"], {"decoder_width": 128, "decoder_depth": 3, "decoder_num_heads": 4})
    model, batch, sizes = autoencoder(stage), 16, element_sizes("32-true", "ddp")
    images, noise = torch.randn(batch, 3, 224, 224), torch.rand(batch, 49)
    kept = kept_bytes(lambda: model(images, noise), model.parameters())
    planned = activation_bytes(passes_of(stage), batch, sizes, checkpointing=False)
    assert planned == pytest.approx(kept, rel=0.05)


def test_activation_bytes__checkpointing_keeps_inputs_and_one_block() -> None:
    """Of 5 samples: 1,600 float32 values of inputs each, the larger block's 70 tokens of 288 bytes, 200 of images."""
    small = Pass(name="a", times=2, tokens=10, width=8, hidden=32, depth=3, input_values=400, patch_values=100)
    large = Pass(name="b", times=1, tokens=70, width=8, hidden=32, depth=2)
    sizes = ElementSizes(values=2, residual=4, autocast=True)
    assert block_bytes(large, sizes) == 288
    expected = 5 * (1600 * 4 + 70 * 288 + 200 * 2)
    assert activation_bytes([small, large], 5, sizes, checkpointing=True) == expected


@pytest.mark.parametrize(("stage", "gigabytes"), [(1, 31.4), (2, 16.6), (3, 1.9)])
def test_state_memory__is_that_of_the_zero_paper(stage: int, gigabytes: float) -> None:
    """Rajbhandari et al. 2020 (arXiv:1910.02054), fig. 1: 7.5 billion parameters on 64 devices."""
    counts = ParameterCounts(all=7_500_000_000, matrices=7_500_000_000, one_moment=0)
    state = state_memory(counts, f"deepspeed_stage_{stage}", "bf16-mixed", 64)
    assert round((state.weights + state.gradients + state.optimizer) / 1e9, 1) == gigabytes


@pytest.mark.parametrize("name", list(OptimizerName))
def test_state_memory__is_that_of_a_real_optimizer(
    name: OptimizerName, contrastive: Contrastive, dual_encoder: BuildModel
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
    assert element_sizes("bf16-mixed", "deepspeed_stage_2") == element_sizes("bf16-true", "ddp")


class TensorsMade(TorchDispatchMode):
    """Sizes of all new tensors, without views and results in place."""

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
    planned = loss_memory(kind, batch, batch, num_crops=num_crops, embed_dim=embed_dim, tile=64, precision=precision)
    matrix = batch * (tile or batch)
    assert max(made.sizes) == max(matrix, num_crops * batch * embed_dim)
    num_tiles = batch * batch // matrix * num_crops * (1 if kind is ContrastiveKind.sigmoid else 2)
    # The copy that the sigmoid loss makes is freed before its gradient is split.
    gone = num_tiles * (kind is ContrastiveKind.sigmoid and precision is MatmulPrecision.tf32x3)
    held = num_tiles * (planned.full if tile is None else planned.tiled) // (4 * matrix)
    assert made.sizes.count(matrix) == held + gone
    assert kept_bytes(loss, [*features, *factors]) < planned.features
    halves = precision is MatmulPrecision.tf32x3
    assert planned.features == 2 * (num_crops + 1 + halves) * batch * embed_dim * 4


@pytest.mark.parametrize("name", list(OptimizerName))
def test_planned_groups__sum_to_those_of_a_real_optimizer(
    name: OptimizerName, contrastive: Contrastive, dual_encoder: BuildModel
) -> None:
    stage = contrastive(**MEDIUM)
    stage.optimizer = OptimizerConfig(name=name, weight_decay=0.1, layer_decay=0.5)
    found: dict[tuple[float, bool], int] = {}
    for one in planned_groups(stage):
        key = one.weight_decay, one.optimizer == "muon"
        found[key] = found.get(key, 0) + one.parameters
    expected: dict[tuple[float, bool], int] = {}
    for group in build_optimizer(dual_encoder(stage), stage.optimizer).param_groups:
        key = group["weight_decay"], not group.get("use_fallback", True)
        expected[key] = expected.get(key, 0) + sum(one.numel() for one in group["params"])
    assert found == expected


def test_planned_groups__layer_decay_and_locks(contrastive: Contrastive) -> None:
    stage = contrastive(**MEDIUM)
    stage.optimizer = OptimizerConfig(learning_rate=0.1, layer_decay=0.5)
    stage.init.lock_text_encoder = True
    groups = {(one.part, one.role): one for one in planned_groups(stage)}
    assert {part for part, _ in groups} == {"image_encoder", "image_projection", "text_projection", "logit_scale"}
    blocks = groups["image_encoder", "block matrices"]
    assert blocks.learning_rates == pytest.approx((0.1 * 0.5**stage.image_encoder.depth, 0.05))
    assert blocks.names == [
        f"image_encoder.vit.blocks.*.{name}.weight" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
    ]
    assert blocks.tensors == 4 * stage.image_encoder.depth


def test_planned_groups__heads_without_the_target(contrastive: Contrastive) -> None:
    stage = contrastive(**MEDIUM)
    stage.self_supervision = SelfSupervisionConfig(
        method=SelfSupervisionMethod.byol, projection_width=8, projection_dim=4
    )
    (matrices,) = (one for one in planned_groups(stage) if one.part == "self_supervision" and one.weight_decay)
    assert matrices.parameters == stage.image_encoder.width * 8 + 8 * 4 + 4 * 8 + 8 * 4


def test_planned_groups__mae_pretraining(masked: Masked) -> None:
    assert {one.part for one in planned_groups(masked())} == {"image_encoder", "decoder"}
