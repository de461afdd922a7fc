"""Every layout: the same samples from files that the test writes, and what is refused on opening."""

import csv
import json
import os
import pickle
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.benchmarks.config import Layout, TableConfig
from data_modules.benchmarks.layouts.fingerprints import sample_fingerprints
from data_modules.benchmarks.layouts.opening import open_samples
from data_modules.benchmarks.layouts.settings import LAYOUTS_OF
from data_modules.benchmarks.sample_table import SampleTable
from data_modules.errors import DataError
from data_modules.faults import SampleFault
from tests.unit.data_modules.corpora import picture, samples, write_dataset, write_tar

IMAGES = [picture(number) for number in range(4)]
KOREAN = [f"그림 {number}" for number in range(4)]
ENGLISH = [[f"picture {number}", f"a drawing of {number}"] for number in range(4)]
CLASSES = ["cat", "cat", "dog", "dog"]
CONTEXT = "evaluation.retrieval.few"


def parquet(folder: Path) -> TableConfig:
    rows = [
        {"key": f"k{i}", "image": {"bytes": IMAGES[i], "path": None}, "ko": KOREAN[i], "en": ENGLISH[i]}
        for i in range(4)
    ]
    for part in (0, 1):
        pq.write_table(pa.Table.from_pylist(rows[2 * part : 2 * part + 2]), folder / f"{part}.parquet")
    return TableConfig(files=["*.parquet"], captions={"ko": "ko", "en": "en"})


def text_table(folder: Path, ending: str) -> TableConfig:
    (folder / "images").mkdir()
    rows = []
    for i in range(4):
        (folder / "images" / f"{i}.jpg").write_bytes(IMAGES[i])
        rows.append({"key": f"k{i}", "image": f"images/{i}.jpg", "ko": KOREAN[i], "en": ENGLISH[i][0]})
    file = folder / f"table.{ending}"
    if ending == "jsonl":
        lines = [json.dumps(row | {"en": ENGLISH[i]}, ensure_ascii=False) for i, row in enumerate(rows)]
        file.write_text("\n".join(lines), encoding="utf-8")
    else:
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="," if ending == "csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    return TableConfig(files=[file.name], captions={"ko": "ko", "en": "en"})


def dataset(folder: Path) -> TableConfig:
    pq.write_table(parquet_rows(), folder / "test-0.parquet")
    return TableConfig(files=["."], captions={"ko": "ko", "en": "en"})


def parquet_rows() -> pa.Table:
    return pa.Table.from_pylist(
        [{"key": f"k{i}", "image": {"bytes": IMAGES[i]}, "ko": KOREAN[i], "en": ENGLISH[i]} for i in range(4)]
    )


def shards(folder: Path) -> TableConfig:
    for part in (0, 1):
        members: list[tuple[str, bytes]] = []
        for i in (2 * part, 2 * part + 1):
            members += [
                (f"a/k{i}.ko.txt", KOREAN[i].encode()),
                (f"a/k{i}.jpg", IMAGES[i]),
                (f"a/k{i}.json", json.dumps({"en": ENGLISH[i], "width": i}).encode()),
                (f"a/k{i}.cls", f"{i}\n".encode()),
                (f"a/k{i}.npy", b"ignored"),
            ]
        write_tar(folder / f"{part}.tar", members)
    return TableConfig(files=["{0..1}.tar"], captions={"ko": "ko.txt", "en": "en"})


def clip_benchmark(folder: Path) -> TableConfig:
    (folder / "test").mkdir()
    members = [
        one for i in range(4) for one in ((f"k{i}.jpg", IMAGES[i]), (f"k{i}.txt", "\n".join(ENGLISH[i]).encode()))
    ]
    write_tar(folder / "test" / "0.tar", members[:4])
    write_tar(folder / "test" / "1.tar", members[4:])
    (folder / "test" / "nshards.txt").write_text("2\n")
    (folder / "dataset_type.txt").write_text("retrieval\n")
    return TableConfig(files=["."], layout=Layout.clip_benchmark, captions={"en": "captions"})


def image_folder(folder: Path) -> TableConfig:
    for i, name in enumerate(("0.jpg", "nested/1.JPEG", "2.jpg", "3.Jpg")):
        file = folder / CLASSES[i] / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(IMAGES[i])
    (folder / "cat" / "notes.txt").write_text("not an image")
    (folder / ".hidden").mkdir()
    return TableConfig(files=["."], layout=Layout.image_folder)


