"""Shards: columns by ending, remote shards, damaged and unusable members."""

import json
import pickle
from pathlib import Path

import fsspec
import numpy as np
import pytest

from data_modules.benchmarks.config import TableConfig
from data_modules.benchmarks.layouts.fingerprints import sample_fingerprints
from data_modules.benchmarks.layouts.opening import open_samples
from data_modules.benchmarks.sample_table import SampleTable
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from tests.unit.data_modules.corpora import picture, write_tar

IMAGES = [picture(0), picture(1)]
MEMBERS = [
    ("k0.jpg", IMAGES[0]),
    ("k0.txt", "\ufeff한 줄\n두 줄".encode()),
    ("k0.json", json.dumps({"txt": "of the JSON", "tags": ["a"], "image": "x"}).encode()),
    ("k1.json", json.dumps({"width": 3}).encode()),
    ("k1.png", IMAGES[1]),
]


def opened(*files: Path | str, **settings: str) -> SampleTable:
    return open_samples(TableConfig(files=[str(one) for one in files], **settings), "evaluation.x")


def test_open_samples__columns_are_endings_and_keys_of_the_json(tmp_path: Path) -> None:
    table = opened(write_tar(tmp_path / "0.tar", MEMBERS))
    both = np.arange(2)
    assert sorted(table.columns) == ["json", "tags", "txt", "width"]
    assert table.cells("txt", both) == ["한 줄\n두 줄", None], "one text; the member replaces the JSON's key"
    assert table.cells("tags", both) == [["a"], None] and table.cells("width", both) == [None, 3]
    assert json.loads(table.cells("json", both)[1]) == {"width": 3}


def test_open_samples__a_sample_without_an_image_stays_a_row(tmp_path: Path) -> None:
    table = opened(write_tar(tmp_path / "0.tar", [*MEMBERS, ("k2.txt", b"alone")]))
    assert table.keys(np.arange(3)) == ["k0", "k1", "k2"] and table.image(1) == IMAGES[1]
    with pytest.raises(SampleFault, match="image_missing"):
        table.image(2)


def test_open_samples__remote_shards(tmp_path: Path) -> None:
    content = write_tar(tmp_path / "0.tar", MEMBERS).read_bytes()
    with fsspec.open("memory://few/0.tar", "wb") as stream:
        stream.write(content)
    config = TableConfig(files=["*.tar"])
    table = open_samples(config, "evaluation.x", data_folder="memory://few")
    assert [table.image(row) for row in range(2)] == IMAGES
    assert pickle.loads(pickle.dumps(table)).image(1) == IMAGES[1]
    assert [one.name for one in sample_fingerprints(config, "memory://few")] == ["0.tar"]
    with pytest.raises(DataError, match=r"^evaluation.x: memory://few/1\.tar cannot be read"):
        open_samples(TableConfig(files=["1.tar"]), "evaluation.x", data_folder="memory://few")


def test_image__of_a_shard_that_has_changed_is_a_fault(tmp_path: Path) -> None:
    table = opened(write_tar(tmp_path / "0.tar", MEMBERS))
    write_tar(tmp_path / "0.tar", [("k0.txt", b"other"), ("k0.jpg", b"new"), ("k1.txt", b"one"), ("k1.jpg", b"two")])
    with pytest.raises(SampleFault, match=r"shard_changed: .*0\.tar"):
        table.image(1)


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([*MEMBERS, ("k0.webp", b"x")], r"0\.tar: image 'k0' is listed twice, as k0\.jpg and k0\.webp; remove"),
        ([*MEMBERS, ("k0.txt", b"x")], r"image 'k0' is listed twice, as k0\.txt and k0\.txt"),
        ([*MEMBERS, ("../k3.txt", b"x")], r"holds '\.\./k3\.txt', a name that is absolute, or it leaves its folder"),
        ([*MEMBERS, ("k3.json", b"[1]")], r"k3\.json is no JSON object"),
        ([*MEMBERS, ("k3.txt", b"\xff")], r"k3\.txt is not UTF-8 text"),
        ([("k3.txt", b"x")], r"holds no image: an image's ending must be one of .*jpg"),
        ([("README", b"x"), ("k3.npy", b"x")], "holds no sample; correct files"),
    ],
)
def test_open_samples__unusable_members(members: list[tuple[str, bytes]], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^evaluation.x: .*{message}"):
        opened(write_tar(tmp_path / "0.tar", members))


def test_open_samples__a_key_in_two_shards_and_a_shard_that_is_cut(tmp_path: Path) -> None:
    shards = [write_tar(tmp_path / f"{number}.tar", MEMBERS) for number in range(2)]
    with pytest.raises(DataError, match=r"image 'k0' is listed twice, in rows 0 and 2; give each image its own name"):
        opened(*shards)
    shards[1].write_bytes(shards[1].read_bytes()[:2000])
    with pytest.raises(DataError, match=r"1\.tar is no whole, uncompressed tar file .*; restore"):
        opened(*shards)


def test_open_samples__captions_that_are_no_texts(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "0.tar", MEMBERS)
    with pytest.raises(DataError, match="the column 'width' of 'k1' holds '3', and captions are texts"):
        open_samples(TableConfig(files=[str(shard)], captions={"ko": "width"}), "evaluation.x")
