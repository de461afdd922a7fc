"""The layout of CLIP_benchmark, compared with its own reader."""

from pathlib import Path

import numpy as np
import pytest
import webdataset
from clip_benchmark.datasets import builder

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.clip_benchmark import read_class_files
from data_modules.benchmarks.layouts.opening import open_samples
from data_modules.benchmarks.sample_table import SampleTable
from data_modules.errors import DataError
from data_modules.images.decoding import decode_image
from tests.unit.data_modules.corpora import picture, write_tar

NUM_SAMPLES, PER_SHARD = 25, 2  # 13 shards: 10.tar sorts before 2.tar as text
ENDINGS = ("webp", "png", "jpg", "jpeg")
FORMATS = {"webp": "WEBP", "png": "PNG", "jpg": "JPEG", "jpeg": "JPEG"}
IMAGES = [picture(i, 24, FORMATS[ENDINGS[i % 4]]) for i in range(NUM_SAMPLES)]
CAPTIONS = [[f"a photo of {i}", "", f"a bird, {i}", "두 번째"] for i in range(NUM_SAMPLES)]


def write_folder(folder: Path, kind: str, split: str = "test") -> Path:
    """A folder as `clip_benchmark_export_wds` writes it."""
    (folder / split).mkdir(parents=True)
    with webdataset.ShardWriter(str(folder / split / "%d.tar"), maxcount=PER_SHARD, verbose=0) as sink:
        for i in range(NUM_SAMPLES):
            text = {"txt": "\n".join(CAPTIONS[i])} if kind == "retrieval" else {"cls": i * 7 % 5}
            sink.write({"__key__": f"s{i:07d}", ENDINGS[i % 4]: IMAGES[i], **text})
        number = sink.shard
    (folder / split / "nshards.txt").write_text(f"{number}\n")
    if kind == "retrieval":
        (folder / "dataset_type.txt").write_text("retrieval\n")
    else:
        (folder / "classnames.txt").write_text("cat\n dog \nbird\ncar\ntree\n")
        (folder / "zeroshot_classification_templates.txt").write_text("a photo of {c}\n{c}\n")
    return folder


def opened(folder: Path, **settings: str) -> SampleTable:
    return open_samples(TableConfig(files=[str(folder)], layout=Layout.clip_benchmark, **settings), "evaluation.x")


@pytest.mark.filterwarnings("ignore:WebDataset\\(shardshuffle=:UserWarning")
@pytest.mark.parametrize("kind", ["retrieval", "classification"])
def test_open_clip_benchmark__equals_the_reader_of_clip_benchmark(kind: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "set", kind)
    expected = list(builder.build_wds_dataset("set", transform=np.asarray, split="test", data_dir=str(folder)))
    table, rows = opened(folder), np.arange(NUM_SAMPLES)
    assert len(table) == len(expected) == NUM_SAMPLES
    for row, (pixels, text) in enumerate(expected):
        assert np.array_equal(np.asarray(decode_image(table.image(row))), np.asarray(pixels)[..., :3]), row
        if kind == "retrieval":
            assert table.cells("captions", rows)[row] == [line for line in text if line]
        else:
            assert table.cells("cls", rows)[row] == str(text)
    if kind == "classification":
        peer = builder.build_wds_dataset("set", transform=None, split="test", data_dir=str(folder))
        assert read_class_files(folder) == (peer.classes, peer.templates)
        assert read_class_files(folder)[0] == ["cat", "dog", "bird", "car", "tree"]


def test_open_clip_benchmark__bytes_order_and_blank_captions(tmp_path: Path) -> None:
    table = opened(write_folder(tmp_path, "retrieval", "val"), split="val")
    assert [table.image(row) for row in range(NUM_SAMPLES)] == IMAGES
    assert table.keys(np.array([24, 3])) == ["s0000024", "s0000003"]
    assert table.cells("captions", np.array([24])) == [["a photo of 24", "a bird, 24", "두 번째"]]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("test/nshards.txt", b"12", r"nshards\.txt states 12 tar files, 0\.tar to 11\.tar, and there are 13 \(12\.tar"),
        ("test/nshards.txt", b"many", r"nshards\.txt holds 'many', not the number of tar files"),
        ("test/nshards.txt", None, r"nshards\.txt does not exist, .*correct files or split"),
        ("test/7.tar", None, r"there are 12 \(7\.tar differs\); restore"),
        ("test/7.tar", b"\0" * 100, r"7\.tar is no whole, uncompressed tar file .*restore"),
        ("test/7.tar", b"\x1f\x8b" + b"x" * 600, r"7\.tar is no whole, uncompressed tar file"),
        ("dataset_type.txt", b"retrieval", r"25 of 25 samples have no \.txt, for example 's0000000'; write class"),
        ("dataset_type.txt", b"multilabel", r"dataset_type\.txt states 'multilabel', .*retrieval or classification"),
    ],
)
def test_open_clip_benchmark__damaged_folder(file: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path, "classification")
    if content is None:
        (folder / file).unlink()
    else:
        (folder / file).write_bytes(content)
    with pytest.raises(DataError, match=f"^evaluation.x: .*{message}"):
        opened(folder)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("a.jpg", b"1"), ("a.cls", b"one")], "the sample 'a' has the label 'one', which is no integer"),
        ([("a.jpg", b"1"), ("b.jpg", b"2"), ("a.cls", b"1")], r"1 of 2 samples have no \.cls, for example 'b'"),
        ([("a.cls", b"1")], "the sample 'a' has no image"),
        ([("a.cls", b"\xff")], r"a\.cls is not UTF-8 text"),
        ([("a.jpg", b"1"), ("a.txt", b"text")], r"1 of 1 samples have no \.cls.*write retrieval into dataset_type"),
    ],
)
def test_open_clip_benchmark__unusable_samples(members: list[tuple[str, bytes]], message: str, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    write_tar(tmp_path / "test" / "0.tar", members)
    (tmp_path / "test" / "nshards.txt").write_text("1")
    with pytest.raises(DataError, match=f"^evaluation.x: .*{message}"):
        opened(tmp_path)


@pytest.mark.parametrize(
    ("names", "templates", "message"),
    [
        (None, "{c}", r"classnames\.txt does not exist; write one class name a line, or name a classes_file"),
        ("cat", None, r"templates\.txt does not exist; write one template a line"),
        ("cat\n\ndog", "{c}", r"classnames\.txt: line 2 is blank; each line is one class name"),
        ("", "{c}", r"classnames\.txt is empty"),
        ("cat", "{c}\na photo of {}", r"templates\.txt: line 2, 'a photo of {}', lacks {c}"),
    ],
)
def test_read_class_files__malformed(names: str | None, templates: str | None, message: str, tmp_path: Path) -> None:
    for file, content in (("classnames.txt", names), ("zeroshot_classification_templates.txt", templates)):
        if content is not None:
            (tmp_path / file).write_text(content)
    with pytest.raises(DataError, match=message):
        read_class_files(str(tmp_path))