def karpathy(folder: Path) -> TableConfig:
    entries = []
    for i in range(4):
        subfolder = ("val2014", None)[i % 2]  # images 0 and 1 in the place of the JSON, image 2 flat although named
        place = folder / "images" / (subfolder if i == 0 and subfolder else "")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.jpg").write_bytes(IMAGES[i])
        entry: dict[str, Any] = {"filename": f"{i}.jpg", "split": "test", "cocoid": 90 + i}
        entry["sentences"] = [{"raw": text, "tokens": []} for text in ENGLISH[i]]
        entries.append(entry | ({"filepath": subfolder} if subfolder else {}))
    (folder / "dataset_coco.json").write_text(json.dumps({"images": entries, "dataset": "coco"}))
    return TableConfig(
        files=["dataset_coco.json"], layout=Layout.karpathy, image_folder="images", captions={"en": "captions"}
    )


def xtd10(folder: Path) -> TableConfig:
    names = [f"COCO_train2014_{i:012d}.jpg" for i in range(4)]
    (folder / "coco" / "train2014").mkdir(parents=True)
    for i, name in enumerate(names):
        (folder / "coco" / ("train2014" if i else "") / name).write_bytes(IMAGES[i])
    (folder / "test_image_names.txt").write_text("\n".join(names) + "\n")
    (folder / "test_1kcaptions_ko.txt").write_text("\r\n".join(KOREAN) + "\r\n", encoding="utf-8")
    (folder / "test_1kcaptions_en.txt").write_text("\n".join(one[0] for one in ENGLISH), encoding="utf-8")
    return TableConfig(files=["."], layout=Layout.xtd10, image_folder="coco", captions={"ko": "ko", "en": "en"})


NUMBERED = [f"k{i}" for i in range(4)]
FIRST = [one[0] for one in ENGLISH]
BOTH: dict[str, list[Any]] = {"ko": KOREAN, "en": ENGLISH}
LAYOUTS: dict[str, tuple[Callable[[Path], TableConfig], list[str], dict[str, list[Any]]]] = {
    "parquet": (parquet, NUMBERED, BOTH),
    "csv": (lambda folder: text_table(folder, "csv"), NUMBERED, BOTH | {"en": FIRST}),
    "tsv": (lambda folder: text_table(folder, "tsv"), NUMBERED, BOTH | {"en": FIRST}),
    "jsonl": (lambda folder: text_table(folder, "jsonl"), NUMBERED, BOTH),
    "dataset": (dataset, NUMBERED, BOTH),
    "shards": (
        shards,
        [f"a/{key}" for key in NUMBERED],
        {"ko.txt": KOREAN, "en": ENGLISH, "cls": ["0", "1", "2", "3"], "width": [0, 1, 2, 3]},
    ),
    "clip_benchmark": (clip_benchmark, NUMBERED, {"captions": ENGLISH}),
    "image_folder": (
        image_folder,
        ["cat/0.jpg", "cat/nested/1.JPEG", "dog/2.jpg", "dog/3.Jpg"],
        {"class": CLASSES, "path": ["cat/0.jpg", "cat/nested/1.JPEG", "dog/2.jpg", "dog/3.Jpg"]},
    ),
    "karpathy": (
        karpathy,
        [f"{i}.jpg" for i in range(4)],
        {
            "captions": ENGLISH,
            "split": ["test"] * 4,
            "file_name": [f"{i}.jpg" for i in range(4)],
            "cocoid": [90, 91, 92, 93],
        },
    ),
    "xtd10": (xtd10, [f"COCO_train2014_{i:012d}.jpg" for i in range(4)], BOTH | {"en": FIRST}),
}
every_layout = pytest.mark.parametrize("layout", LAYOUTS)


def written(layout: str, folder: Path) -> TableConfig:
    folder.mkdir(parents=True, exist_ok=True)
    return LAYOUTS[layout][0](folder)


def opened(config: TableConfig, folder: Path, **options: Any) -> SampleTable:
    return open_samples(config, CONTEXT, data_folder=str(folder), **options)


ALL = np.arange(4)


