"""Which parameter decays and which Muon drives, by name on the real models, and one step by formula."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.masked_autoencoder import MaskedAutoencoder
from kelip_lightning.optim.optimizers import (
    OptimizerConfig,
    OptimizerName,
    build_optimizer,
    parameter_groups,
)

VIT_BLOCK = ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")
TEXT_BLOCK = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1", "mlp.fc2")


def _vit_matrices(prefix: str, depth: int) -> set[str]:
    return {f"{prefix}blocks.{block}.{name}.weight" for block in range(depth) for name in VIT_BLOCK}


def _partition(model: nn.Module, config: OptimizerConfig) -> dict[tuple[float, bool], set[str]]:
    """(weight decay, Muon) -> names."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups: dict[tuple[float, bool], set[str]] = {}
    for group in parameter_groups(model, config):
        key = group["weight_decay"], not group.get("use_fallback", True)
        assert key not in groups
        groups[key] = {names[id(parameter)] for parameter in group["params"]}
    assert sum(map(len, groups.values())) == len(names), "every parameter once"
    return groups


def _text_matrices(model: nn.Module) -> set[str]:
    block = "|".join(map(re.escape, TEXT_BLOCK))
    pattern = re.compile(rf"text_encoder\.clip\.(text_model\.)?encoder\.layers\.\d\.({block})\.weight")
    found = {name for name, _ in model.named_parameters() if pattern.fullmatch(name)}
    assert len(found) == 2 * len(TEXT_BLOCK)
    return found


@pytest.mark.parametrize("name", list(OptimizerName))
def test_parameter_groups__dual_encoder(tiny_dual_encoder: Callable[..., DualEncoder], name: OptimizerName) -> None:
    model = tiny_dual_encoder()
    groups = _partition(model, OptimizerConfig(name=name, weight_decay=0.1))
    hidden = _vit_matrices("image_encoder.vit.", 2) | _text_matrices(model)
    ends = {"image_encoder.vit.patch_embed.proj.weight", "image_projection.weight", "text_projection.weight"}
    still = {parameter for parameter, _ in model.named_parameters()} - hidden - ends
    if name is OptimizerName.muon:
        assert groups == {(0.0, False): still, (0.1, False): ends, (0.1, True): hidden}
    else:
        assert groups == {(0.0, False): still, (0.1, False): hidden | ends}
    matrices = {n for n, p in model.named_parameters() if n in still and p.ndim > 1}
    assert {n.rsplit(".", 2)[-2] if n.endswith("weight") else n.rsplit(".", 1)[-1] for n in matrices} == {
        "token_embedding",
        "position_embedding",
        "cls_token",
        "pos_embed",
    }
    assert "logit_scale" in still


def test_parameter_groups__masked_autoencoder(tiny_autoencoder: Callable[..., MaskedAutoencoder]) -> None:
    model = tiny_autoencoder()
    groups = _partition(model, OptimizerConfig(name=OptimizerName.muon, weight_decay=0.1))
    hidden = _vit_matrices("encoder.vit.", 2) | _vit_matrices("decoder_", 1)
    ends = {"encoder.vit.patch_embed.proj.weight", "decoder_embed.weight", "decoder_pixels.weight"}
    still = {parameter for parameter, _ in model.named_parameters()} - hidden - ends
    assert groups == {(0.0, False): still, (0.1, False): ends, (0.1, True): hidden}
    assert {"mask_token", "encoder.vit.cls_token", "encoder.vit.pos_embed", "decoder_norm.weight"} <= still


def test_parameter_groups__a_prefix_changes_nothing(tiny_dual_encoder: Callable[..., DualEncoder]) -> None:
    model, config = tiny_dual_encoder(), OptimizerConfig(name=OptimizerName.muon)
    wrapped = _partition(nn.ModuleDict({"model": model}), config)
    assert wrapped == {key: {f"model.{name}" for name in names} for key, names in _partition(model, config).items()}


def test_parameter_groups__frozen_parameters_are_left_out() -> None:
    model = nn.Linear(3, 2)
    model.weight.requires_grad = False
    groups = parameter_groups(model, OptimizerConfig())
    assert [len(group["params"]) for group in groups] == [1]
    assert groups[0]["params"][0] is model.bias


