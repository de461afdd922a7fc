"""The plan's groups are those of the optimizer that a run builds."""

from collections.abc import Callable

import pytest

from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.self_supervision import SelfSupervisionConfig, SelfSupervisionMethod
from kelip_lightning.optim.optimizers import OptimizerConfig, OptimizerName, build_optimizer
from kelip_lightning.planning.groups import planned_groups

Contrastive = Callable[..., ContrastiveExperiment]


@pytest.mark.parametrize("name", list(OptimizerName))
def test_planned_groups__sum_to_those_of_a_real_optimizer(
    name: OptimizerName, contrastive: Contrastive, dual_encoder: Callable[[ContrastiveExperiment], DualEncoder]
) -> None:
    stage = contrastive()
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
    stage = contrastive()
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
    stage = contrastive()
    stage.self_supervision = SelfSupervisionConfig(
        method=SelfSupervisionMethod.byol, projection_width=8, projection_dim=4
    )
    (matrices,) = (one for one in planned_groups(stage) if one.part == "self_supervision" and one.weight_decay)
    assert matrices.parameters == stage.image_encoder.width * 8 + 8 * 4 + 4 * 8 + 8 * 4


def test_planned_groups__mae_pretraining(masked: Callable[..., MaskedPretrainExperiment]) -> None:
    assert {one.part for one in planned_groups(masked())} == {"image_encoder", "decoder"}