@every_layout
def test_open_samples__returns_what_was_written(layout: str, tmp_path: Path) -> None:
    table = opened(written(layout, tmp_path / "set"), tmp_path / "set")
    _, keys, columns = LAYOUTS[layout]
    assert len(table) == 4 and set(columns) <= set(table.columns)
    for some in (ALL, np.array([3, 1]), np.array([], dtype=np.int64)):
        assert table.keys(some) == [keys[i] for i in some]
        for name, cells in columns.items():
            assert table.cells(name, some) == [cells[i] for i in some], name
    assert [table.image(i) for i in range(4)] == IMAGES


@every_layout
def test_open_samples__is_sent_to_workers_and_read_in_forks(layout: str, tmp_path: Path) -> None:
    table = opened(written(layout, tmp_path / "set"), tmp_path / "set")
    assert table.image(2) == IMAGES[2]
    sent = pickle.loads(pickle.dumps(table))
    assert [sent.image(i) for i in range(4)] == IMAGES and sent.keys(ALL) == table.keys(ALL)
    child = os.fork()
    if not child:
        os._exit(0 if [table.image(i) for i in range(4)] == IMAGES else 1)
    assert os.waitpid(child, 0)[1] == 0


@every_layout
def test_open_samples__equal_files_have_equal_identities_and_fingerprints(
    layout: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = written(layout, tmp_path / "set"), tmp_path / "set"
    identity, fingerprints = opened(config, folder).identity, sample_fingerprints(config, str(folder))
    monkeypatch.chdir(folder)
    assert open_samples(config, "elsewhere").identity == identity
    other = written(layout, tmp_path / "other" / "set")
    assert opened(other, tmp_path / "other" / "set").identity != identity
    assert sample_fingerprints(other, str(tmp_path / "other" / "set")) == fingerprints


@every_layout
def test_sample_fingerprints__change_with_the_files(layout: str, tmp_path: Path) -> None:
    folder = tmp_path / "set"
    config = written(layout, folder)
    before = sample_fingerprints(config, str(folder))
    file = next(folder.rglob({"image_folder": "*.Jpg", "karpathy": "3.jpg", "xtd10": "*03.jpg"}.get(layout, "*.*ar*")),
                None) or next(folder.glob("table.*"))  # fmt: skip
    if file.suffix == ".parquet":
        pq.write_table(pq.read_table(file).slice(1), file)
    else:
        file.write_bytes(file.read_bytes() + b"\0" * 1024)
    assert sample_fingerprints(config, str(folder)) != before


@every_layout
def test_open_samples__a_missing_column_is_named_with_those_present(layout: str, tmp_path: Path) -> None:
    config = written(layout, tmp_path)
    present = sorted(LAYOUTS[layout][2])[0]
    place = re.escape(Path(config.files[0]).name.strip("*") or tmp_path.name)
    if layout == "shards":
        place = r"\.tar"
    with pytest.raises(DataError, match=rf"^{CONTEXT}: .*{place}.* has no column 'titel'; its columns are .*{present}"):
        opened(config, tmp_path, columns=["titel"])
    with pytest.raises(DataError, match=f"^{CONTEXT}: .*no column 'nummer'"):
        opened(replace(config, key="nummer"), tmp_path)


@every_layout
@pytest.mark.parametrize("setting", LAYOUTS_OF)
def test_open_samples__a_setting_without_effect_is_refused(setting: str, layout: str, tmp_path: Path) -> None:
    config = written(layout, tmp_path)
    kind = Layout[layout] if layout in Layout.__members__ else Layout.table
    if kind in LAYOUTS_OF[setting]:
        return
    with pytest.raises(
        DataError, match=rf"^{CONTEXT}: {setting} = 'x' is a setting of .*{kind.name} ignores it: remove"
    ):
        opened(replace(config, **{setting: "x"}), tmp_path)


@pytest.mark.parametrize(
    ("written_as", "read_as", "message"),
    [
        ("shards", Layout.table, r"0\.tar is a tar file, .*set layout = shards"),
        ("shards", Layout.dataset, r"one dataset|is a tar file"),
        ("parquet", Layout.shards, r"0\.parquet is a table, .*set layout = table"),
        ("csv", Layout.shards, r"table\.csv is a table, .*set layout = table"),
        ("csv", Layout.dataset, r"table\.csv is a table, .*set layout = table"),
        ("csv", Layout.image_folder, r"table\.csv is a file, and the layout image_folder is a folder"),
        ("image_folder", Layout.table, r"is a folder, and the layout table reads files"),
        ("clip_benchmark", Layout.auto, r"holds test/nshards\.txt, .*set layout = clip_benchmark"),
        ("clip_benchmark", Layout.karpathy, r"is a folder, and the layout karpathy reads a JSON file"),
        ("karpathy", Layout.auto, r"dataset_coco\.json is a file, .*set layout to karpathy"),
        ("karpathy", Layout.table, r"dataset_coco\.json is no table: its ending must be one of \.parquet"),
        ("xtd10", Layout.auto, r"holds test_image_names\.txt, .*set layout = xtd10"),
        ("xtd10", Layout.clip_benchmark, r"nshards\.txt does not exist"),
        ("xtd10", Layout.image_folder, r"class folder|no folder of images"),
    ],
)
def test_open_samples__another_layout_is_recognised(
    written_as: str, read_as: Layout, message: str, tmp_path: Path
) -> None:
    config = replace(written(written_as, tmp_path), layout=read_as, image_folder=None, captions={})
    if written_as == "xtd10":
        shutil.rmtree(tmp_path / "coco")
    with pytest.raises(DataError, match=f"^{CONTEXT}: .*(?:{message})"):
        opened(config, tmp_path)


@every_layout
def test_open_samples__files_that_are_not_there(layout: str, tmp_path: Path) -> None:
    config = replace(written(layout, tmp_path / "set"), files=["nowhere/0.tar" if layout == "shards" else "nowhere/x"])
    kind = Layout[layout] if layout in Layout.__members__ else Layout.table
    message = "cannot be opened as a dataset" if layout == "dataset" else "no file matches|does not exist"
    with pytest.raises(DataError, match=f"^{CONTEXT}: .*nowhere.*({message})|({message}).*nowhere"):
        opened(replace(config, layout=kind), tmp_path)


@pytest.mark.parametrize("layout", ["csv", "karpathy", "xtd10", "image_folder"])
def test_image__a_missing_file_is_a_fault(layout: str, tmp_path: Path) -> None:
    table = opened(written(layout, tmp_path), tmp_path)
    for file in [*tmp_path.rglob("*3.[jJ]pg")]:
        file.unlink()
    assert table.image(2) == IMAGES[2]
    with pytest.raises(SampleFault, match=r"image_missing: .*3\.[jJ]pg"):
        table.image(3)


@every_layout
def test_open_samples__without_images(layout: str, tmp_path: Path) -> None:
    config = written(layout, tmp_path)
    if layout in ("parquet", "dataset"):
        for file in tmp_path.glob("*.parquet"):
            pq.write_table(pq.read_table(file).drop_columns(["image"]), file)
        config = replace(config, files=["*.parquet"])
        with pytest.raises(DataError, match="no column 'image'"):
            opened(config, tmp_path)
    name, cells = next(iter(LAYOUTS[layout][2].items()))
    table = opened(config, tmp_path, needs_images=False)
    assert table.cells(name, ALL) == cells


def test_in_the_data_folder__package_and_absolute_paths_are_not(tmp_path: Path) -> None:
    config = written("csv", tmp_path)
    absolute = replace(config, files=[str(tmp_path / "table.csv")])
    assert len(open_samples(absolute, CONTEXT, data_folder="/nowhere")) == 4
    emoji = TableConfig(files=["package:emoji/noto.parquet"])
    assert len(open_samples(emoji, CONTEXT, data_folder=str(tmp_path))) > 1000


def test_dataset__a_split_that_is_not_there_and_absolute_paths_of_a_folder_of_images(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    saved = write_dataset(tmp_path / "saved", samples(3))
    table = open_samples(TableConfig(files=[saved], captions={"en": "caption"}), CONTEXT)
    assert table.image(1) == samples(3)[1].image
    with pytest.raises(DataError, match="was saved without splits; remove split = val"):
        open_samples(TableConfig(files=[saved], split="val"), CONTEXT)
    with pytest.raises(DataError, match="subset = 'x' has no effect"):
        open_samples(TableConfig(files=[saved], subset="x"), CONTEXT)
    for i in range(4):
        (tmp_path / "tree" / "test" / CLASSES[i]).mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / "test" / CLASSES[i] / f"{i}.jpg").write_bytes(IMAGES[i])
    tree = open_samples(TableConfig(files=["tree"]), CONTEXT, data_folder=str(tmp_path), columns=["label"])
    assert sorted(tree.image(i) for i in range(4)) == sorted(IMAGES)
