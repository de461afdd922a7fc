"""The LightningDataModule of contrastive training."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from data_modules.config import ImageTextDataConfig
from data_modules.images.config import MultiCropConfig
from data_modules.images.decoding import open_image
from data_modules.images.transforms.multi_crop import MultiCrop
from data_modules.languages import LANGUAGES
from data_modules.loading import Loaded, PairDataset, StageDataModule, build_loader, open_sources
from data_modules.order.mixture import build_order
from data_modules.order.sampling import Draw, Order
from data_modules.records import ImageTextBatch, PairRecord
from data_modules.sources.languages import apply_language_rule
from data_modules.sources.rows import PairSource
from data_modules.text.captions import CaptionSampler
from data_modules.text.config import TokenizerConfig
from data_modules.text.normalization import NORMALIZATION
from data_modules.text.tokenizer import BilingualTokenizer, build_tokenizer


@dataclass(slots=True, kw_only=True)
class PairSample:
    """One pair before collation."""

    global_crops: NDArray[np.uint8]
    local_crops: NDArray[np.uint8]
    views: NDArray[np.uint8]
    caption: str
    language: int
    sample_id: int
    sample_seed: int


def training_texts(sources: Sequence[PairSource], max_pairs: int) -> Iterator[str]:
    """Training texts of a tokenizer: of every n-th row of each source, so that at most `max_pairs` pairs are read."""
    every = max(1, -(-sum(map(len, sources)) // max_pairs))
    return (text for source in sources for _, text in source.captions(every))


class ImageTextDataModule(StageDataModule):
    """Batches of crops and tokenized captions over a weighted mixture of sources.

    Args:
        config: Sources, mixture and batch size.
        transform: Crops of an image.
        tokenizer: The tokenizer, which is trained or loaded here.
        seed: Seed of the order and of all random streams.
        max_steps: Optimizer steps of the stage.
        sources: From `open_sources`, before the rule of `config.languages` is applied; `None`: they are opened here.
        normalization: Version of the normalisation of a tokenizer that is trained here.
    """

    def __init__(
        self,
        config: ImageTextDataConfig,
        transform: MultiCropConfig,
        tokenizer: TokenizerConfig,
        *,
        seed: int,
        max_steps: int,
        sources: Sequence[PairSource] | None = None,
        normalization: int = NORMALIZATION,
    ) -> None:
        super().__init__(seed=seed, max_steps=max_steps)
        self.config = config
        opened = sources or open_sources(config.sources, config.order.shuffle_window, config.corrupt_samples)
        self.sources = apply_language_rule(opened, config.sources, config.languages)
        self.tokenizer: BilingualTokenizer = build_tokenizer(
            tokenizer, training_texts(self.sources, tokenizer.max_training_pairs), normalization
        )
        self._crops = MultiCrop(transform)
        self._captions = CaptionSampler(config.captions)

    @cached_property
    def order(self) -> Order:
        config = self.config
        return build_order(self.sources, config.sources, config.global_batch_size, self.seed, config.order)

    @cached_property
    def dataset(self) -> PairDataset[PairSample]:
        return PairDataset(self.sources, self.make_sample, self.seed)

    def train_dataloader(self) -> "DataLoader[ImageTextBatch]":
        """The remaining batches of this rank; the whole run is one Lightning epoch."""
        return build_loader(self.dataset, self.build_sampler(self.order), self.collate, self.config.num_workers)

    def make_sample(
        self, draw: Draw, record: PairRecord, generator: np.random.Generator, repairs: list[str]
    ) -> PairSample:
        """Samples the caption first, then the crops, from the sample's own stream."""
        caption = self._captions(record, generator)
        encoded = open_image(record.image, record.file_name, repairs, self.config.corrupt_samples.max_image_pixels)
        crops = self._crops(encoded, generator)
        return PairSample(
            global_crops=crops.global_crops,
            local_crops=crops.local_crops,
            views=crops.views,
            caption=caption,
            language=LANGUAGES.index(record.language),
            sample_id=draw.sample_id,
            sample_seed=draw.model_seed(self.seed),
        )

    def collate(self, loaded: list[Loaded[PairSample]]) -> ImageTextBatch:
        """One batch; captions are tokenized together and padded to the longest."""
        samples = [one.sample for one in loaded]
        captions = [sample.caption for sample in samples]
        tokens = self.tokenizer.encode(captions)
        return ImageTextBatch(
            global_crops=torch.from_numpy(np.stack([sample.global_crops for sample in samples], axis=1)),
            local_crops=torch.from_numpy(np.stack([sample.local_crops for sample in samples], axis=1)),
            tokens=tokens,
            token_counts=self.tokenizer.count_encoded(tokens),
            languages=torch.tensor([sample.language for sample in samples]),
            sample_ids=torch.tensor([sample.sample_id for sample in samples]),
            sample_seeds=torch.tensor([sample.sample_seed for sample in samples]),
            captions=captions,
            views=torch.from_numpy(np.stack([sample.views for sample in samples], axis=1)),
            faults=[fault for one in loaded for fault in one.faults],
        )
