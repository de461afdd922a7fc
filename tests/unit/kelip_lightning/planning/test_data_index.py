"""Sizes of indices against what is on the disk and in memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from kelip_lightning.planning.data_index import PAPER_ROWS, index_scale, index_sizes
from tests.unit.data_modules.corpora import members, samples, write_tar


def test_index_sizes__are_those_of_the_files(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", members(samples(30)))
    images = [np.random.default_rng(row).bytes(2000) for row in range(50)]
    pq.write_table(pa.table({"image": images, "ko": ["가"] * 49 + [""]}), tmp_path / "a.parquet", row_group_size=10)
    (tmp_path / "a.csv").write_text("image,ko\n1.jpg,가\n", encoding="utf-8")
    parts = {"tar": {"caption_fields": ["txt"], "language": "ko"}, "parquet": {"captions": {"ko": "ko"}}}
    sources = [
        open_source(kind, SourceConfig(files=[str(tmp_path / f"a.{kind}")], **parts.get(kind, parts["parquet"])))
        for kind in ("tar", "parquet", "csv")
    ]
    sources[1].records(list(range(50)))
    tar, parquet, csv = index_sizes(sources)
    assert (tar.kind, tar.rows, tar.disk, tar.memory) == ("tar", 30, 24 * 30, 600)
    (places,) = tmp_path.glob("*.places")
    assert (parquet.kind, parquet.rows, parquet.disk) == ("parquet", 50, places.stat().st_size)
    # Five row groups of two columns, a file, a bit for each row.
    assert parquet.memory == 6 * 8 + 5 * 2 * 18 + (2 + 2 * 8) + 7
    assert (csv.kind, csv.rows, csv.disk, csv.memory) == ("table", 1, 0, 0)


def test_index_scale__of_the_paper() -> None:
    tar, parquet, blank, marks = index_scale()
    assert tar.disk == parquet.disk == 24 * PAPER_ROWS
    assert round(tar.memory / 1e6) == 71, "118,400 shards of 600 bytes"
    assert round(parquet.memory / 1e6) == 95, "1,184,000 row groups of 80 bytes"
    assert (round(blank.memory / 1e6), round(marks.memory / 1e6)) == (296, 332)
