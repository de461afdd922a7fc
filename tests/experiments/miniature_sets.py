"""Miniature data of the evaluation files, in the layouts that their `about.download` describes."""

import io
import json
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from PIL import Image

NUM_IMAGES = 2


def write_miniature(name: str, folder: Path) -> None:
    """Two images with two captions, the first two classes, or two questions, of the evaluation file `name`.

    Args:
        name: Stem of the file.
        folder: Data folder; a classes file that the user writes goes to the working directory.
    """
    WRITERS.get(name, _write_classification)(name, folder)


def _jpeg(number: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8, 3), 40 * number, dtype=np.uint8)).save(stream, format="JPEG")
    return stream.getvalue()


def _write_shards(folder: Path, ending: str, contents: list[str]) -> None:
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "nshards.txt").write_text("1\n", encoding="utf-8")
    with tarfile.open(folder / "test" / "0.tar", "w") as shard:
        for number, content in enumerate(contents):
            for suffix, data in (("jpg", _jpeg(number)), (ending, content.encode())):
                member = tarfile.TarInfo(f"s{number:07d}.{suffix}")
                member.size = len(data)
                shard.addfile(member, io.BytesIO(data))


def _write_classification(name: str, folder: Path) -> None:
    _write_shards(folder / name, "cls", ["0", "1"])


def _write_own_classes(file: str, folder_name: str) -> Callable[[str, Path], None]:
    def write(_: str, folder: Path) -> None:
        _write_shards(folder / folder_name, "cls", ["0", "1"])
        tree = {"templates": {"ko": "{} 사진"}, "classes": {"0": {"ko": "개"}, "1": {"ko": "고양이"}}}
        (folder / file).write_text(yaml.safe_dump(tree, allow_unicode=True), encoding="utf-8")

    return write


def _write_retrieval(name: str, folder: Path) -> None:
    _write_shards(folder / name, "txt", ["a dog\na brown dog\n", "a cat\na grey cat\n"])
    (folder / name / "dataset_type.txt").write_text("retrieval\n", encoding="utf-8")


def _write_coco_aihub(name: str, folder: Path) -> None:
    images = folder / name / "val2014"
    images.mkdir(parents=True)
    names = [f"COCO_val2014_{number:012d}.jpg" for number in range(NUM_IMAGES + 1)]
    for number, file in enumerate(names):
        (images / file).write_bytes(_jpeg(number))
    splits = ["test", "test", "train"]
    rows: list[Mapping[str, Any]] = [
        {"filename": file, "filepath": "val2014", "split": split, "sentences": [{"raw": "a dog"}, {"raw": "a pet"}]}
        for file, split in zip(names, splits, strict=True)
    ]
    (folder / name / "dataset_coco.json").write_text(json.dumps({"images": rows}), encoding="utf-8")
    korean = [
        {"file_path": f"val2014/{file}", "caption_ko": ["개", "반려동물"], "captions": ["a dog"]} for file in names
    ]
    (folder / name / "MSCOCO_train_val_Korean.json").write_text(json.dumps(korean), encoding="utf-8")


def _write_parquet(file: Path, columns: Mapping[str, list[Any]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": _jpeg(number), "path": None} for number in range(NUM_IMAGES)]
    pq.write_table(pa.table({**columns, "image": images}), file)


def _write_xm3600(_: str, folder: Path) -> None:
    captions = {"ko": [["개", "갈색 개"], ["고양이", "회색 고양이"]], "en": [["a dog", "a pet"], ["a cat", "a pet"]]}
    for language, cells in captions.items():
        columns = {"image_id": ["b", "a"], "captions": cells}
        if language == "en":  # in another order than the Korean rows
            columns = {column: values[::-1] for column, values in columns.items()}
        _write_parquet(folder / "xm3600" / "data" / f"{language}-00000-of-00001.parquet", columns)


def _write_xtd10(name: str, folder: Path) -> None:
    images = folder / name / "images"
    images.mkdir(parents=True)
    names = [f"COCO_train2014_{number:012d}.jpg" for number in range(NUM_IMAGES)]
    for number, file in enumerate(names):
        (images / file).write_bytes(_jpeg(number))
    texts = {
        "test_image_names": names,
        "test_1kcaptions_ko": ["개", "고양이"],
        "test_1kcaptions_en": ["a dog", "a cat"],
    }
    for stem, lines in texts.items():
        (folder / name / f"{stem}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _write_flickr30k_200(name: str, folder: Path) -> None:
    images = folder / name / "images"
    images.mkdir(parents=True)
    rows = []
    for number, caption in enumerate(["개", "고양이"]):
        (images / f"{number}.jpg").write_bytes(_jpeg(number))
        rows.append(json.dumps({"image": f"images/{number}.jpg", "caption": caption}))
    (folder / name / "captions.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _write_k_viscuit(name: str, folder: Path) -> None:
    columns = {
        "id_": ["Food.1.0", "Food.1.1"],
        "question": ["What is this?", "Where is it from?"],
        "options": [["Galbi", "Kimchi", "Tteok", "Guk"], ["Seoul", "Jeonju", "Busan", "Daegu"]],
        "answer": [2, 1],
    }
    _write_parquet(folder / name / "data" / "test-00000-of-00001.parquet", columns)


def _write_cvqa(name: str, folder: Path) -> None:
    columns = {
        "ID": ["1_0", "2_0"],
        "Subset": ["('Korean', 'South Korea')", "('Japanese', 'Japan')"],
        "Question": ["이것은 무엇입니까?", "これは何ですか"],
        "Translated Question": ["What is this?", "What is this?"],
        "Options": [["떡", "국", "밥", "김치"], ["餅", "汁", "飯", "漬物"]],
        "Translated Options": [["rice cake", "soup", "rice", "kimchi"]] * 2,
        "Label": [3, 0],
    }
    _write_parquet(folder / name / "data" / "test-00000-of-00001.parquet", columns)


WRITERS: dict[str, Callable[[str, Path], None]] = {
    "webkorean": _write_own_classes("webkorean_classes.yaml", "webkorean"),
    "babel_imagenet": _write_own_classes("babel_imagenet_ko.yaml", "imagenet"),
    "flickr30k": _write_retrieval,
    "coco": _write_retrieval,
    "coco_aihub": _write_coco_aihub,
    "xm3600": _write_xm3600,
    "xm3600_all": _write_xm3600,
    "xtd10": _write_xtd10,
    "flickr30k_200": _write_flickr30k_200,
    "k_viscuit": _write_k_viscuit,
    "cvqa": _write_cvqa,
}
"""Evaluation files whose data is not that of a classification in CLIP_benchmark's layout."""
