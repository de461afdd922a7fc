"""Stage 2: contrastive training on image–text pairs with multi-crop."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from data_modules.languages import LANGUAGES
from data_modules.records import ImageTextBatch
from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.distributed.gather import gather_rows, is_distributed, start_gather
from kelip_lightning.losses.config import ContrastiveKind, ContrastiveLossConfig, bias_problem
from kelip_lightning.losses.contrastive import ContrastiveLoss, contrastive_loss
from kelip_lightning.losses.self_supervised import byol_loss, nt_xent, target_momentum
from kelip_lightning.models.dual_encoder import DualEncoder, PairFeatures
from kelip_lightning.models.self_supervision import ByolBranch, SelfSupervisedBranch
from kelip_lightning.models.text_encoder import caption_lengths
from kelip_lightning.modules.stage import Ratios, StageModule
from kelip_lightning.optim.config import OptimizerConfig, ScheduleConfig


class ContrastiveModule(StageModule):
    """Trains a `DualEncoder` on `ImageTextBatch`es; every crop of an image is matched with its caption.

    Args:
        model: The model to train.
        tokenizer: Its tokenizer, for evaluation and export.
        loss: The contrastive loss.
        optimizer: The optimizer.
        schedule: The learning-rate schedule.
        accumulate: Number of chunks in which the towers process a batch. The loss is that of all pairs: features of the
            chunks are kept, and their activations are recomputed in the backward pass (as GradCache,
            arXiv:2101.06983).
        self_supervision: Heads of an additional loss between views; `None` disables it.

    Raises:
        ValueError: The model has a bias that the loss does not use, or lacks one that it needs.
    """

    stage_name = "contrastive"

    def __init__(
        self,
        model: DualEncoder,
        tokenizer: BilingualTokenizer,
        loss: ContrastiveLossConfig,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
        accumulate: int = 1,
        self_supervision: SelfSupervisedBranch | None = None,
    ) -> None:
        super().__init__(optimizer, schedule, accumulate)
        if problem := bias_problem(loss.kind, model.config.initial_logit_bias):
            raise ValueError(problem)
        self.model = model
        self.tokenizer = tokenizer
        self.self_supervision = self_supervision
        self._loss_config = loss

    def upper_bounds(self) -> dict[str, float]:
        """The bound of the logarithmic logit scale (Radford et al. 2021, sec. 2.5)."""
        return {"model.logit_scale": math.log(self.model.config.max_logit_scale)}

    def compile_model(self) -> None:
        """Compile both towers; the loss is a few large matrix products."""
        # One graph for each of the two crop sizes; captions have any length.
        self.model.image_encoder.compile(dynamic=False)
        self.model.text_encoder.compile()

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> Tensor:
        """The multi-crop loss of the global batch, plus the weighted self-supervised loss if there is one."""
        started: list[Callable[[], Tensor]] = []
        # Chunks are computed anew in the backward pass, which must not gather again.
        is_early = is_distributed() and self.accumulate == 1 and self._loss_config.kind is ContrastiveKind.info_nce
        features = self._features(batch, (lambda crops: started.append(_start_gather(crops))) if is_early else None)
        with torch.autocast(batch.tokens.device.type, enabled=False):
            loss = contrastive_loss(
                features.global_VBE,
                features.local_VBE,
                features.text_BE,
                features.logit_scale,
                features.logit_bias,
                kind=self._loss_config.kind,
                local_weight=self._loss_config.local_weight,
                max_logits_per_pair=self._loss_config.max_logits_per_pair,
                matmul_precision=self._loss_config.matmul_precision,
                gather=gather_rows if is_distributed() else None,
                gathered_crops=started[0] if started else None,
                rank=self.global_rank,
            )
        total, parts = loss.total, Ratios()
        if self.self_supervision is not None:
            between_views = self._self_supervised_loss(batch, self.self_supervision)
            weighted = self.self_supervision.config.weight * between_views
            total = total + weighted
            parts = {
                "loss": (total.detach(), 1.0),
                "loss_contrastive": (loss.total.detach(), 1.0),
                "loss_self_supervised": (between_views.detach(), 1.0),
                "self_supervised_share": (weighted.detach(), total.detach()),
            }
        if self.logs_this_step:
            padding = _padding_shares(batch, self.model.text_encoder.eot_id)
            self.log_ratios(_ratios_of(loss, features.logit_scale.detach(), batch.languages) | padding | parts)
        return total

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update BYOL's target."""
        super().on_train_batch_end(outputs, batch, batch_idx)
        if isinstance(self.self_supervision, ByolBranch):
            step, start = self.trainer.global_step - 1, self.self_supervision.config.momentum
            momentum = target_momentum(step, self._schedule_config.max_steps, start)
            self.self_supervision.update_targets(self.model.image_encoder, momentum)

    def _self_supervised_loss(self, batch: ImageTextBatch, branch: SelfSupervisedBranch) -> Tensor:
        """The self-supervised loss of the global batch, in `accumulate` chunks like the contrastive one."""
        first_view = len(batch.global_crops) + len(batch.local_crops)
        encode = partial(self._encode_views, branch, first_view)
        if self.accumulate > 1:
            encode = partial(checkpoint, encode, use_reentrant=False, preserve_rng_state=False)
        views = batch.views.chunk(self.accumulate, dim=1)
        seeds = batch.sample_seeds.chunk(self.accumulate)
        online_VBE = torch.cat([encode(*chunk) for chunk in zip(views, seeds, strict=True)], dim=1)
        targets_VBE = None
        if isinstance(branch, ByolBranch):
            targets_VBE = torch.cat([branch.targets(chunk) for chunk in views], dim=1)
        gather = gather_rows if is_distributed() else None
        with torch.autocast(batch.views.device.type, enabled=False):
            if targets_VBE is not None:
                return byol_loss(online_VBE, targets_VBE, gather=gather)
            return nt_xent(
                F.normalize(online_VBE, dim=-1),
                branch.config.temperature,
                max_logits_per_pair=self._loss_config.max_logits_per_pair,
                matmul_precision=self._loss_config.matmul_precision,
                gather=gather,
                rank=self.global_rank,
            )

    def _encode_views(self, branch: SelfSupervisedBranch, first_view: int, views: Tensor, seeds: Tensor) -> Tensor:
        online_VBE: Tensor = branch(self.model.image_encoder, views, seeds, first_view)
        return online_VBE

    def _features(self, batch: ImageTextBatch, on_crops: Callable[[Tensor], None] | None) -> PairFeatures:
        """Features of the whole batch, in `accumulate` chunks; without chunks the crops' are handed out early."""
        if self.accumulate == 1:
            crops, tokens = (batch.global_crops, batch.local_crops), (batch.tokens, batch.sample_seeds)
            return self._encode(*crops, *tokens, batch.token_counts, on_crops)
        chunks = zip(
            batch.global_crops.chunk(self.accumulate, dim=1),
            batch.local_crops.chunk(self.accumulate, dim=1),
            batch.tokens.chunk(self.accumulate),
            batch.sample_seeds.chunk(self.accumulate),
            _chunks(batch.token_counts, len(batch.tokens), self.accumulate),
            strict=True,
        )
        # The towers do not use torch's random stream, so its state need not be preserved.
        encode = partial(checkpoint, self._encode, use_reentrant=False, preserve_rng_state=False)
        parts: list[PairFeatures] = [encode(*chunk) for chunk in chunks]
        return PairFeatures(
            global_VBE=torch.cat([part.global_VBE for part in parts], dim=1),
            local_VBE=torch.cat([part.local_VBE for part in parts], dim=1),
            text_BE=torch.cat([part.text_BE for part in parts]),
            logit_scale=parts[0].logit_scale,
            logit_bias=parts[0].logit_bias,
        )

    def _encode(
        self,
        global_crops: Tensor,
        local_crops: Tensor,
        tokens: Tensor,
        seeds: Tensor,
        token_counts: list[int],
        on_crops: Callable[[Tensor], None] | None = None,
    ) -> PairFeatures:
        num_tokens = sum(token_counts) or None
        features: PairFeatures = self.model(global_crops, local_crops, tokens, seeds, num_tokens, on_crops=on_crops)
        return features


