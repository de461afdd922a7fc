"""One training step of a tiny dual encoder: reference on one process, and Lightning on several."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DeepSpeedStrategy, Strategy
from torch import Tensor, nn

from data_modules.records import ImageTextBatch
from data_modules.text.tokenizer import BilingualTokenizer, train_tokenizer
from kelip_lightning.distributed.accelerators import build_strategy, is_deepspeed
from kelip_lightning.distributed.gather import gather_rows, start_gather
from kelip_lightning.losses.config import ContrastiveLossConfig, MatmulPrecision
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.model_folder import build_dual_encoder
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.modules import contrastive
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig
from tests.trainers import quiet_trainer

BATCH = 16
RATE = 0.5
"""Learning rate of the one step whose parameters are compared."""
TEXTS = [f"{colour} {thing}" for colour in ("빨간", "파란", "red", "blue") for thing in ("사과", "배", "apple", "pear")]


@dataclass(frozen=True, slots=True)
class Cell:
    """One entry of the table."""

    world: int
    strategy: str
    chunks: int
    tile: int | None
    crops: tuple[int, int]
    mutation: str | None = None
    """Deliberate error, if any."""
    precision: MatmulPrecision = MatmulPrecision.auto
    """Precision of the loss's products."""
    accelerator: str = "cpu"
    """Lightning's; gpu takes a world of one process."""

    def __str__(self) -> str:
        loss = "full" if self.tile is None else "tiled"
        return f"{self.world:5}  {self.strategy:17}  {self.chunks:6}  {loss:5}  {self.crops[0]}+{self.crops[1]}"


def build_model(tokenizer: BilingualTokenizer) -> DualEncoder:
    """A tiny model with every kind of dropout, and larger weights than initially.

    An initial class token of 1e-6 before a LayerNorm magnifies rounding errors, and zero biases hide mistakes.
    """
    torch.manual_seed(0)
    model = build_dual_encoder(
        ImageEncoderConfig(
            image_size=16,
            patch_size=4,
            width=16,
            depth=2,
            num_heads=2,
            drop_path_rate=0.3,
            dropout_rate=0.2,
            patch_drop_rate=0.5,
        ),
        TextEncoderConfig(width=16, depth=2, num_heads=2),
        DualEncoderConfig(embed_dim=8),
        tokenizer,
    )
    for name, parameter in model.named_parameters():
        if name != "logit_scale":
            mean = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            nn.init.normal_(parameter, mean, 0.2)
    return model


def whole_batch(tokenizer: BilingualTokenizer, crops: tuple[int, int]) -> ImageTextBatch:
    """The global batch."""
    generator = torch.Generator().manual_seed(1)

    def images(views: int, size: int) -> Tensor:
        return torch.randint(0, 256, (views, BATCH, 3, size, size), dtype=torch.uint8, generator=generator)

    return ImageTextBatch(
        global_crops=images(crops[0], 16),
        local_crops=images(crops[1], 8),
        tokens=tokenizer.encode(TEXTS),
        languages=torch.zeros(BATCH, dtype=torch.int64),
        sample_ids=torch.arange(BATCH),
        sample_seeds=torch.randint(0, 2**62, (BATCH,), generator=generator),
        captions=TEXTS,
    )


def share(batch: ImageTextBatch, rank: int, world: int) -> ImageTextBatch:
    """A rank's part of the global batch."""
    own = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    names = ("tokens", "languages", "sample_ids", "sample_seeds", "captions")
    rows = {name: getattr(batch, name)[own] for name in names}
    crops = {name: getattr(batch, name)[:, own] for name in ("global_crops", "local_crops", "views")}
    return replace(batch, **rows, **crops)


def reference_gradients(crops: tuple[int, int]) -> dict[str, Tensor]:
    """Gradients of one process with the whole batch, and the loss from torch's log-softmax."""
    tokenizer = train_tokenizer(TEXTS, 280, 12)
    model, batch = build_model(tokenizer), whole_batch(tokenizer, crops)
    features = model(
        normalize_images(batch.global_crops), normalize_images(batch.local_crops), batch.tokens, batch.sample_seeds
    )
    terms = []
    for image in (*features.global_VBE, *features.local_VBE):
        logits = features.logit_scale * image @ features.text_BE.T
        terms.append(-(logits.log_softmax(dim=1).diag().mean() + logits.log_softmax(dim=0).diag().mean()) / 2)
    weights = torch.tensor([1.0] * crops[0] + [0.5] * crops[1])
    (torch.stack(terms) @ weights / weights.sum()).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


