"""Heads and the moving average beside a tiny model."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from kelip_lightning.models.config import SelfSupervisionConfig, SelfSupervisionMethod
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.self_supervision import ByolBranch, build_branch
from kelip_lightning.optim.config import OptimizerConfig, OptimizerName
from kelip_lightning.optim.optimizers import parameter_groups

TinyDualEncoder = Callable[..., DualEncoder]


def _config(method: SelfSupervisionMethod, **options: Any) -> SelfSupervisionConfig:
    return SelfSupervisionConfig(method=method, projection_width=12, projection_dim=6, **options)


def _views() -> torch.Tensor:
    return torch.randn(2, 3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_build_branch__none(tiny_dual_encoder: TinyDualEncoder) -> None:
    assert build_branch(tiny_dual_encoder().image_encoder, SelfSupervisionConfig()) is None


def test_forward__each_view_with_draws_of_its_own(tiny_dual_encoder: TinyDualEncoder) -> None:
    encoder = tiny_dual_encoder({"patch_drop_rate": 0.5}).image_encoder
    branch = build_branch(encoder, _config(SelfSupervisionMethod.simclr))
    assert branch is not None
    seeds, same = torch.arange(3), _views()[:1].expand(2, -1, -1, -1, -1)
    found = branch(encoder, same, seeds, 4)
    assert found.shape == (2, 3, 6)
    assert not torch.allclose(found[0], found[1]), "the same picture, other patches"
    torch.testing.assert_close(branch(encoder, same, seeds, 3)[1], found[0], msg="views are numbered among all crops")


def test_byol__target_starts_from_the_weights_and_follows_them(tiny_dual_encoder: TinyDualEncoder) -> None:
    encoder = tiny_dual_encoder().image_encoder
    branch = build_branch(encoder, _config(SelfSupervisionMethod.byol))
    assert isinstance(branch, ByolBranch)
    views = _views()
    projections = branch.head(encoder(views.flatten(0, 1))).view(2, 3, 6)
    torch.testing.assert_close(branch.targets(views), projections)
    before = [one.clone() for one in (*branch.target_encoder.parameters(), *branch.target_head.parameters())]
    trained = [*encoder.parameters(), *branch.head.parameters()]
    for one in trained:
        one.data += torch.randn_like(one)
    branch.update_targets(encoder, 0.9)
    after = [*branch.target_encoder.parameters(), *branch.target_head.parameters()]
    assert len(after) == len(trained)
    for old, new, weights in zip(before, after, trained, strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * weights)


@pytest.mark.parametrize("name", [OptimizerName.adamw, OptimizerName.muon])
def test_byol__the_optimizer_has_the_heads_at_the_full_rate_and_not_the_target(
    tiny_dual_encoder: TinyDualEncoder, name: OptimizerName
) -> None:
    model = tiny_dual_encoder()
    branch = build_branch(model.image_encoder, _config(SelfSupervisionMethod.byol))
    assert isinstance(branch, ByolBranch)
    whole = torch.nn.ModuleDict({"model": model, "self_supervision": branch})
    groups = parameter_groups(whole, OptimizerConfig(name=name, layer_decay=0.5))
    rate_of = {id(one): group["lr"] for group in groups for one in group["params"]}
    decay_of = {id(one): group["weight_decay"] for group in groups for one in group["params"]}
    for one in (*branch.head.parameters(), *branch.predictor.parameters()):
        assert rate_of[id(one)] == OptimizerConfig().learning_rate
        assert (decay_of[id(one)] > 0) == (one.ndim == 2)
    assert all(
        id(one) not in rate_of for one in (*branch.target_encoder.parameters(), *branch.target_head.parameters())
    )
    assert len(rate_of) == len([one for one in whole.parameters() if one.requires_grad])
