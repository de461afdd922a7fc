"""Streams serve an order within their window; other accesses start a new pass."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest

from data_modules.config import ImageTextDataConfig, OrderConfig
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from data_modules.image_text import ImageTextDataModule
from data_modules.images.config import MultiCropConfig
from data_modules.sources.config import SourceConfig, SourceFormat
from data_modules.sources.opening import open_source
from data_modules.sources.streaming import StreamSource
from data_modules.text.config import TokenizerConfig
from tests.unit.data_modules.corpora import samples, write_dataset

CORPUS = samples(30)
ROWS = [{"key": one.key, "image": {"bytes": one.image}, "caption": one.caption} for one in CORPUS]


class Stream:
    """Counts passes and rows."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.passes, self.read, self.fails_at = 0, 0, fails_at

    def __call__(self) -> Iterator[dict[str, Any]]:
        self.passes += 1
        for number, row in enumerate(ROWS):
            if number == self.fails_at and self.passes == 1:
                raise ConnectionError("connection lost")
            self.read += 1
            yield row


def _source(stream: Stream, length: int = 30, window: int = 8, language: str = "ko") -> StreamSource:
    config = SourceConfig(files=["hub/name"], caption_fields=["caption"], language=language, stream_length=length)
    return StreamSource("s", config, stream, window)


def test_stream__within_its_window_every_row_is_read_once() -> None:
    stream = Stream()
    source = _source(stream)
    generator = np.random.default_rng(0)
    wanted = [start + place for start in range(0, 24, 4) for place in generator.permutation(4)]
    assert [source[index].key for index in wanted] == [CORPUS[index].key for index in wanted]
    assert (stream.passes, stream.read) == (1, 24)


def test_stream__behind_its_window_it_starts_again() -> None:
    stream = Stream()
    source = _source(stream)
    assert [source[index].caption for index in (20, 2, 21)] == [CORPUS[index].caption for index in (20, 2, 21)]
    assert stream.passes == 2


def test_stream__logs_its_costs(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "data_modules"):
        _source(Stream())
    assert "'s' is streamed: samples move by at most 8 rows, every worker reads the whole stream" in caplog.text


def test_stream__shorter_than_stream_length() -> None:
    with pytest.raises(DataError, match=r"ended after 30 rows; stream_length = 99"):
        _source(Stream(), length=99)[40]


def test_stream__a_lost_connection_is_a_fault_and_the_next_read_starts_again() -> None:
    stream = Stream(fails_at=5)
    source = _source(stream)
    with pytest.raises(SampleFault, match="connection lost"):
        source[6]
    assert source[6].key == CORPUS[6].key


def test_stream__needs_its_language_in_advance() -> None:
    assert len(_source(Stream()).rows_of("ko")) == 30
    assert len(_source(Stream()).rows_of("en")) == 0
    with pytest.raises(DataError, match="'s' is streamed, so its languages are not known"):
        _source(Stream(), language="detect").rows_of("ko")


def test_stream__texts_of_one_pass() -> None:
    assert [text for _, text in _source(Stream(), length=7).captions()] == [one.caption for one in CORPUS[:7]]


def test_stream__of_a_dataset_on_disk_gives_the_order_of_random_access(tmp_path: Path) -> None:
    place = write_dataset(tmp_path / "saved", CORPUS)
    parquet = tmp_path / "parquet"
    parquet.mkdir()
    datasets.load_from_disk(place).to_parquet(str(parquet / "a.parquet"))
    batches = []
    for length in (None, 30):
        fields = {"caption_fields": ["caption"], "language_field": "lang", "format": SourceFormat.dataset}
        source = SourceConfig(files=[str(parquet)], stream_length=length, **fields)
        assert isinstance(open_source("s", source, 6), StreamSource) == (length is not None)
        order = OrderConfig(shuffle_window=6, run_length=2)
        config = ImageTextDataConfig(sources={"s": source}, global_batch_size=5, num_workers=0, order=order)
        transform = MultiCropConfig(image_size=16, local_size=8, num_local_crops=0)
        data = ImageTextDataModule(config, transform, TokenizerConfig(vocab_size=270), seed=0, max_steps=8)
        batches.append([(b.sample_ids.tolist(), b.captions, b.global_crops.tolist()) for b in data.train_dataloader()])
    assert batches[0] == batches[1]


def test_stream__a_column_that_the_first_row_lacks_ends_the_run() -> None:
    config = SourceConfig(files=["a/b"], captions={"ko": "ko"}, where={"split": ["train"]}, stream_length=1)
    with pytest.raises(DataError, match="has no column 'split'"):
        StreamSource("s", config, lambda: iter([{"image": b"", "ko": "a"}]), 4)[0]
