"""The LightningDataModule of MAE pre-training."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from data_modules.config import ImageDataConfig
from data_modules.images.config import MaskedImageConfig
from data_modules.images.decoding import open_image
from data_modules.images.transforms.masked_image import MaskedImage
from data_modules.loading import Loaded, PairDataset, StageDataModule, build_loader, open_sources
from data_modules.order.mixture import build_order
from data_modules.order.sampling import Draw, Order
from data_modules.records import ImageBatch, PairRecord
from data_modules.sources.rows import PairSource


@dataclass(slots=True, kw_only=True)
class ImageSample:
    """One image with the noise of its mask."""

    image: NDArray[np.uint8]
    noise: NDArray[np.float32]
    sample_id: int
    sample_seed: int


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
    def dataset(self) -> PairDataset[ImageSample]:
        return PairDataset(self.sources, self.make_sample, self.seed)

    def train_dataloader(self) -> "DataLoader[ImageBatch]":
        """The remaining batches of this rank; the whole run is one Lightning epoch."""
        return build_loader(self.dataset, self.build_sampler(self.order), self.collate, self.config.num_workers)

    def make_sample(
        self, draw: Draw, record: PairRecord, generator: np.random.Generator, repairs: list[str]
    ) -> ImageSample:
        """One crop and one mask from the sample's own stream."""
        encoded = open_image(record.image, record.file_name, repairs, self.config.corrupt_samples.max_image_pixels)
        image, noise = self._transform(encoded, generator)
        return ImageSample(image=image, noise=noise, sample_id=draw.sample_id, sample_seed=draw.model_seed(self.seed))

    @staticmethod
    def collate(loaded: list[Loaded[ImageSample]]) -> ImageBatch:
        samples = [one.sample for one in loaded]
        return ImageBatch(
            images=torch.from_numpy(np.stack([sample.image for sample in samples])),
            noise=torch.from_numpy(np.stack([sample.noise for sample in samples])),
            sample_ids=torch.tensor([sample.sample_id for sample in samples]),
            sample_seeds=torch.tensor([sample.sample_seed for sample in samples]),
            faults=[fault for one in loaded for fault in one.faults],
        )
