"""What the optimizer does with each part of a model: weight decay, Muon or AdamW, learning rates."""

import re
from dataclasses import dataclass

from torch import nn

from kelip_lightning.config.experiment import MaskedPretrainExperiment
from kelip_lightning.optim.optimizers import OptimizerName, group_kinds
from kelip_lightning.optim.roles import roles_of
from kelip_lightning.planning.stage_plan import Stage, build_branch_on_meta, build_on_meta


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedGroup:
    """Trained parameters of one part of the model that are of one role."""

    part: str
    """Of the model: a tower, a projection, the decoder, the heads of a self-supervised loss, a scale."""
    role: str
    """What they are."""
    tensors: int
    parameters: int
    weight_decay: float
    optimizer: str
    """muon or adamw."""
    learning_rates: tuple[float, float]
    """Lowest and highest peak rate; another than the configured one by layer_decay."""
    names: list[str]
    """Their names, the numbers of blocks as stars."""


def planned_groups(stage: Stage) -> list[PlannedGroup]:
    """The groups of a stage, part by part; what is locked is left out."""
    model, config = _trained_model(stage), stage.optimizer
    roles, kinds, sizes = roles_of(model), group_kinds(model, config), dict(model.named_parameters())
    groups: dict[tuple[str, str], list[str]] = {}
    for name in kinds:
        groups.setdefault((_part(name, stage), roles[name].value), []).append(name)
    found = []
    for (part, role), names in groups.items():
        first, rates = kinds[names[0]], [config.learning_rate * kinds[name].factor for name in names]
        found.append(
            PlannedGroup(
                part=part,
                role=role,
                tensors=len(names),
                parameters=sum(sizes[name].numel() for name in names),
                weight_decay=config.weight_decay if first.decays else 0.0,
                optimizer=(OptimizerName.muon if first.muon else OptimizerName.adamw).name,
                learning_rates=(min(rates), max(rates)),
                names=list(dict.fromkeys(re.sub(r"\.\d+\.", ".*.", name) for name in names)),
            )
        )
    return found


def _trained_model(stage: Stage) -> nn.Module:
    """What the stage's optimizer is given, without memory."""
    model = build_on_meta(stage)
    if isinstance(stage, MaskedPretrainExperiment):
        return model
    model.get_submodule("image_encoder").requires_grad_(not stage.init.lock_image_encoder)
    model.get_submodule("text_encoder").requires_grad_(not stage.init.lock_text_encoder)
    if (branch := build_branch_on_meta(stage)) is not None:
        model.add_module("self_supervision", branch)
    return model


def _part(name: str, stage: Stage) -> str:
    part = name.partition(".")[0]
    if isinstance(stage, MaskedPretrainExperiment):
        return "image_encoder" if part == "encoder" else "decoder"
    return part
