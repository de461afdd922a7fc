"""The loader against the step: pairs per second of both, and crops that the device cuts against the loader's."""

import io
import os
import time
from dataclasses import replace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lightning.fabric.utilities import move_data_to_device
from PIL import Image
from torch import Tensor

from data_modules.config import ImageTextDataConfig
from data_modules.image_text import ImageTextDataModule
from data_modules.images.config import MultiCropConfig
from data_modules.images.transforms.uncut import cut
from data_modules.loading import PairDataset
from data_modules.order.sampling import Draw
from data_modules.records import ImageTextBatch
from data_modules.sources.config import SourceConfig
from data_modules.text.config import TokenizerConfig
from kelip_lightning.benchmarks.gpu_report.findings import Findings, PartSetting
from kelip_lightning.benchmarks.gpu_report.steps import contrastive_steps
from kelip_lightning.benchmarks.step.setting import ModelName, StepSetting

PIXEL_BOUND = 2
"""Largest difference of a pixel, of 255."""
SIZE = (512, 384)
"""Width and height of the photographs."""


class EmptyStep(pl.LightningModule):
    """A step that computes nothing: its time is that of loading, copying and cutting."""

    def __init__(self, warmup: int) -> None:
        super().__init__()
        self._weight = torch.nn.Parameter(torch.zeros(1))
        self._warmup, self.start = warmup, 0.0

    def training_step(self, batch: ImageTextBatch, batch_idx: int) -> Tensor:
        """Zero."""
        if batch_idx == self._warmup:
            self.start = time.perf_counter()
        return self._weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One that changes nothing."""
        return torch.optim.SGD(self.parameters(), lr=0.0)


def loader(setting: PartSetting, findings: Findings) -> None:
    """Pixels of the crops that the device cuts, then rates of the loader with and without, then that of the step."""
    batch = 8 if setting.smoke else 64
    config = _config(setting, 4 * batch, batch)
    # Several batches of every loader process, since the first ones of all come together.
    steps = 12 * max(1, config.num_workers)
    transform = MultiCropConfig(image_size=224, num_global_crops=1, num_local_crops=0)
    data = _data(config, transform, steps)
    differences = _pixel_differences(data, batch, torch.device(setting.device))
    findings.note(
        largest_pixel_difference=int(differences.max()), mean_pixel_difference=float(differences.float().mean())
    )
    findings.require(
        int(differences.max()) <= PIXEL_BOUND,
        f"a pixel of a crop cut on the device differs by {int(differences.max())} of 255, allowed are {PIXEL_BOUND}",
    )
    rates = {}
    for name, on_device in (("resized_by_loader", False), ("resized_on_device", True)):
        rates[name] = _rate(_data(replace(config, resize_on_device=on_device), transform, steps), setting, batch, steps)
        findings.note(**{f"{name}_pairs_per_second": rates[name]})
    model = ModelName.tiny if setting.smoke else ModelName.vit_b32
    step = StepSetting(model=model, batch=4 * batch, device=setting.device, precision="bf16-mixed")
    eaten = step.batch / contrastive_steps(step, "auto", 2, 3 if setting.smoke else 10).seconds
    findings.note(workers=config.num_workers, step_pairs_per_second=eaten)
    findings.note(**{f"{name}_over_step": rate / eaten for name, rate in rates.items()})


def _config(setting: PartSetting, number: int, batch: int) -> ImageTextDataConfig:
    """Write generated photographs with captions, and say how to read them."""
    generator, file = np.random.default_rng(0), setting.folder / "photographs.parquet"
    rows: list[dict[str, Any]] = []
    for place in range(number):
        buffer, coarse = io.BytesIO(), generator.integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(coarse).resize(SIZE, Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        rows.append({"image": {"bytes": buffer.getvalue(), "path": None}, "en": f"photograph number {place}"})
    pq.write_table(pa.Table.from_pylist(rows), file)
    return ImageTextDataConfig(
        sources={"photographs": SourceConfig(files=[str(file)], captions={"en": "en"})},
        global_batch_size=batch,
        num_workers=0 if setting.smoke else max(1, (os.cpu_count() or 1) - 1),
    )


def _data(config: ImageTextDataConfig, transform: MultiCropConfig, steps: int) -> ImageTextDataModule:
    return ImageTextDataModule(config, transform, TokenizerConfig(vocab_size=300), seed=0, max_steps=steps)


def _pixel_differences(data: ImageTextDataModule, batch: int, device: torch.device) -> Tensor:
    """Between crops of the same draws by the loader and by the device, int32, shaped as the crops."""
    draws = [Draw(0, sample_id) for sample_id in data.order.batch(0).tolist()][:batch]
    dataset: PairDataset[Any] = PairDataset(data.sources, data.new_uncut_batch, data.seed)
    uncut = dataset.load(draws)
    found = cut(move_data_to_device(uncut, device))
    assert isinstance(found, ImageTextBatch)
    return (found.global_crops.cpu().int() - data.dataset.load(draws).global_crops.int()).abs()


def _rate(data: ImageTextDataModule, setting: PartSetting, batch: int, steps: int) -> float:
    """Pairs per second that arrive on the device after the first steps, through Lightning's Trainer."""
    warmup = steps // 4
    module = EmptyStep(warmup)
    trainer = pl.Trainer(
        accelerator=setting.accelerator,
        devices=1,
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )
    trainer.fit(module, datamodule=data)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return batch * (steps - warmup) / (time.perf_counter() - module.start)
