"""Steps of the contrastive module against open_clip's losses and direct computations; compiled against eager."""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from open_clip.loss import ClipLoss, SigLipLoss
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from data_modules.records import ImageTextBatch
from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.callbacks.weight_average import WeightAverageCallback
from kelip_lightning.losses.config import ContrastiveKind, ContrastiveLossConfig
from kelip_lightning.models.config import SelfSupervisionConfig, SelfSupervisionMethod
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.models.self_supervision import ByolBranch, build_branch
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.optim.config import OptimizerConfig, OptimizerName, ScheduleConfig
from tests.trainers import quiet_trainer

TEXTS = ["사과", "red apple", "빨간 사과", "green apple", "apple"]
LANGUAGES = [0, 1, 0, 1, 1]
WEIGHT, TEMPERATURE, MOMENTUM, STEPS = 0.5, 0.2, 0.9, 3
DROPOUT = {"drop_path_rate": 0.3, "dropout_rate": 0.2, "patch_drop_rate": 0.5}
METHODS = [SelfSupervisionMethod.simclr, SelfSupervisionMethod.byol]
RecordLogs = Callable[[ContrastiveModule], dict[str, float]]
Build = Callable[..., ContrastiveModule]


@pytest.fixture
def build(tiny_dual_encoder: Callable[..., DualEncoder], tiny_tokenizer: BilingualTokenizer) -> Build:
    """Builds a module; `image` are settings of the image encoder, `joint` of the joint space, `loss` of the loss."""

    def build(
        method: SelfSupervisionMethod = SelfSupervisionMethod.none,
        *,
        image: dict[str, Any] | None = None,
        joint: dict[str, Any] | None = None,
        optimizer: OptimizerConfig | None = None,
        cls: type[ContrastiveModule] = ContrastiveModule,
        max_steps: int = STEPS,
        **loss: Any,
    ) -> ContrastiveModule:
        torch.manual_seed(0)
        model = tiny_dual_encoder(image, **joint or {})
        # Larger weights than initially: a class token of 1e-6 before a LayerNorm magnifies rounding errors.
        for name, parameter in model.named_parameters():
            if not name.startswith("logit_"):
                nn.init.normal_(parameter, float("norm" in name and name.endswith("weight")), 0.2)
        heads = {"projection_width": 12, "projection_dim": 6, "momentum": MOMENTUM}
        config = SelfSupervisionConfig(method=method, weight=WEIGHT, temperature=TEMPERATURE, **heads)
        return cls(
            model,
            tiny_tokenizer,
            ContrastiveLossConfig(**loss),
            optimizer or OptimizerConfig(),
            ScheduleConfig(max_steps=max_steps),
            self_supervision=build_branch(model.image_encoder, config),
        )

    return build


@pytest.fixture
def module(build: Build) -> ContrastiveModule:
    return build(local_weight=0.5)


def _batch(tokenizer: BilingualTokenizer, num_local: int = 3, languages: list[int] = LANGUAGES) -> ImageTextBatch:
    generator = torch.Generator().manual_seed(1)

    def crops(number: int, size: int) -> Tensor:
        return torch.randint(0, 256, (number, 5, 3, size, size), dtype=torch.uint8, generator=generator)

    return ImageTextBatch(
        global_crops=crops(2, 32),
        local_crops=crops(num_local, 16),
        tokens=tokenizer.encode(TEXTS),
        languages=torch.tensor(languages),
        sample_ids=torch.arange(5),
        sample_seeds=torch.arange(5),
        captions=TEXTS,
        views=crops(2, 32),
    )


def _gradients(module: ContrastiveModule) -> dict[str, Tensor]:
    return {name: one.grad.clone() for name, one in module.named_parameters() if one.grad is not None}


