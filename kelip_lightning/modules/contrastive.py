"""Stage 2: contrastive training on image–text pairs with multi-crop."""

import torch
from torch import Tensor

from data_modules.records import LANGUAGES, ImageTextBatch
from data_modules.tokenizer import BilingualTokenizer
from kelip_lightning.distributed import gather_rows, is_distributed
from kelip_lightning.losses.contrastive import ContrastiveLoss, ContrastiveLossConfig, multi_crop_info_nce
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.preprocessing import normalize_images
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.optim.optimizers import OptimizerConfig
from kelip_lightning.optim.schedules import ScheduleConfig


class ContrastiveModule(StageModule):
    """Trains a `DualEncoder` on `ImageTextBatch`es; every crop of an image is matched with its caption.

    The tokenizer is carried for evaluation and export; training reads tokens from the batch.
    """

    def __init__(
        self,
        model: DualEncoder,
        tokenizer: BilingualTokenizer,
        loss: ContrastiveLossConfig,
        optimizer: OptimizerConfig,
        schedule: ScheduleConfig,
    ) -> None:
        super().__init__(optimizer, schedule)
        self.model = model
        self.tokenizer = tokenizer
        self._loss_config = loss

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> Tensor:
        """The multi-crop InfoNCE of a batch over all ranks."""
        features = self.model(normalize_images(batch.global_crops), normalize_images(batch.local_crops), batch.tokens)
        with torch.autocast(batch.tokens.device.type, enabled=False):
            loss = multi_crop_info_nce(
                features.global_VBE,
                features.local_VBE,
                features.text_BE,
                features.logit_scale,
                local_weight=self._loss_config.local_weight,
                gather=gather_rows if is_distributed() else None,
                rank=self.global_rank,
            )
        self._log_step(loss, features.logit_scale.detach(), batch.languages)
        return loss.total

    def _log_step(self, loss: ContrastiveLoss, logit_scale: Tensor, languages: Tensor) -> None:
        values = {
            "loss": loss.total.detach(),
            "loss_global_crops": loss.global_crops,
            "temperature": 1 / logit_scale,
        }
        if loss.local_crops is not None:
            values["loss_local_crops"] = loss.local_crops
        for index, language in enumerate(LANGUAGES):
            # NaN without pairs of the language: Lightning would log the value of an earlier step again.
            values[f"contrastive_accuracy_{language}"] = loss.correct_B[languages == index].float().mean()
        self.log_values(values)
