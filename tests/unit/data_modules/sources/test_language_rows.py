"""Pairs by language against a plain search, and at the size of a web-scale source."""

import pickle
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from data_modules.order.mixture import OrderConfig, build_order
from data_modules.records import LANGUAGES
from data_modules.sources.config import SourceConfig
from data_modules.sources.languages import marked_rows
from data_modules.sources.tar_index import ShardIndex
from data_modules.sources.tar_source import TarSource
from tests.unit.data_modules.corpora import samples, write_shards

Marks = NDArray[np.int8]

KINDS: dict[str, Marks] = {
    "mixed": np.random.default_rng(0).choice(3, p=[0.3, 0.6, 0.1], size=70_001).astype(np.int8),
    "long runs and empty blocks": np.repeat(np.arange(12) % 3, 6_000).astype(np.int8),
    "around a block": np.repeat([0, 1, 0, 2, 1, 0], [511, 1, 512, 513, 1023, 7]).astype(np.int8),
    "one row": np.array([1], dtype=np.int8),
    "one language": np.zeros(1024, dtype=np.int8),
    "none": np.empty(0, dtype=np.int8),
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("language", LANGUAGES)
def test_marked_rows__are_those_of_a_plain_search_in_any_order(name: str, language: str) -> None:
    marks = KINDS[name]
    rows = marked_rows(lambda start, stop: marks[start:stop], len(marks))[language]
    expected = np.flatnonzero(marks == LANGUAGES.index(language))
    assert len(rows) == len(expected)
    positions = np.random.default_rng(1).permutation(len(expected))
    assert rows.take(positions).tolist() == expected[positions].tolist()
    assert rows.take(positions).dtype == np.int64
    with pytest.raises(IndexError):
        rows.take(np.array([len(expected)]))


def test_marked_rows__100_million_pairs_cost_a_batch_little_and_are_looked_at_once() -> None:
    """Marks repeat every 2^20 rows, so that any answer can be computed by hand; no more of them is in memory."""
    length, period = 100_000_000, 1 << 20
    pattern = np.random.default_rng(2).choice(3, p=[0.3, 0.69, 0.01], size=period).astype(np.int8)
    asked = [0]

    def marks(start: int, stop: int) -> Any:
        asked[0] += stop - start
        assert start % period + stop - start <= period, "runs divide the period"
        return pattern[start % period : start % period + stop - start]

    by_language = marked_rows(marks, length)
    assert asked[0] == length
    for mark, language in enumerate(LANGUAGES):
        rows, once = by_language[language], np.flatnonzero(pattern == mark)
        assert rows.nbytes < 0.15 * length
        positions = np.random.default_rng(3).integers(0, len(rows), 8192)
        started = time.perf_counter()
        found = rows.take(positions)
        assert time.perf_counter() - started < 0.5, "about 0.01 s on an idle core"
        assert found.tolist() == (positions // len(once) * period + once[positions % len(once)]).tolist()
    assert asked[0] == length


def test_tar_source__languages_are_read_once_and_never_for_a_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = TarSource("s", SourceConfig(files=[write_shards(tmp_path, samples(31), 6)], caption_fields=["txt"]))
    read: list[int] = []
    rows = ShardIndex.rows

    def counted(index: ShardIndex, start: int, stop: int) -> Any:
        read.extend(range(start, stop))
        return rows(index, start, stop)

    monkeypatch.setattr(ShardIndex, "rows", counted)
    configs = {"s": source.config}
    for single in (True, False):
        config = OrderConfig(single_language_batches=single, language_weights={"ko": 2.0})
        orders = [build_order([source], configs, batch, 0, config) for batch in (1, 8)]
    assert read == list(range(31))
    for step in range(20):
        orders[1].batch(step)
    assert len(read) == 31


def test_tar_source__a_loader_process_gets_no_language_table(tmp_path: Path) -> None:
    source = TarSource("s", SourceConfig(files=[write_shards(tmp_path, samples(31), 6)], caption_fields=["txt"]))
    before = len(pickle.dumps(source))
    rows = source.rows_of("ko")
    sent = pickle.dumps(source)
    assert len(sent) == before
    assert pickle.loads(sent).rows_of("ko").take(np.arange(len(rows))).tolist() == list(range(0, 31, 2))
