"""Line by line: captions keep their lines, and files that do not fit together are refused."""

from pathlib import Path

import numpy as np
import pytest

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.opening import open_samples
from data_modules.benchmarks.sample_table import SampleTable
from data_modules.errors import DataError


def opened(folder: Path, names: str, **captions: str) -> SampleTable:
    (folder / "test_image_names.txt").write_text(names, encoding="utf-8")
    for language, text in captions.items():
        (folder / f"test_1kcaptions_{language}.txt").write_text(text, encoding="utf-8")
    return open_samples(TableConfig(files=[str(folder)], layout=Layout.xtd10), "evaluation.x", needs_images=False)


def test_open_xtd10__a_line_is_an_image_whatever_it_holds(tmp_path: Path) -> None:
    table = opened(tmp_path, "1.jpg\n2.jpg\n3.jpg\n", ko="가\u2028나\n\n다\n", jp="a\nb\nc")
    assert list(table.columns) == ["jp", "ko"]
    assert table.cells("ko", np.arange(3)) == ["가\u2028나", "", "다"]


@pytest.mark.parametrize(
    ("names", "captions", "message"),
    [
        (
            "1.jpg\n2.jpg\n",
            {"ko": "가\n"},
            r"captions_ko\.txt has 1 lines, and test_image_names\.txt 2: each line",
        ),
        ("1.jpg\n2.jpg\n1.jpg\n", {"ko": "가\n나\n다"}, "image '1.jpg' is listed twice, in rows 0 and 2"),
        ("1.jpg\n\n", {"ko": "가\n나"}, r"test_image_names\.txt: line 2 names the image '', which is empty"),
        ("1.jpg\n", {}, r"has no test_1kcaptions_LANGUAGE\.txt; copy the captions beside"),
    ],
)
def test_open_xtd10__files_that_do_not_fit(names: str, captions: dict[str, str], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^evaluation.x: .*{message}"):
        opened(tmp_path, names, **captions)
