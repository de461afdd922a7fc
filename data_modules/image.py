"""The LightningDataModule of MAE pre-training."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data_modules.config import ImageDataConfig
from data_modules.faults import FaultReport
from data_modules.images.config import MaskedImageConfig
from data_modules.images.decoding import open_image
from data_modules.images.transforms.crops import SampledCrops, write_crops
from data_modules.images.transforms.masked_image import MaskedImage
from data_modules.loading import PairDataset, StageDataModule, build_loader, open_sources
from data_modules.order.mixture import build_order
from data_modules.order.sampling import Order
from data_modules.records import ImageBatch, PairRecord
from data_modules.sources.rows import PairSource


class ImageBatchWriter:
    """An `ImageBatch` that is being filled.

    Args:
        transform: Cuts the images and samples the noise.
        max_image_pixels: Larger images are faults.
        num_samples: Size of the batch.
    """

    def __init__(self, transform: MaskedImage, *, max_image_pixels: int, num_samples: int) -> None:
        self._transform, self._max_image_pixels = transform, max_image_pixels
        self._memory = transform.new_batch(num_samples)
        self._sampled: dict[int, SampledCrops] = {}

    def sample(self, place: int, record: PairRecord, generator: np.random.Generator, repairs: list[str]) -> None:
        """One crop, then the noise of its mask."""
        image = open_image(record.image, record.file_name, repairs, self._max_image_pixels)
        self._sampled[place] = self._transform.sample(image, generator, self._memory.noise[place])

    def write(self, place: int) -> None:
        """Decode the image and write its crop."""
        write_crops(self._sampled.pop(place), self._memory.slots[place])

    def finish(self, ids: Tensor, seeds: Tensor, faults: list[FaultReport]) -> ImageBatch:
        """The batch."""
        noise = torch.from_numpy(self._memory.noise)
        return ImageBatch(images=self._memory.images, noise=noise, sample_ids=ids, sample_seeds=seeds, faults=faults)


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
        super().__init__(seed=seed, max_steps=max_steps)
        self.config = config
        self.sources = sources or open_sources(config.sources, config.order.shuffle_window, config.corrupt_samples)
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
        return build_loader(self.dataset, self.build_sampler(self.order), self.config.num_workers)

    def new_batch(self, num_samples: int) -> ImageBatchWriter:
        """A batch without its samples."""
        limit = self.config.corrupt_samples.max_image_pixels
        return ImageBatchWriter(self._transform, max_image_pixels=limit, num_samples=num_samples)
