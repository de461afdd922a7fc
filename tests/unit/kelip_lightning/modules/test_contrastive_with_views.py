"""Steps with a self-supervised loss against a computation by hand."""

import copy
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from data_modules.records import ImageTextBatch
from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.losses.contrastive import ContrastiveLossConfig
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.models.self_supervision import (
    ByolBranch,
    SelfSupervisionConfig,
    SelfSupervisionMethod,
    build_branch,
)
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.optim.optimizers import OptimizerConfig
from kelip_lightning.optim.schedules import ScheduleConfig

TEXTS = ["사과", "red apple", "빨간 사과", "green apple"]
WEIGHT, TEMPERATURE, MOMENTUM, STEPS = 0.5, 0.2, 0.9, 3
METHODS = [SelfSupervisionMethod.simclr, SelfSupervisionMethod.byol]
Build = Callable[..., ContrastiveModule]


@pytest.fixture
def build(tiny_dual_encoder: Callable[..., DualEncoder], tiny_tokenizer: BilingualTokenizer) -> Build:
    def build(method: SelfSupervisionMethod, image: dict[str, Any] | None = None) -> ContrastiveModule:
        torch.manual_seed(0)
        model = tiny_dual_encoder(image)
        for name, parameter in model.named_parameters():
            if name != "logit_scale":
                torch.nn.init.normal_(parameter, float("norm" in name and name.endswith("weight")), 0.2)
        config = SelfSupervisionConfig(
            method=method,
            weight=WEIGHT,
            temperature=TEMPERATURE,
            projection_width=12,
            projection_dim=6,
            momentum=MOMENTUM,
        )
        return ContrastiveModule(
            model,
            tiny_tokenizer,
            ContrastiveLossConfig(max_logits_per_pair=2),
            OptimizerConfig(),
            ScheduleConfig(max_steps=STEPS),
            self_supervision=build_branch(model.image_encoder, config),
        )

    return build


def _batch(tokenizer: BilingualTokenizer) -> ImageTextBatch:
    generator = torch.Generator().manual_seed(1)

    def crops(number: int, size: int) -> Tensor:
        return torch.randint(0, 256, (number, 4, 3, size, size), dtype=torch.uint8, generator=generator)

    return ImageTextBatch(
        global_crops=crops(1, 32),
        local_crops=crops(2, 16),
        tokens=tokenizer.encode(TEXTS),
        languages=torch.tensor([0, 1, 0, 1]),
        sample_ids=torch.arange(4),
        sample_seeds=torch.arange(4),
        captions=TEXTS,
        views=crops(2, 32),
    )


def _between_views(module: ContrastiveModule, batch: ImageTextBatch) -> Tensor:
    """The loss between views from the parts of the module, without its code."""
    branch = module.self_supervision
    assert branch is not None
    projections = [branch.head(module.model.image_encoder(normalize_images(view))) for view in batch.views]
    if isinstance(branch, ByolBranch):
        predictions = [_standardized(branch.predictor(one)) for one in projections]
        targets = [branch.target_head(branch.target_encoder(normalize_images(view))).detach() for view in batch.views]
        targets = [_standardized(one) for one in targets]
        cosines = F.cosine_similarity(predictions[0], targets[1]) + F.cosine_similarity(predictions[1], targets[0])
        return (4 - 2 * cosines).mean()
    features = F.normalize(torch.cat(projections), dim=-1)
    logits = (features @ features.T / TEMPERATURE).masked_fill(torch.eye(8, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.tensor([4, 5, 6, 7, 0, 1, 2, 3]))


def _standardized(features: Tensor) -> Tensor:
    return (features - features.mean(dim=0)) / (features.var(dim=0, correction=0) + 1e-5).sqrt()


def _gradients(module: ContrastiveModule) -> dict[str, Tensor]:
    return {name: one.grad.clone() for name, one in module.named_parameters() if one.grad is not None}


def _assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        if not name.endswith("k_proj.bias"):  # no gradient at all but for rounding: softmax ignores a common term
            torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-6 + 1e-5 * gradient.abs().max().item())


@pytest.mark.parametrize("method", METHODS)
def test_training_step__adds_the_weighted_loss_and_its_gradient(
    build: Build, record_logs: Callable[[ContrastiveModule], dict[str, float]], method: SelfSupervisionMethod
) -> None:
    module = build(method)
    logged, batch = record_logs(module), _batch(module.tokenizer)
    loss = module.training_step(batch, 0)
    loss.backward()
    found = _gradients(module)
    assert {name for name, one in module.named_parameters() if one.requires_grad} == found.keys()
    module.zero_grad()
    branch, module.self_supervision = module.self_supervision, None
    contrastive = module.training_step(batch, 0)
    contrastive.backward()
    module.self_supervision = branch
    between = _between_views(module, batch)
    (WEIGHT * between).backward()
    torch.testing.assert_close(loss, contrastive + WEIGHT * between)
    _assert_equal_gradients(found, _gradients(module))
    logged.clear()
    module.training_step(batch, 0)
    assert logged["train/loss"] == pytest.approx(loss.item())
    assert logged["train/loss_contrastive"] == pytest.approx(contrastive.item())
    assert logged["train/loss_self_supervised"] == pytest.approx(between.item())
    assert logged["train/self_supervised_share"] == pytest.approx(WEIGHT * between.item() / loss.item())


@pytest.mark.parametrize("method", METHODS)
def test_training_step__two_chunks_give_the_gradient_of_the_whole_batch(
    build: Build, record_logs: Callable[[ContrastiveModule], dict[str, float]], method: SelfSupervisionMethod
) -> None:
    module = build(method, {"drop_path_rate": 0.3, "dropout_rate": 0.2, "patch_drop_rate": 0.5})
    record_logs(module)
    batch, losses, gradients = _batch(module.tokenizer), [], []
    for module.accumulate in (1, 2):
        module.zero_grad()
        losses.append(module.training_step(batch, 0))
        losses[-1].backward()
        gradients.append(_gradients(module))
    torch.testing.assert_close(*losses)
    _assert_equal_gradients(gradients[1], gradients[0])


class TargetRecorder(pl.Callback):
    """The trained weights and the target's after every step; callbacks come before the module's own hook."""

    def __init__(self) -> None:
        self.trained: list[Tensor] = []
        self.targets: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self._note(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._note(pl_module)

    def _note(self, module: Any) -> None:
        self.trained.append(module.model.image_encoder.vit.pos_embed.detach().clone())
        self.targets.append(module.self_supervision.target_encoder.vit.pos_embed.detach().clone())


def test_fit__target_follows_every_step_with_its_momentum(build: Build) -> None:
    module, recorder = build(SelfSupervisionMethod.byol), TargetRecorder()
    start = copy.deepcopy(module.model.image_encoder.vit.pos_embed)
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        callbacks=[recorder],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, torch.utils.data.DataLoader([_batch(module.tokenizer)] * STEPS, batch_size=None))
    assert torch.equal(recorder.targets[0], start)
    expected = recorder.targets[0]
    for momentum, trained, target in zip((0.9, 0.925, 0.975), recorder.trained[1:], recorder.targets[1:], strict=True):
        expected = momentum * expected + (1 - momentum) * trained
        torch.testing.assert_close(target, expected)
    assert not torch.allclose(recorder.targets[-1], start, rtol=0, atol=1e-6)
