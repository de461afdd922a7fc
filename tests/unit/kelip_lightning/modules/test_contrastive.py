"""One step of the contrastive module against a computation by hand."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor
from torch.utils.data import DataLoader

from data_modules.records import ImageTextBatch
from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.callbacks.weight_average import WeightAverageCallback
from kelip_lightning.losses.contrastive import ContrastiveKind, ContrastiveLossConfig
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.optim.optimizers import OptimizerConfig, OptimizerName
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
        scale = 0.0 if parameter.grad is None else parameter.grad.abs().max().item()
        # Absolute against the largest entry too: an entry near zero is a difference of large ones.
        tolerance = max(1e-6, 1e-5 * scale)
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=tolerance, msg=_named(name))


def _named(name: str) -> Callable[[str], str]:
    return lambda message: f"{name}: {message}"


@pytest.mark.parametrize("accumulate", [2, 5])
def test_training_step__chunks_give_the_gradient_of_the_whole_batch(
    tiny_dual_encoder: Callable[..., DualEncoder],
    tiny_tokenizer: BilingualTokenizer,
    record_logs: RecordLogs,
    accumulate: int,
) -> None:
    model = tiny_dual_encoder({"drop_path_rate": 0.3, "dropout_rate": 0.2, "patch_drop_rate": 0.5})
    _move_weights(model)
    batch, gradients, losses = _batch(tiny_tokenizer), [], []
    for chunks, max_logits_per_pair in ((1, None), (accumulate, 2)):
        loss_config = ContrastiveLossConfig(max_logits_per_pair=max_logits_per_pair)
        module = ContrastiveModule(
            model, tiny_tokenizer, loss_config, OptimizerConfig(), ScheduleConfig(max_steps=3), chunks
        )
        record_logs(module)
        module.zero_grad()
        loss = module.training_step(batch, 0)
        loss.backward()
        losses.append(loss)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(*losses)
    assert gradients[0].keys() == gradients[1].keys() == {name for name, _ in model.named_parameters()}
    for name, whole in gradients[0].items():
        if not name.endswith("k_proj.bias"):  # no gradient at all but for rounding: softmax ignores a common term
            error = (gradients[1][name] - whole).norm() / whole.norm()
            assert error < 1e-5, name


def _move_weights(model: DualEncoder) -> None:
    """Weights of an ordinary size: a class token of 1e-6 before a LayerNorm would make rounding errors large."""
    for name, parameter in model.named_parameters():
        if name != "logit_scale":
            torch.nn.init.normal_(parameter, float("norm" in name and name.endswith("weight")), 0.2)


def test_training_step__sigmoid_loss_by_hand(
    tiny_dual_encoder: Callable[..., DualEncoder], tiny_tokenizer: BilingualTokenizer, record_logs: RecordLogs
) -> None:
    model = tiny_dual_encoder(initial_logit_bias=-3.0, initial_temperature=0.1)
    loss_config = ContrastiveLossConfig(kind=ContrastiveKind.sigmoid)
    module = ContrastiveModule(model, tiny_tokenizer, loss_config, OptimizerConfig(), ScheduleConfig(max_steps=3))
    record_logs(module)
    batch = _batch(tiny_tokenizer, num_local=0)
    loss = module.training_step(batch, 0)
    loss.backward()
    assert model.logit_bias is not None
    assert model.logit_bias.grad is not None
    text, scale = model.encode_text(batch.tokens), model.logit_scale.exp()
    terms = [
        SigLipLoss()(model.encode_image(normalize_images(view)), text, scale, model.logit_bias)
        for view in batch.global_crops
    ]
    torch.testing.assert_close(loss, torch.stack(terms).mean())


@pytest.mark.parametrize(
    ("kind", "bias", "message"),
    [
        (
            ContrastiveKind.sigmoid,
            None,
            r"dual_encoder\.initial_logit_bias = null, but loss\.kind = sigmoid learns a bias",
        ),
        (
            ContrastiveKind.info_nce,
            -10.0,
            r"dual_encoder\.initial_logit_bias = -10\.0 has no effect on loss\.kind = info",
        ),
    ],
)
def test_module__the_kind_of_loss_decides_and_a_model_that_does_not_fit_it_is_refused(
    tiny_dual_encoder: Callable[..., DualEncoder],
    tiny_tokenizer: BilingualTokenizer,
    kind: ContrastiveKind,
    bias: float | None,
    message: str,
) -> None:
    model = tiny_dual_encoder(initial_logit_bias=bias)
    with pytest.raises(ValueError, match=message):
        ContrastiveModule(
            model,
            tiny_tokenizer,
            ContrastiveLossConfig(kind=kind),
            OptimizerConfig(),
            ScheduleConfig(max_steps=3),
        )


class PushedModule(ContrastiveModule):
    """The loss is the scale itself: falling by `outwards` steps, rising after them."""

    outwards = 4

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (-1 if self.trainer.global_step < self.outwards else 1) * self.model.scale().sum()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        scales.append(self.model.scale().item())


scales: list[float] = []


@pytest.mark.parametrize("name", list(OptimizerName))
def test_fit__the_logit_scale_stops_at_its_bound_and_comes_back(
    tiny_dual_encoder: Callable[..., DualEncoder],
    tiny_tokenizer: BilingualTokenizer,
    tmp_path: Path,
    name: OptimizerName,
) -> None:
    scales.clear()
    model = tiny_dual_encoder(max_logit_scale=20.0)
    optimizer = OptimizerConfig(name=name, learning_rate=0.2, beta1=0.0, beta2=0.5)
    module = PushedModule(model, tiny_tokenizer, ContrastiveLossConfig(), optimizer, ScheduleConfig(max_steps=100))
    trainer = pl.Trainer(
        max_steps=8,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
        callbacks=[average := WeightAverageCallback(0.5)],
    )
    trainer.fit(module, DataLoader(list(torch.zeros(8, 1)), batch_size=None))
    assert max(scales) <= 20 * (1 + 1e-6)
    assert scales[3] == pytest.approx(20, rel=1e-6)
    assert all(after < before for before, after in itertools.pairwise(scales[3:])), "the gradient acts at the bound"
    assert average._average_model is not None
    assert average._average_model.module.model.scale().item() <= 20 * (1 + 1e-6)


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


def test_training_step__a_language_or_crops_that_are_missing_have_no_value(
    module: ContrastiveModule, record_logs: RecordLogs
) -> None:
    logged = record_logs(module)
    module.training_step(_batch(module.tokenizer, num_local=0, languages=[0] * 5), 0)
    assert math.isnan(logged["train/contrastive_accuracy_en"]), "not the value of an earlier step"
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