class RecordingModule(ContrastiveModule):
    """One step per cell with the same batch; the learning rate is zero until the last one."""

    def __init__(self, tokenizer: BilingualTokenizer, cells: Sequence[Cell]) -> None:
        super().__init__(
            build_model(tokenizer),
            tokenizer,
            ContrastiveLossConfig(local_weight=0.5),
            OptimizerConfig(),
            ScheduleConfig(max_steps=len(cells)),
        )
        self.cells = cells
        self.gradients: list[dict[str, Tensor]] = []
        self.changes: dict[str, Tensor] = {}
        self._before: dict[str, Tensor] = {}

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=RATE)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: float(step == len(self.cells) - 1))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        cell = self.cells[batch_idx]
        self.accumulate, self._loss_config.max_logits_per_pair = cell.chunks, cell.tile
        self._loss_config.matmul_precision = cell.precision
        gather = contrastive.gather_rows = MUTATIONS[cell.mutation]
        contrastive.start_gather = partial(partial, gather) if cell.mutation else start_gather
        self._before = self._collect(self._whole_parameter)

    def on_after_backward(self) -> None:
        self.gradients.append(self._collect(self._whole_gradient))

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_end(outputs, batch, batch_idx)
        after = self._collect(self._whole_parameter)
        self.changes = {name: after[name] - self._before[name] for name in after}

    def _collect(self, whole: Callable[[nn.Parameter], Tensor]) -> dict[str, Tensor]:
        return {name: whole(p).detach().cpu().clone() for name, p in self.model.named_parameters()}

    def _whole_gradient(self, parameter: nn.Parameter) -> Tensor:
        if not is_deepspeed(self.cells[0].strategy):
            assert parameter.grad is not None
            return parameter.grad
        from deepspeed.utils import safe_get_full_grad

        gradient: Tensor = safe_get_full_grad(parameter)
        return gradient

    def _whole_parameter(self, parameter: nn.Parameter) -> Tensor:
        if not is_deepspeed(self.cells[0].strategy):
            return parameter
        from deepspeed.utils import safe_get_full_fp32_param

        value: Tensor = safe_get_full_fp32_param(parameter)
        return value


def _gather_without_gradient(rows: Tensor) -> Tensor:
    return gather_rows(rows.detach())


def _gather_with_own_gradient_only(rows: Tensor) -> Tensor:
    gathered, own = _gather_without_gradient(rows), dist.get_rank() * len(rows)
    return torch.cat([gathered[:own], rows, gathered[own + len(rows) :]])


MUTATIONS = {
    None: gather_rows,
    "gather without gradient": _gather_without_gradient,
    "gather with own gradient only": _gather_with_own_gradient_only,
}


def sharding_strategy(name: str, world: int, accelerator: str = "cpu") -> str | Strategy:
    """The strategy of training, except that ZeRO-3 shards small parameters too, since tiny models have no others."""
    strategy = build_strategy(name, accelerator, num_processes=world, timeout=timedelta(minutes=5))
    if isinstance(strategy, DeepSpeedStrategy) and strategy.zero_stage_3:
        assert isinstance(strategy.config, dict)
        strategy.config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return strategy


def run_steps(cells: Sequence[Cell], rank: int) -> RecordingModule:
    """This rank's part of one step per cell; cells differ only in chunks, tiles and mutations."""
    first = cells[0]
    tokenizer = train_tokenizer(TEXTS, 280, 12)
    module = RecordingModule(tokenizer, cells)
    batch = share(whole_batch(tokenizer, first.crops), rank, first.world)
    torch.backends.cudnn.allow_tf32 = False  # by default convolutions of GPUs have 11 bits
    strategy = sharding_strategy(first.strategy, first.world, first.accelerator)
    trainer = quiet_trainer(len(cells), first.world, accelerator=first.accelerator, strategy=strategy)
    trainer.fit(module, torch.utils.data.DataLoader([batch] * len(cells), batch_size=None))
    return module