def test_build_optimizer__adamw_first_step_by_formula() -> None:
    model = nn.Linear(3, 2)
    config = OptimizerConfig(learning_rate=0.1, weight_decay=0.5, beta1=0.8, beta2=0.9, eps=1e-3)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model(torch.randn(4, 3)).square().sum().backward()
    build_optimizer(model, config).step()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad
        assert gradient is not None
        # After one step the bias-corrected moments are the gradient and its square.
        decayed = before[name] * (1 - 0.1 * (0.5 if name == "weight" else 0.0))
        torch.testing.assert_close(parameter.detach(), decayed - 0.1 * gradient / (gradient.abs() + 1e-3))


class _Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.into, self.out_of = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.out_of(self.into(x).relu())
        return result


def test_build_optimizer__muon_orthogonalises_hidden_matrices_and_nadamw_drives_the_rest() -> None:
    model = nn.ModuleDict({"trunk": nn.Sequential(_Block()), "head": nn.Linear(8, 2)})
    config = OptimizerConfig(
        name=OptimizerName.muon, learning_rate=0.1, weight_decay=0.0, beta1=0.8, beta2=0.9, eps=0.5
    )
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model["head"](model["trunk"](torch.randn(64, 8))).square().mean().backward()
    build_optimizer(model, config).step()
    after = dict(model.named_parameters())
    update = (before["trunk.0.out_of.weight"] - after["trunk.0.out_of.weight"].detach()) / 0.1
    singular = torch.linalg.svdvals(update / (0.2 * 8**0.5))
    nonzero = singular[:2]
    assert ((nonzero > 0.6) & (nonzero < 1.3)).all(), "Newton–Schulz brings singular values near one"
    gradient = after["head.weight"].grad
    assert gradient is not None
    # NAdamW looks ahead by one more gradient: after one step (1 + beta1) times AdamW's.
    expected = before["head.weight"] - 0.1 * 1.8 * gradient / (gradient.abs() + 0.5)
    torch.testing.assert_close(after["head.weight"].detach(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", list(OptimizerName))
def test_build_optimizer__a_step_stops_at_the_bound_and_only_there(name: OptimizerName, dtype: torch.dtype) -> None:
    model = nn.ParameterDict({"bounded": torch.zeros(1), "free": torch.zeros(1)}).to(dtype)
    config, bound = OptimizerConfig(name=name, learning_rate=0.4, beta1=0.0), math.log(20)
    optimizer = build_optimizer(model, config, {"bounded": bound})
    for _ in range(20):
        optimizer.zero_grad()
        (-model["bounded"] - model["free"]).backward()
        optimizer.step()
    assert model["bounded"].item() <= bound, "not even by rounding"
    assert model["bounded"].item() == pytest.approx(bound, rel=1e-6 if dtype is torch.float32 else 2**-8)
    assert model["free"].item() > 2 * bound
    optimizer.zero_grad()
    model["bounded"].square().backward()
    optimizer.step()
    assert model["bounded"].item() < 0.95 * bound


def test_build_optimizer__a_restored_optimizer_has_its_bound() -> None:
    model, bounds = nn.ParameterDict({"bounded": torch.zeros(1)}), {"bounded": 0.5}
    state = build_optimizer(model, OptimizerConfig(), bounds).state_dict()
    again = build_optimizer(model, OptimizerConfig(learning_rate=1.0), bounds)
    again.load_state_dict(state)
    model["bounded"].data.fill_(3.0)
    model["bounded"].sum().backward()
    again.step()
    assert model["bounded"].item() == 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate = 0.0 must be above 0"),
        ({"weight_decay": -0.1}, "weight_decay = -0.1 must be at least 0"),
        ({"beta2": 1.0}, r"beta2 = 1.0 must be in \[0, 1\)"),
        ({"gradient_clip_norm": 0.0}, "gradient_clip_norm = 0.0 must be above 0 or null"),
    ],
)
def test_optimizer_config__bad_values(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        OptimizerConfig(**options)


def test_build_optimizer__layer_decay_lowers_the_rate_block_by_block(
    tiny_dual_encoder: Callable[..., DualEncoder],
) -> None:
    model = tiny_dual_encoder()
    optimizer = build_optimizer(model, OptimizerConfig(learning_rate=0.1, layer_decay=0.5))
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    blocks = [rates[id(block.mlp.fc1.weight)] for block in model.image_encoder.vit.blocks]
    assert blocks == pytest.approx([0.025, 0.05])
    assert rates[id(model.image_encoder.vit.pos_embed)] == pytest.approx(0.0125)
    assert rates[id(model.logit_scale)] == pytest.approx(0.1)