def _start_gather(crops_VBE: Tensor) -> Callable[[], Tensor]:
    return start_gather(crops_VBE.transpose(0, 1))


def _chunks(counts: list[int], batch_size: int, number: int) -> list[list[int]]:
    """The counts of each chunk of a batch, as `Tensor.chunk` cuts it; empty lists if there are none."""
    size = -(-batch_size // number)
    return [counts[start : start + size] for start in range(0, batch_size, size)]


def _padding_shares(batch: ImageTextBatch, eot_id: int) -> Ratios:
    """The share of padding in the captions of each language, which the text encoder leaves out."""
    padding_B = batch.tokens.shape[1] - caption_lengths(batch.tokens, eot_id)
    own = {language: batch.languages == index for index, language in enumerate(LANGUAGES)}
    return {
        f"padding_share_{language}": ((padding_B * own_B).sum(), own_B.sum() * batch.tokens.shape[1])
        for language, own_B in own.items()
    }


def _ratios_of(loss: ContrastiveLoss, logit_scale: Tensor, languages: Tensor) -> Ratios:
    """Logged parts of the contrastive loss, and the accuracy of each language's pairs."""
    values: Ratios = {
        "loss": (loss.total.detach(), 1.0),
        "loss_global_crops": (loss.global_crops, 1.0),
        "temperature": (1 / logit_scale, 1.0),
    }
    if loss.local_crops is not None:
        values["loss_local_crops"] = (loss.local_crops, 1.0)
    for index, language in enumerate(LANGUAGES):
        # NaN without pairs of the language: Lightning would repeat the value of an earlier step.
        own_B = languages == index
        values[f"accuracy_{language}"] = ((loss.correct_B & own_B).sum(), own_B.sum())
    return values
