"""The LightningDataModule of MAE pre-training."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data_modules.config import ImageDataConfig
from data_modules.faults import FaultReport
from data_modules.images.config import MaskedImageConfig
from data_modules.images.decoding import open_image
from data_modules.images.transforms.crops import CropWriter, CutWriter, SampledCrops, write_crops
from data_modules.images.transforms.masked_image import MaskedImage
from data_modules.images.transforms.uncut import UncutWriter
from data_modules.loading import (
    PairDataset,
    StageDataModule,
    UncutBatchWriter,
    build_loader,
    open_sources,
    steps_to_read_ahead,
)
from data_modules.order.mixture import build_order
from data_modules.order.sampling import Order
from data_modules.prefetch import batches_per_worker, bytes_per_sample
from data_modules.records import ImageBatch, PairRecord
from data_modules.sources.rows import PairSource


class ImageBatchWriter:
    """An `ImageBatch` that is being filled.

    Args:
        transform: Samples the crops and the noise.
        pixels: Receives the pixels of the crops.
        max_image_pixels: Larger images are faults.
        num_samples: Size of the batch.
    """

    def __init__(self, transform: MaskedImage, pixels: CropWriter, *, max_image_pixels: int, num_samples: int) -> None:
        self._transform, self._pixels, self._max_image_pixels = transform, pixels, max_image_pixels
        self._noise = np.empty((num_samples, transform.num_patches), dtype=np.float32)
        self._sampled: dict[int, SampledCrops] = {}

    def sample(self, place: int, record: PairRecord, generator: np.random.Generator, repairs: list[str]) -> None:
        """One crop, then the noise of its mask."""
        image = open_image(record.image, record.file_name, repairs, self._max_image_pixels)
        self._sampled[place] = self._transform.sample(image, generator, self._noise[place])

    def write(self, place: int) -> None:
        """Decode the image, and cut its crop unless the device does."""
        self._pixels.write(place, self._sampled.pop(place))

    def finish(self, ids: Tensor, seeds: Tensor, faults: list[FaultReport]) -> ImageBatch:
        """The batch."""
        (crops,) = self._pixels.crops
        noise = torch.from_numpy(self._noise)
        return ImageBatch(images=crops[0], noise=noise, sample_ids=ids, sample_seeds=seeds, faults=faults)


class ImageDataModule(StageDataModule):
    """Batches of weakly cropped images with their mask noise.

    Args:
        config: Sources, mixture and batch size.
        transform: Crop of an image.
        num_patches: Patches of a crop, each with its noise.
        seed: Seed of the order and of all random streams.
        max_steps: Optimizer steps of the stage.
        sources: From `open_sources`; `None`: they are opened here.
    """

    def __init__(
        self,
        config: ImageDataConfig,
        transform: MaskedImageConfig,
        *,
        num_patches: int,
        seed: int,
        max_steps: int,
        sources: Sequence[PairSource] | None = None,
    ) -> None:
        super().__init__(seed=seed, max_steps=max_steps, resize_on_device=config.resize_on_device)
        self.config = config
        self.sources = sources or open_sources(config.sources, config.order, config.corrupt_samples)
        self._sample_bytes = bytes_per_sample(config, transform)
        self._transform = MaskedImage(transform, num_patches)

    @cached_property
    def order(self) -> Order:
        config = self.config
        return build_order(self.sources, config.sources, config.global_batch_size, self.seed, config.order)

    @cached_property
    def dataset(self) -> PairDataset[ImageBatch]:
        return PairDataset(self.sources, self.new_batch, self.seed)

    def train_dataloader(self) -> "DataLoader[ImageBatch]":
        """The remaining batches of this rank; the whole run is one Lightning epoch."""
        dataset: PairDataset[Any] = self.dataset
        if self.cuts_on_device():
            dataset = PairDataset(self.sources, self.new_uncut_batch, self.seed)
        steps_ahead = steps_to_read_ahead(self.sources, self.config)
        sampler = self.build_sampler(self.order, steps_ahead)
        ahead = batches_per_worker(self.config, self._sample_bytes * sampler.batch_size)
        return build_loader(dataset, sampler, self.config.num_workers, ahead)

    def new_batch(self, num_samples: int) -> ImageBatchWriter:
        """A batch without its samples."""
        return self._writer(CutWriter(self._transform.distributions, num_samples, write_crops), num_samples)

    def new_uncut_batch(self, num_samples: int) -> UncutBatchWriter:
        """A batch without its samples, whose crops the device will cut."""
        pixels = UncutWriter(self._transform.distributions, num_samples)
        return UncutBatchWriter(self._writer(pixels, num_samples), pixels, ("images",))

    def _writer(self, pixels: CropWriter, num_samples: int) -> ImageBatchWriter:
        limit = self.config.corrupt_samples.max_image_pixels
        return ImageBatchWriter(self._transform, pixels, max_image_pixels=limit, num_samples=num_samples)
