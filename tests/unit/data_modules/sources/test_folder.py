"""Folders of images: with a metadata table, and alone."""

import json
from pathlib import Path

import pytest

from data_modules.config import ImageDataConfig, ImageTextDataConfig, OrderConfig
from data_modules.errors import DataError
from data_modules.sources.config import SourceConfig, SourceFormat, source_format
from data_modules.sources.fingerprint import source_fingerprints
from data_modules.sources.opening import open_source
from tests.unit.data_modules.corpora import members, picture, samples, write_csv, write_dataset, write_tar

NAMES = ["b.png", "a/z.jpg", "a/y.JPEG", "c/d/e.webp"]
ROWS = [{"file_name": "a/z.jpg", "ko": "고양이", "en": "a cat"}, {"file_name": "b.png", "ko": "개", "en": "a dog"}]


def write(folder: Path) -> Path:
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "a" / "readme.md").write_text("notes", encoding="utf-8")
    return folder


def test_folder__images_alone_come_once_each_sorted_by_path(tmp_path: Path) -> None:
    config = SourceConfig(files=[str(write(tmp_path))])
    assert source_format(config) is SourceFormat.folder
    source = open_source("s", config)
    assert [source[i].key for i in range(len(source))] == sorted(NAMES)
    found = source[0]
    assert (found.image, found.caption, found.language) == (picture(NAMES.index("a/y.JPEG")), "", "")
    assert found.file_name == "y.JPEG"


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_folder__metadata_is_its_table(tmp_path: Path, ending: str) -> None:
    write(tmp_path)
    lines = [json.dumps(row, ensure_ascii=False) for row in ROWS]
    lines = lines if ending == "jsonl" else [",".join(ROWS[0]), *(",".join(row.values()) for row in ROWS)]
    (tmp_path / f"metadata.{ending}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    source = open_source("s", SourceConfig(files=[str(tmp_path)], captions={"ko": "ko", "en": "en"}))
    found = [source[i] for i in range(len(source))]
    assert [(one.key, one.caption) for one in found] == [
        (row["file_name"], row[lang]) for row in ROWS for lang in ("ko", "en")
    ]
    assert found[2].image == picture(0)
    images = open_source("s", SourceConfig(files=[str(tmp_path)]))
    assert [images[i].key for i in range(len(images))] == ["a/z.jpg", "b.png"]


def test_folder__what_cannot_be_read_as_one(tmp_path: Path) -> None:
    folder = write(tmp_path / "pictures")
    with pytest.raises(DataError, match=r"holds no metadata\.csv or metadata\.jsonl, and so no captions: add one"):
        open_source("s", SourceConfig(files=[str(folder)], captions={"ko": "ko"}))
    (folder / "a" / "metadata.csv").write_text("file_name\nz.jpg\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"a/metadata\.csv describes a folder of its own: name .*pictures/a in files"):
        open_source("s", SourceConfig(files=[str(folder)]))
    (folder / "metadata.csv").write_text("name,ko\nb.png,개\n", encoding="utf-8")
    with pytest.raises(DataError, match="has no column 'file_name'; its columns are ko, name"):
        open_source("s", SourceConfig(files=[str(folder)]))
    (folder / "metadata.jsonl").write_text("{}\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"holds metadata\.csv and metadata\.jsonl: keep the one"):
        open_source("s", SourceConfig(files=[str(folder)]))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no image"):
        open_source("s", SourceConfig(files=[str(tmp_path / "empty")], format=SourceFormat.folder))


def test_format__folders_of_other_kinds_stay_what_they_were(tmp_path: Path) -> None:
    saved = write_dataset(tmp_path / "saved", samples(3))
    tables = Path(write_csv(tmp_path / "tables", samples(3))).parent  # a CSV beside its images
    for place in (saved, str(tables), "hub/name"):
        assert source_format(SourceConfig(files=[place], captions={"ko": "ko"})) is SourceFormat.dataset


def test_fingerprint__of_images_alone(tmp_path: Path) -> None:
    def digest() -> str:
        return source_fingerprints({"s": SourceConfig(files=[str(tmp_path)])})["s"].digest

    write(tmp_path)
    before = digest()
    assert digest() == before
    (tmp_path / "b.png").write_bytes(picture(0) + b"-")
    assert digest() != before
    (tmp_path / "b.png").write_bytes(picture(0))
    assert digest() == before
    (tmp_path / "new.png").write_bytes(picture(1))
    assert digest() != before


def test_images_alone__of_tables_and_shards(tmp_path: Path) -> None:
    corpus = samples(5)
    images = [(name, content) for name, content in members(corpus) if name.rpartition(".")[2] not in ("txt", "json")]
    shard, table = write_tar(tmp_path / "a.tar", images), write_csv(tmp_path, corpus)
    for file in (str(shard), table):
        source = open_source("s", SourceConfig(files=[file]))
        assert [source[i].image for i in range(len(source))] == [one.image for one in corpus]
        assert not source.opening_faults()


def test_images_alone__are_for_mae_pretraining_without_languages() -> None:
    sources = {"photos": SourceConfig(files=["a.tar"])}
    with pytest.raises(ValueError, match=r"source 'photos' has neither captions nor caption_fields, and contrastive"):
        ImageTextDataConfig(sources=sources)
    ImageDataConfig(sources=sources)
    with pytest.raises(ValueError, match=r"are about languages, and source 'photos' has images without captions"):
        ImageDataConfig(sources=sources, order=OrderConfig(temperature=2.0))
