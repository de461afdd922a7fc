"""Batches of contrastive training from a table on disk: the same for any number of workers."""

import hashlib
import pickle
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from data_modules import records
from data_modules.config import CorruptSampleConfig, ImageTextDataConfig, OrderConfig
from data_modules.faults import FaultReport
from data_modules.image_text import ImageTextDataModule, training_texts
from data_modules.images.config import Background, MultiCropConfig, StrongConfig, ViewConfig
from data_modules.images.decoding import open_image
from data_modules.languages import LANGUAGES
from data_modules.loading import open_sources
from data_modules.order.sampling import Draw
from data_modules.records import ImageTextBatch, UncutBatch
from data_modules.sources.config import SourceConfig
from data_modules.text.captions import CaptionSampler
from data_modules.text.config import CaptionConfig, TokenizerConfig
from tests.trainers import quiet_trainer
from tests.unit.data_modules.corpora import FORMATS, Sample, samples, write_source
from tests.unit.data_modules.one_by_one import crops_of, made_from, model_seed_of, stream_of

Rows = list[dict[str, Any]]
TRANSFORM = MultiCropConfig(image_size=16, local_size=8, num_local_crops=3)
OFF = StrongConfig()
CAPTIONS = CaptionConfig(name=0.4, name_keywords=0.3, keywords=0.3, min_keywords=1, max_keywords=2)


@pytest.fixture
def config(rows: Rows, write_table: Callable[[Rows, str], str]) -> ImageTextDataConfig:
    source = SourceConfig(
        files=[write_table(rows, "a.parquet")],
        captions={"ko": "name_ko", "en": "name_en"},
        keywords={"ko": "words_ko", "en": "words_en"},
    )
    return ImageTextDataConfig(sources={"all": source}, captions=CAPTIONS, global_batch_size=8, num_workers=0)


def _data(config: ImageTextDataConfig, transform: MultiCropConfig = TRANSFORM) -> ImageTextDataModule:
    return ImageTextDataModule(config, transform, TokenizerConfig(vocab_size=300), seed=2, max_steps=4)


def _fingerprint(batch: ImageTextBatch) -> tuple[Any, ...]:
    pixels = hashlib.sha256(batch.global_crops.numpy().tobytes() + batch.local_crops.numpy().tobytes()).hexdigest()
    return batch.sample_ids.tolist(), pixels, batch.captions, batch.tokens.tolist(), batch.languages.tolist()


def test_train_dataloader__shapes_and_order(config: ImageTextDataConfig) -> None:
    data = _data(config)
    for step, batch in enumerate(data.train_dataloader()):
        assert (batch.global_crops.shape, batch.global_crops.dtype) == ((2, 8, 3, 16, 16), torch.uint8)
        assert (batch.local_crops.shape, batch.local_crops.dtype) == ((3, 8, 3, 8, 8), torch.uint8)
        assert batch.sample_ids.tolist() == data.order.batch(step).tolist()
        assert batch.languages.tolist() == [sample_id % 2 for sample_id in batch.sample_ids.tolist()]
        assert torch.equal(batch.tokens, data.tokenizer.encode(batch.captions))
        assert batch.token_counts == [number + 2 for number in data.tokenizer.count_tokens(batch.captions)]


def test_train_dataloader__no_local_crops(config: ImageTextDataConfig) -> None:
    batch = next(iter(_data(config, replace(TRANSFORM, num_local_crops=0)).train_dataloader()))
    assert batch.local_crops.shape == (0, 8, 3, 8, 8)


def _expected(
    data: ImageTextDataModule, transform: MultiCropConfig, draws: Sequence[Draw]
) -> tuple[list[Any], list[np.ndarray], list[Any]]:
    """Samples (id, seed, caption, language), crops by kind and faults of these draws, made one at a time."""
    (source,), views, flip = data.sources, transform.views, transform.flip
    scales = (transform.global_scale_min, transform.global_scale_max)
    kinds = [
        (transform.num_global_crops, transform.image_size, *scales, flip),
        (transform.num_local_crops, transform.local_size, transform.local_scale_min, transform.local_scale_max, flip),
        (views.num_views, transform.image_size, views.scale_min, views.scale_max, views.flip),
    ]
    samples, crops, faults = [], [], []
    for draw in draws:
        used, record, found = made_from(source, draw)
        stream = stream_of(data.seed, used)
        caption = CaptionSampler(data.config.captions)(record, stream)
        crops.append(crops_of(open_image(record.image), kinds, transform.background, stream))
        samples.append((used.sample_id, model_seed_of(data.seed, used), caption, LANGUAGES.index(record.language)))
        faults += found
    return samples, [np.stack(group, axis=1) for group in zip(*crops, strict=True)], faults


