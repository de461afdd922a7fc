"""One step of the contrastive module against a computation by hand."""

from collections.abc import Callable

import pytest
import torch
from open_clip.loss import ClipLoss
from torch import Tensor

from data_modules.records import ImageTextBatch
from data_modules.tokenizer import BilingualTokenizer
from kelip_lightning.losses.contrastive import ContrastiveLossConfig
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.optim.optimizers import OptimizerConfig
from kelip_lightning.optim.schedules import ScheduleConfig

TEXTS = ["사과", "red apple", "빨간 사과", "green apple", "apple"]
LANGUAGES = [0, 1, 0, 1, 1]
RecordLogs = Callable[[ContrastiveModule], dict[str, float]]


@pytest.fixture
def module(tiny_dual_encoder: Callable[..., DualEncoder], tiny_tokenizer: BilingualTokenizer) -> ContrastiveModule:
    return ContrastiveModule(
        tiny_dual_encoder(),
        tiny_tokenizer,
        ContrastiveLossConfig(local_weight=0.5),
        OptimizerConfig(),
        ScheduleConfig(max_steps=3),
    )


def _batch(tokenizer: BilingualTokenizer, num_local: int = 3, languages: list[int] = LANGUAGES) -> ImageTextBatch:
    def crops(number: int, size: int) -> Tensor:
        return torch.randint(0, 256, (number, 5, 3, size, size), dtype=torch.uint8)

    return ImageTextBatch(
        global_crops=crops(2, 32),
        local_crops=crops(num_local, 16),
        tokens=tokenizer.encode(TEXTS),
        languages=torch.tensor(languages),
        sample_ids=torch.arange(5),
        sample_seeds=torch.arange(5),
        captions=TEXTS,
    )


def _by_hand(model: DualEncoder, batch: ImageTextBatch) -> tuple[Tensor, Tensor]:
    """The loss from open_clip's, one view at a time, and which pairs the first view gets right."""
    text = model.encode_text(batch.tokens)
    scale = model.logit_scale.exp()
    total = torch.zeros(())
    for views, weight in ((batch.global_crops, 1.0), (batch.local_crops, 0.5)):
        for view in views:
            total = total + weight * ClipLoss()(model.encode_image(normalize_images(view)), text, scale)
    cosines = model.encode_image(normalize_images(batch.global_crops[0])) @ text.T
    return total / (2 + 0.5 * len(batch.local_crops)), cosines.argmax(dim=1) == torch.arange(5)


@pytest.mark.parametrize("num_local", [0, 3])
def test_training_step__value_and_every_gradient_by_hand(
    module: ContrastiveModule, record_logs: RecordLogs, num_local: int
) -> None:
    record_logs(module)
    batch = _batch(module.tokenizer, num_local)
    loss = module.training_step(batch, 0)
    loss.backward()
    found = {name: p.grad for name, p in module.model.named_parameters()}
    module.zero_grad()
    expected, _ = _by_hand(module.model, batch)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    for name, parameter in module.model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_training_step__logs(module: ContrastiveModule, record_logs: RecordLogs) -> None:
    logged, batch = record_logs(module), _batch(module.tokenizer)
    loss = module.training_step(batch, 0)
    _, correct = _by_hand(module.model, batch)
    assert set(logged) == {
        "train/loss",
        "train/loss_global_crops",
        "train/loss_local_crops",
        "train/temperature",
        "train/contrastive_accuracy_ko",
        "train/contrastive_accuracy_en",
    }
    assert logged["train/loss"] == loss.item()
    assert logged["train/temperature"] == pytest.approx(0.07)
    combined = (2 * logged["train/loss_global_crops"] + 1.5 * logged["train/loss_local_crops"]) / 3.5
    assert combined == pytest.approx(loss.item(), rel=1e-5)
    assert logged["train/contrastive_accuracy_ko"] == pytest.approx(correct[[0, 2]].float().mean().item())
    assert logged["train/contrastive_accuracy_en"] == pytest.approx(correct[[1, 3, 4]].float().mean().item())


def test_training_step__a_language_or_crops_that_are_missing_are_not_logged(
    module: ContrastiveModule, record_logs: RecordLogs
) -> None:
    logged = record_logs(module)
    module.training_step(_batch(module.tokenizer, num_local=0, languages=[0] * 5), 0)
    assert "train/contrastive_accuracy_en" not in logged
    assert "train/loss_local_crops" not in logged
    assert "train/contrastive_accuracy_ko" in logged


def test_training_step__loss_is_float32_under_autocast(module: ContrastiveModule, record_logs: RecordLogs) -> None:
    record_logs(module)
    batch = _batch(module.tokenizer)
    exact = module.training_step(batch, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module.training_step(batch, 0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)
