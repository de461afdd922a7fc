"""Fixed batches in memory: random pixels and tokens, with caption lengths of a distribution.

Shapes: B pairs, V global crops, V' local crops, T tokens, H image side.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, models
from torch import Tensor
from torch.nn import functional as F

from data_modules.loading import StageDataModule
from data_modules.records import Batch, ImageTextBatch
from data_modules.text.tokenizer import END, PAD, START, BilingualTokenizer
from kelip_lightning.benchmarks.step.captions import CaptionLengths
from kelip_lightning.benchmarks.step.setting import LOCAL_SIZE, PAD_ID, StepSetting, architecture_of
from kelip_lightning.interchange.formats.architecture import Architecture
from kelip_lightning.models.preprocessing import normalize_images

NUM_BATCHES = 4
"""Different batches of a round, used in turn."""


def make_batches(setting: StepSetting, lengths: CaptionLengths, seed: int) -> list[ImageTextBatch]:
    """`NUM_BATCHES` batches as the loader makes them: uint8 crops, captions padded to the longest of the batch."""
    sizes = architecture_of(setting)
    generator, noise = np.random.default_rng(seed), torch.Generator().manual_seed(seed)

    def crops(number: int, side: int) -> Tensor:
        return torch.randint(0, 256, (number, setting.batch, 3, side, side), dtype=torch.uint8, generator=noise)

    batches = []
    for number in range(NUM_BATCHES):
        ids = torch.arange(number * setting.batch, (number + 1) * setting.batch)
        global_crops = crops(setting.global_crops, sizes.image.image_size)
        local_crops = crops(setting.local_crops, LOCAL_SIZE[setting.model])
        counts = lengths.draw(setting.batch, sizes.context_length, generator)
        batches.append(
            ImageTextBatch(
                global_crops=global_crops,
                local_crops=local_crops,
                tokens=random_tokens(counts, sizes, generator),
                languages=ids % 2,
                sample_ids=ids,
                sample_seeds=ids,
                captions=[""] * setting.batch,
                token_counts=counts.tolist(),
            )
        )
    return batches


def random_tokens(lengths: NDArray[np.int64], sizes: Architecture, generator: np.random.Generator) -> Tensor:
    """Start, random tokens, end and padding, int64 (B, T); T is the longest of the lengths, >= 2 each."""
    start, end = sizes.eot_id - 1, sizes.eot_id
    tokens = np.full((len(lengths), int(lengths.max())), sizes.pad_id, dtype=np.int64)
    for row, length in zip(tokens, lengths, strict=True):
        row[0], row[length - 1] = start, end
        row[1 : length - 1] = generator.integers(sizes.pad_id + 1, start, length - 2)
    return torch.from_numpy(tokens)


def plain_tokenizer(sizes: Architecture) -> BilingualTokenizer:
    """A tokenizer with the ids of the model, which the trainer wants to know; captions are tokens already."""
    words = {f"word {number}": number for number in range(sizes.vocab_size)}
    special = {PAD: sizes.pad_id, START: sizes.eot_id - 1, END: sizes.eot_id}
    kept = {word: number for word, number in words.items() if number not in special.values()}
    return BilingualTokenizer(Tokenizer(models.WordLevel(kept | special, unk_token=PAD)), sizes.context_length)


class FixedBatches(StageDataModule):
    """The same batches in turn, `max_steps` of them."""

    def __init__(self, batches: Sequence[Batch], max_steps: int) -> None:
        super().__init__(seed=0, max_steps=max_steps)
        self._batches = [batch.pin_memory() if torch.cuda.is_available() else batch for batch in batches]

    def train_dataloader(self) -> "InTurn":
        """All steps; no sample is loaded."""
        return InTurn(self._batches, self.max_steps)


class InTurn:
    """An iterable of `length` batches."""

    def __init__(self, batches: Sequence[Batch], length: int) -> None:
        self._batches, self._length = batches, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Batch]:
        # A new object each time, as from a loader: Lightning moves the fields of the one it gets to the device.
        return (replace(self._batches[step % len(self._batches)]) for step in range(self._length))


@dataclass(frozen=True, slots=True, kw_only=True)
class FloatBatch:
    """A batch as open_clip's loader makes it: standardised float32 images."""

    global_crops: Tensor
    """(V, B, 3, H, H)."""
    local_crops: Tensor
    """(V', B, 3, h, h)."""
    tokens: Tensor
    """int64 (B, T)."""

    def to(self, device: torch.device) -> Self:
        """The batch on the device, copied without waiting."""
        return self._each(lambda one: one.to(device, non_blocking=True))

    def pin_memory(self) -> Self:
        """The batch in page-locked memory."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return replace(self, **{field.name: change(getattr(self, field.name)) for field in fields(self)})


def float_batch(batch: ImageTextBatch, width: int | None = None) -> FloatBatch:
    """The same images and captions, padded to `width` tokens; `None`: to the longest, as they are."""
    missing = 0 if width is None else width - batch.tokens.shape[1]
    made = FloatBatch(
        global_crops=normalize_images(batch.global_crops),
        local_crops=normalize_images(batch.local_crops),
        tokens=F.pad(batch.tokens, (0, missing), value=PAD_ID),
    )
    return made.pin_memory() if torch.cuda.is_available() else made