def _check(
    data: ImageTextDataModule, transform: MultiCropConfig, batch: ImageTextBatch, draws: Sequence[Draw]
) -> list[FaultReport]:
    """A batch against samples made one at a time; returns the faults."""
    samples, crops, faults = _expected(data, transform, draws)
    seen = (batch.sample_ids.tolist(), batch.sample_seeds.tolist(), batch.captions, batch.languages.tolist())
    assert list(zip(*seen, strict=True)) == samples
    for found, expected in zip((batch.global_crops, batch.local_crops, batch.views), crops, strict=True):
        assert np.array_equal(found, expected)
    assert batch.faults == faults
    return faults


def test_train_dataloader__equals_samples_made_one_at_a_time(config: ImageTextDataConfig) -> None:
    transform = replace(TRANSFORM, flip=0.5, background=Background.random, views=ViewConfig(num_views=2, strong=OFF))
    data = _data(config, transform)
    for step, batch in enumerate(data.train_dataloader()):
        draws = [Draw(step, sample_id) for sample_id in data.order.batch(step).tolist()]
        assert _check(data, transform, batch, draws) == []


def _damaged(corpus: list[Sample]) -> list[Sample]:
    """Every fifth image is no image, and every seventh is cut behind its header, which only decoding finds."""
    cut = [one._replace(image=b"none") if i % 5 == 1 else one for i, one in enumerate(corpus)]
    return [one._replace(image=one.image[:-200]) if i % 7 == 3 else one for i, one in enumerate(cut)]


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", FORMATS)
def test_train_dataloader__of_any_source_with_corrupt_samples_equals_samples_made_one_at_a_time(
    tmp_path: Path, kind: str, num_workers: int
) -> None:
    source = write_source(kind, tmp_path, _damaged(samples(40)), per_shard=6)
    limit = CorruptSampleConfig(max_share=1.0)
    config = ImageTextDataConfig(
        sources={"web": source}, global_batch_size=20, num_workers=num_workers, corrupt_samples=limit
    )
    transform = replace(TRANSFORM, flip=0.5, background=Background.light)
    data = _data(config, transform)
    kinds: set[str] = set()
    for step, batch in enumerate(data.train_dataloader()):
        draws = [Draw(step, sample_id) for sample_id in data.order.batch(step).tolist()]
        kinds |= {fault.kind for fault in _check(data, transform, batch, draws)}
    assert "image_undecodable" in kinds


class _Trainer(SimpleNamespace):
    """A trainer on a device."""

    def __init__(self, device: str) -> None:
        super().__init__(global_rank=0, world_size=1, strategy=SimpleNamespace(root_device=torch.device(device)))


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.parametrize("kind", FORMATS)
def test_train_dataloader__crops_left_to_the_device_are_those_of_the_cpu_within_2(
    tmp_path: Path, kind: str, num_workers: int
) -> None:
    source, limit = write_source(kind, tmp_path, _damaged(samples(40)), per_shard=6), CorruptSampleConfig(max_share=1.0)
    config = ImageTextDataConfig(
        sources={"web": source}, global_batch_size=20, num_workers=num_workers, corrupt_samples=limit
    )
    views = ViewConfig(num_views=2, strong=OFF)
    transform = replace(TRANSFORM, flip=0.5, background=Background.random, views=views)
    here, there = _data(config, transform), _data(replace(config, resize_on_device=True), transform)
    there.trainer = _Trainer("cuda")
    for expected, uncut in zip(here.train_dataloader(), there.train_dataloader(), strict=True):
        assert isinstance(uncut, UncutBatch)
        found = there.on_after_batch_transfer(uncut, 0)
        for name in ("global_crops", "local_crops", "views"):
            crops, same = getattr(found, name), getattr(expected, name)
            assert crops.shape == same.shape
            assert (crops.int() - same.int()).abs().max() <= 2
        for name in ("tokens", "languages", "sample_ids", "sample_seeds"):
            assert torch.equal(getattr(found, name), getattr(expected, name))
        assert (found.captions, found.faults) == (expected.captions, expected.faults)
        assert there.on_after_batch_transfer(expected, 0) is expected