def _assert_equal_gradients(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        if not name.endswith("k_proj.bias"):  # zero but for rounding: softmax ignores a common term
            assert (found[name] - gradient).norm() < tolerance * gradient.norm(), name


def _reference(model: DualEncoder, batch: ImageTextBatch) -> tuple[Tensor, Tensor]:
    """The loss from open_clip's, one view at a time, and which pairs of the first view are classified correctly."""
    text = model.encode_text(batch.tokens)
    scale = model.logit_scale.exp()
    total = torch.zeros(())
    for views, weight in ((batch.global_crops, 1.0), (batch.local_crops, 0.5)):
        for view in views:
            total = total + weight * ClipLoss()(model.encode_image(normalize_images(view)), text, scale)
    cosines = model.encode_image(normalize_images(batch.global_crops[0])) @ text.T
    return total / (2 + 0.5 * len(batch.local_crops)), cosines.argmax(dim=1) == torch.arange(5)


@pytest.mark.parametrize("num_local", [0, 3])
def test_training_step__value_and_gradients_equal_open_clip(
    module: ContrastiveModule, record_logs: RecordLogs, num_local: int
) -> None:
    record_logs(module)
    batch = _batch(module.tokenizer, num_local)
    loss = module.training_step(batch, 0)
    loss.backward()
    found = _gradients(module)
    module.zero_grad()
    expected, _ = _reference(module.model, batch)
    expected.backward()
    torch.testing.assert_close(loss, expected)
    _assert_equal_gradients(found, _gradients(module))


@pytest.mark.parametrize("method", list(SelfSupervisionMethod))
@pytest.mark.parametrize("accumulate", [2, 5])
def test_training_step__chunks_give_the_gradient_of_the_whole_batch(
    build: Build, record_logs: RecordLogs, accumulate: int, method: SelfSupervisionMethod
) -> None:
    losses, gradients = [], []
    for chunks, max_logits_per_pair in ((1, None), (accumulate, 2)):
        module = build(method, image=DROPOUT, max_logits_per_pair=max_logits_per_pair)
        record_logs(module)
        module.accumulate = chunks
        losses.append(module.training_step(_batch(module.tokenizer), 0))
        losses[-1].backward()
        gradients.append(_gradients(module))
    torch.testing.assert_close(*losses)
    assert gradients[0].keys() == {name for name, one in module.named_parameters() if one.requires_grad}
    for name, gradient in gradients[0].items():
        if not name.endswith("k_proj.bias"):
            bound = 1e-6 + 1e-5 * gradient.abs().max().item()
            torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=bound)
    if method is not SelfSupervisionMethod.byol:  # its standardisation over the batch magnifies rounding errors
        _assert_equal_gradients(gradients[1], gradients[0])


@pytest.mark.parametrize("accumulate", [1, 2, 3, 5])
def test_training_step__token_counts_change_neither_loss_nor_gradient(
    build: Build, record_logs: RecordLogs, accumulate: int
) -> None:
    """Five captions in chunks of 5, 3 and 2, 2 and 2 and 1, 1; without counts the tokens are counted on the device."""
    losses, gradients, numbers = [], [], []
    for counted in (True, False):
        module = build(image=DROPOUT)
        record_logs(module)
        module.accumulate = accumulate
        batch = _batch(module.tokenizer)
        if counted:
            batch.token_counts = module.tokenizer.count_encoded(batch.tokens)
        given = _numbers_given(module)
        losses.append(module.training_step(batch, 0))
        numbers.append(list(given))
        losses[-1].backward()
        gradients.append(_gradients(module))
    # As many words as tokens of each text, without start and end; chunks of torch's size.
    counts = torch.tensor([number + 2 for number in module.tokenizer.count_tokens(TEXTS)])
    assert len(set(counts.tolist())) > 1
    assert numbers == [[chunk.sum().item() for chunk in counts.chunk(accumulate)], [None] * len(numbers[0])]
    assert torch.equal(*losses)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradients[1][name], gradient), name


def _numbers_given(module: ContrastiveModule) -> list[int | None]:
    """The numbers of tokens that the text encoder is told, which fills as it runs."""
    given: list[int | None] = []
    module.model.text_encoder.register_forward_pre_hook(lambda _module, inputs: given.append(inputs[1]))
    return given


