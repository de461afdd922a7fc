"""The LightningDataModule of contrastive training."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data_modules.config import ImageTextDataConfig, resize_problem
from data_modules.faults import FaultReport
from data_modules.images.config import MultiCropConfig
from data_modules.images.decoding import open_image
from data_modules.images.transforms.crops import CropWriter, CutWriter, SampledCrops
from data_modules.images.transforms.multi_crop import MultiCrop
from data_modules.images.transforms.uncut import UncutWriter
from data_modules.languages import LANGUAGES
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
from data_modules.records import ImageTextBatch, PairRecord
from data_modules.sources.languages import apply_language_rule
from data_modules.sources.planted import plant_differences
from data_modules.sources.rows import PairSource
from data_modules.text.captions import CaptionSampler
from data_modules.text.config import TokenizerConfig
from data_modules.text.normalization import NORMALIZATION
from data_modules.text.tokenizer import BilingualTokenizer, build_tokenizer


def training_texts(sources: Sequence[PairSource], max_pairs: int) -> Iterator[str]:
    """Training texts of a tokenizer: of every n-th row of each source, so that at most `max_pairs` pairs are read."""
    every = max(1, -(-sum(map(len, sources)) // max_pairs))
    return (text for source in sources for _, text in source.captions(every))


class ImageTextBatchWriter:
    """An `ImageTextBatch` that is being filled.

    Args:
        transform: Samples the crops.
        pixels: Receives their pixels.
        captions: Samples the captions.
        tokenizer: Encodes the captions of the finished batch.
        max_image_pixels: Larger images are faults.
        num_samples: Size of the batch.
    """

    def __init__(
        self,
        transform: MultiCrop,
        pixels: CropWriter,
        captions: CaptionSampler,
        tokenizer: BilingualTokenizer,
        *,
        max_image_pixels: int,
        num_samples: int,
    ) -> None:
        self._transform, self._pixels, self._sample_caption = transform, pixels, captions
        self._tokenizer, self._max_image_pixels = tokenizer, max_image_pixels
        self._captions, self._languages = [""] * num_samples, [0] * num_samples
        self._sampled: dict[int, SampledCrops] = {}

    def sample(self, place: int, record: PairRecord, generator: np.random.Generator, repairs: list[str]) -> None:
        """The caption first, then the crops."""
        self._captions[place] = self._sample_caption(record, generator)
        self._languages[place] = LANGUAGES.index(record.language)
        image = open_image(record.image, record.file_name, repairs, self._max_image_pixels)
        self._sampled[place] = self._transform.sample(image, generator)

    def write(self, place: int) -> None:
        """Decode the image, and cut its crops unless the device does."""
        self._pixels.write(place, self._sampled.pop(place))

    def finish(self, ids: Tensor, seeds: Tensor, faults: list[FaultReport]) -> ImageTextBatch:
        """The batch; captions are tokenized together and padded to the longest."""
        global_crops, local_crops, views = self._pixels.crops
        tokens = self._tokenizer.encode(self._captions)
        return ImageTextBatch(
            global_crops=global_crops,
            local_crops=local_crops,
            views=views,
            tokens=tokens,
            token_counts=self._tokenizer.count_encoded(tokens),
            languages=torch.tensor(self._languages),
            captions=self._captions,
            sample_ids=ids,
            sample_seeds=seeds,
            faults=faults,
        )


class ImageTextDataModule(StageDataModule):
    """Batches of crops and tokenized captions over a weighted mixture of sources.

    Args:
        config: Sources, mixture and batch size.
        transform: Crops of an image.
        tokenizer: The tokenizer, or its settings, with which it is trained or loaded here.
        seed: Seed of the order and of all random streams.
        max_steps: Optimizer steps of the stage.
        sources: From `open_sources`, before the rule of `config.languages` is applied; `None`: they are opened here.
        normalization: Version of the normalisation of a tokenizer that is trained here.
    """

    def __init__(
        self,
        config: ImageTextDataConfig,
        transform: MultiCropConfig,
        tokenizer: TokenizerConfig | BilingualTokenizer,
        *,
        seed: int,
        max_steps: int,
        sources: Sequence[PairSource] | None = None,
        normalization: int = NORMALIZATION,
    ) -> None:
        super().__init__(seed=seed, max_steps=max_steps, resize_on_device=config.resize_on_device)
        if problem := resize_problem(config.resize_on_device, transform):
            raise ValueError(problem)
        self.config = config
        opened = sources or open_sources(config.sources, config.order, config.corrupt_samples)
        ruled = apply_language_rule(opened, config.sources, config.languages, config.language_overlap)
        self.sources = plant_differences(ruled, config.sources, config.planted)
        if isinstance(tokenizer, TokenizerConfig):
            texts = training_texts(self.sources, tokenizer.max_training_pairs)
            tokenizer = build_tokenizer(tokenizer, texts, normalization)
        self.tokenizer = tokenizer
        self._sample_bytes = bytes_per_sample(config, transform)
        self._transform = MultiCrop(transform)
        self._captions = CaptionSampler(config.captions)

    @cached_property
    def order(self) -> Order:
        config = self.config
        return build_order(self.sources, config.sources, config.global_batch_size, self.seed, config.order)

    @cached_property
    def dataset(self) -> PairDataset[ImageTextBatch]:
        return PairDataset(self.sources, self.new_batch, self.seed)

    def train_dataloader(self) -> "DataLoader[ImageTextBatch]":
        """The remaining batches of this rank; the whole run is one Lightning epoch."""
        dataset: PairDataset[Any] = self.dataset
        if self.cuts_on_device():
            dataset = PairDataset(self.sources, self.new_uncut_batch, self.seed)
        steps_ahead = steps_to_read_ahead(self.sources, self.config)
        sampler = self.build_sampler(self.order, steps_ahead)
        ahead = batches_per_worker(self.config, self._sample_bytes * sampler.batch_size)
        return build_loader(dataset, sampler, self.config.num_workers, ahead)

    def new_batch(self, num_samples: int) -> ImageTextBatchWriter:
        """A batch without its samples."""
        transform = self._transform
        return self._writer(CutWriter(transform.distributions, num_samples, transform.write), num_samples)

    def new_uncut_batch(self, num_samples: int) -> UncutBatchWriter:
        """A batch without its samples, whose crops the device will cut."""
        pixels = UncutWriter(self._transform.distributions, num_samples)
        return UncutBatchWriter(self._writer(pixels, num_samples), pixels, ("global_crops", "local_crops", "views"))

    def _writer(self, pixels: CropWriter, num_samples: int) -> ImageTextBatchWriter:
        return ImageTextBatchWriter(
            self._transform,
            pixels,
            self._captions,
            self.tokenizer,
            max_image_pixels=self.config.corrupt_samples.max_image_pixels,
            num_samples=num_samples,
        )