class _Recorder(pl.LightningModule):
    """Keeps the batches of its training steps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.batches = torch.nn.Parameter(torch.zeros(1)), list[ImageTextBatch]()

    def training_step(self, batch: ImageTextBatch, _: int) -> torch.Tensor:
        self.batches.append(batch)
        return self.weight.sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
def test_training_step__gets_whole_batches_from_lightning(
    config: ImageTextDataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    for on_device in (False, True):
        monkeypatch.setattr(ImageTextDataModule, "cuts_on_device", lambda _, on_device=on_device: on_device)
        module = _Recorder()
        quiet_trainer(4).fit(module, datamodule=_data(config))
        seen.append(module.batches)
    assert [len(one) for one in seen] == [4, 4]
    for here, there in zip(*seen, strict=True):
        assert isinstance(there, ImageTextBatch)
        assert torch.equal(here.global_crops, there.global_crops), "PNGs are the same"
        assert torch.equal(here.tokens, there.tokens)


def test_cuts_on_device__not_on_a_cpu_which_is_logged(
    config: ImageTextDataConfig, caplog: pytest.LogCaptureFixture
) -> None:
    data = _data(replace(config, resize_on_device=True))
    caplog.set_level("INFO", logger="data_modules.loading")
    assert not data.cuts_on_device(), "no trainer"
    data.trainer = _Trainer("cpu")
    assert isinstance(next(iter(data.train_dataloader())), ImageTextBatch)
    assert [one.message for one in caplog.records] == [
        "data.resize_on_device = true has no effect: the device is a CPU, on which the loader resizes"
    ]
    data.trainer = _Trainer("cuda")
    assert data.cuts_on_device()
    off = _data(config)
    off.trainer = _Trainer("cuda")
    assert not off.cuts_on_device()


@pytest.mark.parametrize(
    ("transform", "section"),
    [
        (replace(TRANSFORM, strong=StrongConfig(grayscale=0.1)), "transform.strong"),
        (replace(TRANSFORM, views=ViewConfig(num_views=2)), "transform.views.strong"),
    ],
)
def test_resize_on_device__refuses_strong_augmentation(
    config: ImageTextDataConfig, transform: MultiCropConfig, section: str
) -> None:
    with pytest.raises(ValueError, match=f"^data.resize_on_device = true .* and {section} augments their pixels"):
        _data(replace(config, resize_on_device=True), transform)


def test_train_dataloader__pixels_of_a_worker_are_in_shared_memory_from_the_start(
    config: ImageTextDataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    draws = [Draw(0, number) for number in range(5)]
    plain = _data(config).dataset.load(draws)
    monkeypatch.setattr(records, "get_worker_info", lambda: object())
    shared = _data(config, replace(TRANSFORM, num_local_crops=0)).dataset.load(draws)
    assert shared.global_crops.is_shared() and not plain.global_crops.is_shared()
    assert torch.equal(shared.global_crops, plain.global_crops)
    assert shared.local_crops.shape == (0, 5, 3, 8, 8)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize("num_workers", [1, 3])
def test_train_dataloader__workers_change_neither_batches_nor_random_streams(
    config: ImageTextDataConfig, num_workers: int
) -> None:
    alone = [_fingerprint(batch) for batch in _data(config).train_dataloader()]
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    shared = [_fingerprint(batch) for batch in _data(replace(config, num_workers=num_workers)).train_dataloader()]
    assert shared == alone
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1].tolist(), random.getstate()) == before[1:]


def test_tokenizer__is_trained_on_every_caption_and_keyword(config: ImageTextDataConfig) -> None:
    data = _data(config)
    assert data.tokenizer.to_json() == _data(config).tokenizer.to_json()
    assert data.tokenizer.encode("이름").shape == (1, 3), "a frequent Korean word is one token"
    texts = {text for _, text in data.sources[0].captions()}
    assert {"이름 5", "name 5", "가", "b"} <= texts


def test_train_dataloader__views_leave_crops_and_captions_as_they_are(config: ImageTextDataConfig) -> None:
    plain = next(iter(_data(config).train_dataloader()))
    batch = next(iter(_data(config, replace(TRANSFORM, views=ViewConfig(num_views=2))).train_dataloader()))
    assert (batch.views.shape, batch.views.dtype) == ((2, 8, 3, 16, 16), torch.uint8)
    assert plain.views.shape == (0, 8, 3, 16, 16)
    assert _fingerprint(batch) == _fingerprint(plain)
    assert torch.equal(batch.sample_seeds, plain.sample_seeds)


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize(("limit", "every"), [(100, 1), (12, 1), (11, 2), (4, 3), (1, 12)])
def test_training_texts__of_every_nth_row_up_to_the_limit(tmp_path: Path, kind: str, limit: int, every: int) -> None:
    corpus = samples(12)
    sources = open_sources({"all": write_source(kind, tmp_path, corpus, per_shard=5)})
    assert list(training_texts(sources, limit)) == [one.caption for one in corpus[::every]]


def test_training_texts__keep_both_languages_of_a_row(config: ImageTextDataConfig) -> None:
    source = open_sources(config.sources)[0]
    languages = [language for language, _ in source.captions(every=2)]
    assert languages.count("ko") == languages.count("en") > 0
    assert len(list(source.captions(every=2))) == len(list(source.captions())) / 2


def test_dataset__travels_to_a_loader_process_without_trainer_and_order(tmp_path: Path) -> None:
    """Where processes are not forked they get the dataset by pickle, once each."""
    source = write_source("shards", tmp_path, samples(31), per_shard=6)
    order = OrderConfig(single_language_batches=True)
    config = ImageTextDataConfig(sources={"web": source}, order=order, global_batch_size=8, num_workers=0)
    data = _data(config)
    data.trainer = SimpleNamespace(unpicklable=lambda: None)
    before = len(pickle.dumps(data.dataset))
    batch = data.order.batch(0)
    sent = pickle.dumps(data.dataset)
    assert len(sent) == before
    draw = Draw(0, int(batch[3]))
    here, there = data.dataset.load([draw]), pickle.loads(sent).load([draw])
    assert (here.captions, here.global_crops.tolist()) == (there.captions, there.global_crops.tolist())