@pytest.mark.parametrize("accumulate", [1, 2])
def test_training_step__padding_is_no_token(
    module: ContrastiveModule, record_logs: RecordLogs, accumulate: int
) -> None:
    """Wider captions give the loss and gradients of the narrow ones; the layers see their tokens alone."""
    record_logs(module)
    module.accumulate = accumulate
    batch = _batch(module.tokenizer)
    width = module.model.text_encoder.context_length
    assert batch.tokens.shape[1] < width
    wide = replace(batch, tokens=module.tokenizer.encode(TEXTS, width))
    rows: list[int] = []
    module.model.get_submodule("text_encoder.clip.encoder.layers.0").register_forward_hook(
        lambda _module, _inputs, tokens: rows.append(len(tokens))
    )
    losses, gradients = [], []
    for one in (batch, wide):
        one.token_counts = module.tokenizer.count_encoded(one.tokens)
        module.zero_grad()
        losses.append(module.training_step(one, 0))
        assert sum(rows) == sum(one.token_counts)
        losses[-1].backward()
        rows.clear()
        gradients.append(_gradients(module))
    torch.testing.assert_close(*losses)
    _assert_equal_gradients(gradients[1], gradients[0])


def test_training_step__sigmoid_loss_equals_open_clip(build: Build, record_logs: RecordLogs) -> None:
    joint = {"initial_logit_bias": -3.0, "initial_temperature": 0.1}
    module = build(joint=joint, kind=ContrastiveKind.sigmoid)
    record_logs(module)
    model, batch = module.model, _batch(module.tokenizer, num_local=0)
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
        (ContrastiveKind.sigmoid, None, "initial_logit_bias = null, but loss.kind = sigmoid learns a bias"),
        (ContrastiveKind.info_nce, -10.0, "initial_logit_bias = -10.0 has no effect on loss.kind = info_nce"),
    ],
)
def test_module__a_bias_that_does_not_fit_the_loss(
    build: Build, kind: ContrastiveKind, bias: float | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build(joint={"initial_logit_bias": bias}, kind=kind)


class _PushedModule(ContrastiveModule):
    """The loss is the scale itself: rising for `outwards` steps, falling after them."""

    outwards = 4

    def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        return (-1 if self.trainer.global_step < self.outwards else 1) * self.model.scale().sum()

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        scales.append(self.model.scale().item())


scales: list[float] = []


@pytest.mark.parametrize("name", list(OptimizerName))
def test_fit__the_logit_scale_stops_at_its_bound_and_can_decrease_again(
    build: Build, tmp_path: Path, name: OptimizerName
) -> None:
    scales.clear()
    optimizer = OptimizerConfig(name=name, learning_rate=0.2, beta1=0.0, beta2=0.5)
    module = build(joint={"max_logit_scale": 20.0}, optimizer=optimizer, cls=_PushedModule, max_steps=100)
    average = WeightAverageCallback(0.5)
    trainer = quiet_trainer(8, default_root_dir=tmp_path, callbacks=[average])
    trainer.fit(module, DataLoader(list(torch.zeros(8, 1)), batch_size=None))
    assert max(scales) <= 20 * (1 + 1e-6)
    assert scales[3] == pytest.approx(20, rel=1e-6)
    assert all(after < before for before, after in itertools.pairwise(scales[3:])), "the gradient acts at the bound"
    assert average._average_model is not None
    assert average._average_model.module.model.scale().item() <= 20 * (1 + 1e-6)


def test_training_step__logs(module: ContrastiveModule, record_logs: RecordLogs) -> None:
    logged, batch = record_logs(module), _batch(module.tokenizer)
    loss = module.training_step(batch, 0)
    _, correct = _reference(module.model, batch)
    assert set(logged) == {
        "contrastive/loss",
        "contrastive/loss_global_crops",
        "contrastive/loss_local_crops",
        "contrastive/temperature",
        "contrastive/accuracy_ko",
        "contrastive/accuracy_en",
        "contrastive/padding_share_ko",
        "contrastive/padding_share_en",
    }
    ends = [row.index(module.tokenizer.eot_id) + 1 for row in batch.tokens.tolist()]
    for language, rows in {"ko": [0, 2], "en": [1, 3, 4]}.items():
        share = 1 - sum(ends[row] for row in rows) / (len(rows) * batch.tokens.shape[1])
        assert logged[f"contrastive/padding_share_{language}"] == pytest.approx(share)
    assert logged["contrastive/loss"] == loss.item()
    assert logged["contrastive/temperature"] == pytest.approx(0.07)
    combined = (2 * logged["contrastive/loss_global_crops"] + 1.5 * logged["contrastive/loss_local_crops"]) / 3.5
    assert combined == pytest.approx(loss.item(), rel=1e-5)
    assert logged["contrastive/accuracy_ko"] == pytest.approx(correct[[0, 2]].float().mean().item())
    assert logged["contrastive/accuracy_en"] == pytest.approx(correct[[1, 3, 4]].float().mean().item())


def test_training_step__logs_nan_for_a_missing_language_and_nothing_for_missing_crops(
    module: ContrastiveModule, record_logs: RecordLogs
) -> None:
    logged = record_logs(module)
    module.training_step(_batch(module.tokenizer, num_local=0, languages=[0] * 5), 0)
    assert math.isnan(logged["contrastive/accuracy_en"]), "not the value of an earlier step"
    assert "contrastive/loss_local_crops" not in logged
    assert "contrastive/accuracy_ko" in logged


def test_training_step__loss_is_float32_under_autocast(module: ContrastiveModule, record_logs: RecordLogs) -> None:
    record_logs(module)
    batch = _batch(module.tokenizer)
    exact = module.training_step(batch, 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = module.training_step(batch, 0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(exact.item(), rel=0.02)


def _between_views(module: ContrastiveModule, batch: ImageTextBatch) -> Tensor:
    """The self-supervised loss, computed directly from the module's networks."""
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
    logits = (features @ features.T / TEMPERATURE).masked_fill(torch.eye(10, dtype=torch.bool), -torch.inf)
    return F.cross_entropy(logits, torch.arange(10).roll(5))


def _standardized(features: Tensor) -> Tensor:
    return (features - features.mean(dim=0)) / (features.var(dim=0, correction=0) + 1e-5).sqrt()


@pytest.mark.parametrize("method", METHODS)
def test_training_step__adds_the_weighted_loss_and_its_gradient(
    build: Build, record_logs: RecordLogs, method: SelfSupervisionMethod
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
    assert logged["contrastive/loss"] == pytest.approx(loss.item())
    assert logged["contrastive/loss_contrastive"] == pytest.approx(contrastive.item())
    assert logged["contrastive/loss_self_supervised"] == pytest.approx(between.item())
    assert logged["contrastive/self_supervised_share"] == pytest.approx(WEIGHT * between.item() / loss.item())


class _TargetRecorder(pl.Callback):
    """Trained and target weights after every step; callbacks run before the module's hook."""

    def __init__(self) -> None:
        self.trained: list[Tensor] = []
        self.targets: list[Tensor] = []

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: Any, *_: Any) -> None:
        self._record(pl_module)

    def on_train_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._record(pl_module)

    def _record(self, module: Any) -> None:
        self.trained.append(module.model.image_encoder.vit.pos_embed.detach().clone())
        self.targets.append(module.self_supervision.target_encoder.vit.pos_embed.detach().clone())


def test_fit__target_follows_every_step_with_its_momentum(build: Build) -> None:
    module, recorder = build(SelfSupervisionMethod.byol), _TargetRecorder()
    start = copy.deepcopy(module.model.image_encoder.vit.pos_embed)
    trainer = quiet_trainer(STEPS, callbacks=[recorder])
    trainer.fit(module, DataLoader([_batch(module.tokenizer)] * STEPS, batch_size=None))
    assert torch.equal(recorder.targets[0], start)
    expected = recorder.targets[0]
    for momentum, trained, target in zip((0.9, 0.925, 0.975), recorder.trained[1:], recorder.targets[1:], strict=True):
        expected = momentum * expected + (1 - momentum) * trained
        torch.testing.assert_close(target, expected)
    assert not torch.allclose(recorder.targets[-1], start, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("recompute_blocks", [False, True])
def test_compile__changes_gradients_by_rounding_only(
    build: Build, record_logs: RecordLogs, recompute_blocks: bool
) -> None:
    gradients = []
    for compiled in (False, True):
        module = build(image=DROPOUT | {"depth": 1}).train()
        module.accumulate = 2
        module.prepare(recompute_blocks=recompute_blocks, compiled=compiled)
        record_logs(module)
        module.training_step(_batch(module.tokenizer), 0).backward()
        gradients.append(_gradients(module))
    assert module.model.image_encoder._compiled_call_impl is not None
    _assert_equal_gradients(gradients[1], gradients[0], tolerance=1e-4)
