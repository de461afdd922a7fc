"""A run of a few steps with a stub of the contrastive stage, small enough for every callback test."""

import io
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from data_modules.benchmarks.class_names import ClassNames
from data_modules.benchmarks.evaluation_sets import CaptionSet, ClassificationSet, EvaluationSets, RetrievalSet
from data_modules.benchmarks.image_stream import SelectedImages
from data_modules.benchmarks.sample_table import RowIds
from data_modules.faults import FaultReport
from tests.trainers import quiet_trainer

CAPTIONS = {"ko": ["사과", "강아지 얼굴", "도시락"], "en": ["apple", "dog face", "bento box"]}


class StoredPictures:
    """Five random PNG files of 8 x 8 pixels as a `SampleTable` without columns."""

    identity, columns = "pictures", ()

    def __len__(self) -> int:
        return 5

    def cells(self, column: str, rows: RowIds) -> list[Any]:
        raise AssertionError(column)

    def keys(self, rows: RowIds) -> list[str]:
        return [f"picture {row}" for row in rows]

    def image(self, row: int) -> bytes:
        buffer = io.BytesIO()
        pixels = np.random.default_rng(row).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(buffer, "PNG")
        return buffer.getvalue()


class ByteTokenizer:
    """UTF-8 bytes padded to 40."""

    def encode(self, texts: list[str]) -> Tensor:
        return torch.tensor([list(text.encode()[:40].ljust(40)) for text in texts])


class StubDualEncoder(nn.Module):
    """Mean colour and mean byte through a layer each; dropout, so that a wrong mode would draw numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.logit_scale = nn.Parameter(torch.zeros(1))
        self.image_layer = nn.Linear(3, 8)
        self.text_layer = nn.Embedding(256, 8)
        self.dropout = nn.Dropout(0.5)
        self.frozen = nn.Dropout(0.5).eval()
        self.image_encoder = SimpleNamespace(config=SimpleNamespace(image_size=8))

    def encode_image(self, images: Tensor, l2norm: bool = True) -> Tensor:
        return nn.functional.normalize(self.dropout(self.image_layer(images.mean(dim=(2, 3)))), dim=-1)

    def encode_text(self, tokens: Tensor, l2norm: bool = True) -> Tensor:
        return nn.functional.normalize(self.dropout(self.text_layer(tokens).mean(dim=1)), dim=-1)

    def scale(self) -> Tensor:
        return self.logit_scale.exp()


@dataclass(slots=True, kw_only=True)
class StubBatch:
    """What the callbacks may know of a batch."""

    images: Tensor
    sample_ids: Tensor
    languages: Tensor | None = None
    faults: list[FaultReport] = field(default_factory=list)


class Batches(Dataset[StubBatch]):
    """Fixed random batches of four, each after a wait."""

    def __init__(self, count: int, wait: Callable[[], None]) -> None:
        self._count = count
        self._wait = wait

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> StubBatch:
        self._wait()
        images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(index))
        return StubBatch(images=images, sample_ids=torch.arange(4))


class StubContrastiveModule(pl.LightningModule):
    """Trains something and logs what the real module logs; draws random numbers in every step."""

    stage_name = "contrastive"

    def __init__(self, wait: Callable[[], None]) -> None:
        super().__init__()
        self.wait = wait
        self.model = StubDualEncoder()
        self.tokenizer = ByteTokenizer()
        self.random_states: list[Any] = []
        self.train_modes: list[tuple[bool, bool]] = []

    def training_step(self, batch: StubBatch, batch_idx: int) -> Tensor:
        self.wait()
        self.random_states.append((torch.rand(1).item(), float(np.random.rand()), random.random()))
        self.train_modes.append((self.model.dropout.training, self.model.frozen.training))
        loss = self.model.encode_image(batch.images).square().mean() * self.model.scale().sum()
        self.log_dict(
            {
                "contrastive/loss": loss.detach(),
                "contrastive/accuracy_ko": 0.25,
                "contrastive/accuracy_en": 0.5,
            }
        )
        return loss

    def gradient_norm(self) -> Tensor:
        return torch.nn.utils.get_total_norm([one.grad for one in self.parameters() if one.grad is not None])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def sets() -> EvaluationSets:
    target = torch.tensor([0, 1, 2, 0, 1])
    images = SelectedImages(StoredPictures(), np.arange(5))
    pairs = torch.stack([torch.arange(5), target], dim=1)
    return EvaluationSets(
        retrieval=[
            RetrievalSet(
                name="unseen_design",
                identity="pictures",
                images=images,
                captions=CAPTIONS,
                positives=dict.fromkeys(CAPTIONS, pairs),
                image_concepts=target,
                caption_concepts=dict.fromkeys(CAPTIONS, torch.arange(3)),
            )
        ],
        captions=[CaptionSet(name="all_captions", identity="pictures", captions=CAPTIONS)],
        classification=[
            ClassificationSet(
                name="groups",
                identity="pictures",
                images=images,
                labels=target,
                classes=ClassNames(
                    ids=CAPTIONS["en"],
                    names={language: [[name] for name in names] for language, names in CAPTIONS.items()},
                    templates={"ko": ["{} 그림"], "en": ["a {}"]},
                ),
            )
        ],
    )


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., tuple[pl.Trainer, StubContrastiveModule]]:
    """Runs a Trainer with the given callbacks on the CPU and returns it with its module."""

    def run(
        callbacks: list[pl.Callback],
        *,
        steps: int = 7,
        in_step: Callable[[], None] = lambda: None,
        in_fetch: Callable[[], None] = lambda: None,
        ckpt_path: Path | None = None,
        **options: Any,
    ) -> tuple[pl.Trainer, StubContrastiveModule]:
        pl.seed_everything(0, verbose=False)
        module = StubContrastiveModule(in_step)
        options = {"log_every_n_steps": 2, "default_root_dir": tmp_path} | options
        trainer = quiet_trainer(steps, callbacks=callbacks, **options)
        loader = DataLoader(Batches(steps, in_fetch), batch_size=None)
        trainer.fit(module, loader, ckpt_path=ckpt_path)
        return trainer, module

    return run
