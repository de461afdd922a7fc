"""A folder per class, compared with torchvision, and unusable folders."""

from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import ImageFolder

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.opening import open_samples
from data_modules.benchmarks.sample_table import SampleTable
from data_modules.errors import DataError
from tests.unit.data_modules.corpora import picture

FILES = ("b/10.jpg", "b/2.PNG", "a/deep/er/1.webp", "a/x.bmp", "B/z.jpeg", "a b/0.tiff")


def opened(folder: Path) -> SampleTable:
    return open_samples(TableConfig(files=[str(folder)], layout=Layout.image_folder), "evaluation.x")


def write(folder: Path, *names: str) -> None:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))


def test_open_image_folder__equals_torchvision(tmp_path: Path) -> None:
    write(tmp_path, *FILES, "a/notes.txt", "a/.hidden.jpg")
    (tmp_path / "a" / ".hidden.jpg").unlink()
    table, peer = opened(tmp_path), ImageFolder(str(tmp_path))
    rows = np.arange(len(table))
    assert sorted(FILES) == sorted(table.cells("path", rows))
    assert list(dict.fromkeys(table.cells("class", rows))) == peer.classes
    found = dict(zip(table.cells("path", rows), table.cells("class", rows), strict=True))
    assert found == {Path(path).relative_to(tmp_path).as_posix(): peer.classes[label] for path, label in peer.samples}
    assert [table.image(row) for row in rows] == [(tmp_path / path).read_bytes() for path in table.keys(rows)]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a/1.jpg", "2.jpg"), r"2\.jpg is in no class folder; move it"),
        (("a/1.jpg", "b/notes.txt"), r"the class folder .*/b holds no image .*; fill or remove it"),
        (("notes.txt",), "holds no folder of images; name the folder"),
    ],
)
def test_open_image_folder__unusable_folders(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    write(tmp_path, *names)
    with pytest.raises(DataError, match=f"^evaluation.x: .*{message}"):
        opened(tmp_path)
