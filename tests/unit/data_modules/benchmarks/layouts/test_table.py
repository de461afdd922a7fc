"""Tables: types that are checked on opening, keys, and memory."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.benchmarks.config import TableConfig
from data_modules.benchmarks.layouts.opening import open_samples
from data_modules.benchmarks.sample_table import SampleTable
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from tests.paths import ROOT


def opened(file: Path, rows: list[dict[str, Any]], **settings: Any) -> SampleTable:
    pq.write_table(pa.Table.from_pylist(rows), file)
    return open_samples(TableConfig(files=[str(file)], **settings), "evaluation.x")


@pytest.mark.parametrize(
    ("row", "settings", "message"),
    [
        ({"image": 3}, {}, "column 'image' holds int64, and images are bytes, paths"),
        ({"image": b"x", "ko": 3}, {"captions": {"ko": "ko"}}, "column 'ko' holds int64, and captions"),
        ({"image": b"x", "key": b"y"}, {}, "column 'key' holds binary, and keys are texts or numbers"),
        ({"image": b"x"}, {"concept": "c"}, "has no column 'c'; its columns are image"),
    ],
)
def test_open_samples__types_are_checked(
    row: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=f"^evaluation.x: .*{message}"):
        opened(tmp_path / "a.parquet", [row], **settings)


def test_keys__are_unique_among_the_rows_asked_for(tmp_path: Path) -> None:
    table = opened(tmp_path / "a.parquet", [{"image": b"x", "key": key} for key in ("a", "b", "a", None)])
    assert table.keys(np.array([1, 2])) == ["b", "a"]
    with pytest.raises(DataError, match=r"evaluation\.x: image 'a' is listed twice, in rows 0 and 2; give each"):
        table.keys(np.array([0, 1, 2]))
    with pytest.raises(DataError, match=r"evaluation\.x: row 3 has nothing in the key column 'key'"):
        table.keys(np.array([3]))
    numbered = opened(tmp_path / "b.parquet", [{"image": b"x"}] * 3)
    assert numbered.keys(np.array([2, 0])) == ["2", "0"]


@pytest.mark.parametrize(
    ("cell", "kind"),
    [(b"", "image_missing"), (None, "image_missing")],
)
def test_image__of_an_empty_cell_is_a_fault(cell: bytes | None, kind: str, tmp_path: Path) -> None:
    table = opened(tmp_path / "a.parquet", [{"image": b"x"}, {"image": cell}])
    assert table.image(0) == b"x"
    with pytest.raises(SampleFault) as caught:
        table.image(1)
    assert caught.value.kind == kind


@pytest.mark.parametrize("content", ["../outside.jpg", "/etc/hostname"])
def test_image__of_a_path_that_leaves_the_folder_is_a_fault(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"image\n{content}\n")
    table = open_samples(TableConfig(files=[str(tmp_path / "a.csv")]), "evaluation.x")
    with pytest.raises(SampleFault, match="unsafe_name"):
        table.image(0)


def test_cells__that_are_not_text_name_their_row(tmp_path: Path) -> None:
    texts = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff"]).buffers())
    pq.write_table(pa.table({"image": [b"x", b"y"], "ko": texts}), tmp_path / "a.parquet")
    table = open_samples(TableConfig(files=[str(tmp_path / "a.parquet")]), "evaluation.x")
    assert table.cells("ko", np.array([0])) == ["ok"]
    with pytest.raises(DataError, match=r"evaluation\.x: row 1 cannot be read in the column 'ko'"):
        table.cells("ko", np.array([0, 1]))


@pytest.mark.parametrize("needs_images", [True, False])
def test_open_samples__a_file_that_differs_from_its_manifest(needs_images: bool, tmp_path: Path) -> None:
    opened(tmp_path / "a.parquet", [{"image": b"x"}])
    (tmp_path / "manifest.json").write_text('{"files": {"a.parquet": {"sha256": "0"}}}')
    config = TableConfig(files=["a.parquet"])
    with pytest.raises(DataError, match=r"evaluation\.x: .*a\.parquet is damaged \(its SHA-256 is not"):
        open_samples(config, "evaluation.x", data_folder=str(tmp_path), needs_images=needs_images)


MEASURE = """
import resource, sys
import datasets.config
datasets.config.HF_DATASETS_CACHE = sys.argv[2]
import numpy as np
from data_modules.benchmarks.config import TableConfig
from data_modules.benchmarks.layouts.opening import open_samples
def resident():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
before = resident()
table = open_samples(TableConfig(files=[sys.argv[1]]), "x")
table.cells("ko", np.arange(len(table)))
assert len(table.image(1234)) == 50_000
print(resident() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_image__reads_one_of_2000_images(tmp_path: Path) -> None:
    rows = [{"image": np.random.default_rng(i).bytes(50_000), "ko": f"그림 {i}"} for i in range(2000)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=100)
    command = [sys.executable, "-c", MEASURE, str(tmp_path / "a.parquet"), str(tmp_path / "cache")]
    for _ in range(2):  # the first time, the file is converted
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[-1]) < 20_000, "kB; all images are 100,000"
