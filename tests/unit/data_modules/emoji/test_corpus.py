"""The shipped corpus: complete records, manifest, README and licences."""

import io
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from data_modules.emoji.concepts import Concept
from data_modules.emoji.splits import SPLITS
from data_modules.emoji.verify import COLUMNS, CORPUS_FOLDER, file_digest

DESIGNS = ("noto", "twemoji", "fluent", "fluent_flat", "emojione")
TEXTS = ("key", "concept", "emoji", "code_points", "group", "subgroup", "name_ko", "name_en", "family")
Corpus = dict[str, list[dict[str, Any]]]


@pytest.fixture(params=DESIGNS)
def rows(request: pytest.FixtureRequest, corpus: Corpus) -> list[dict[str, Any]]:
    """The rows of each design."""
    return corpus[request.param]


def test_corpus__has_the_documented_columns_and_designs(corpus: Corpus) -> None:
    assert tuple(corpus) == DESIGNS
    for design, rows in corpus.items():
        assert tuple(rows[0]) == COLUMNS
        assert {row["design"] for row in rows} == {design}


def test_corpus__texts_are_complete_and_nfc(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        words = [*row["keywords_ko"], *row["keywords_en"]]
        assert all(text and text == text.strip() for text in [*(row[name] for name in TEXTS), *words]), row["key"]
        names = [row["name_ko"], row["name_en"], *words]
        assert all(unicodedata.is_normalized("NFC", text) for text in names), row["key"]


def test_corpus__identifiers_agree(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        assert row["key"] == f"{row['design']}/{row['concept']}"
        assert row["code_points"] == row["concept"].replace("-", " ").upper()
        assert [f"{ord(character):04x}" for character in row["emoji"]] == row["concept"].split("-")
        assert row["skin_tone"] == any(f"1f3f{digit}" in row["concept"] for digit in "bcdef")


@pytest.mark.parametrize("language", ["ko", "en"])
def test_corpus__names_are_unique(rows: list[dict[str, Any]], language: str) -> None:
    names = Counter(row[f"name_{language}"] for row in rows)
    assert [name for name, count in names.items() if count > 1] == []


@pytest.mark.parametrize("language", ["ko", "en"])
def test_corpus__keywords_leave_the_name_out(corpus: Corpus, language: str) -> None:
    for row in corpus["noto"]:
        keywords = row[f"keywords_{language}"]
        assert row[f"name_{language}"] not in keywords
        assert len(set(keywords)) == len(keywords)


def test_corpus__images_are_small_and_not_blank(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        with Image.open(io.BytesIO(row["image"]["bytes"])) as image:
            # WebP keeps no alpha channel for the few drawings that fill the whole square.
            assert image.mode in ("RGBA", "RGB"), row["key"]
            assert (image.format, image.size) == ("WEBP", (72, 72)), row["key"]
            alpha = np.asarray(image.convert("RGBA"))[..., 3]
        assert (alpha > 128).mean() > 0.02, row["key"]


def test_corpus__rows_follow_the_emoji_list(rows: list[dict[str, Any]], concepts: list[Concept]) -> None:
    order = {concept.concept: index for index, concept in enumerate(concepts)}
    positions = [order[row["concept"]] for row in rows]
    assert positions == sorted(set(positions))


def test_corpus__noto_and_twemoji_draw_every_concept(corpus: Corpus, concepts: list[Concept]) -> None:
    assert len(corpus["noto"]) == len(corpus["twemoji"]) == len(concepts) == 3655


def test_corpus__texts_are_the_same_in_every_design(corpus: Corpus) -> None:
    shared = [name for name in COLUMNS if name not in ("key", "image", "design", "split")]
    known = {row["concept"]: [row[name] for name in shared] for row in corpus["noto"]}
    for rows in corpus.values():
        assert all([row[name] for name in shared] == known[row["concept"]] for row in rows)


def test_corpus__stays_small() -> None:
    files = [path for path in CORPUS_FOLDER.rglob("*") if path.is_file() and path.suffix != ".pyc"]
    assert sum(path.stat().st_size for path in files) <= 22_000_000


def test_manifest__describes_the_files(corpus: Corpus, manifest: dict[str, Any]) -> None:
    for name, entry in manifest["files"].items():
        path = CORPUS_FOLDER / name
        rows = corpus[entry["design"]]
        assert entry["bytes"] == path.stat().st_size
        assert entry["sha256"] == file_digest(path)
        assert entry["rows"] == len(rows)
        assert entry["splits"] == dict(Counter(row["split"] for row in rows))


def test_readme__counts_are_those_of_the_manifest(manifest: dict[str, Any]) -> None:
    readme = (CORPUS_FOLDER / "README.md").read_text(encoding="utf-8")
    for name, entry in manifest["files"].items():
        splits = " | ".join(f"{entry['splits'].get(split, 0):,}" for split in SPLITS)
        assert f"| `{entry['design']}` | {splits} | {entry['rows']:,} |" in readme
        assert f"| `{name}` | {entry['bytes'] / 1e6:.2f} MB |" in readme
    total = sum(entry["rows"] for entry in manifest["files"].values())
    assert f"{total:,} rows" in readme


def test_licences__every_design_is_covered(manifest: dict[str, Any]) -> None:
    folder = CORPUS_FOLDER / "LICENSES"
    attribution = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    for name, entry in manifest["files"].items():
        line = next(line for line in attribution.splitlines() if f"`{name}`" in line)
        text = folder / line.split("|")[-2].strip().strip("`")
        assert len(text.read_text(encoding="utf-8")) > 1000
        assert entry["licence"].split("-")[0] in line
        assert not {"SA", "NC", "ND"} & set(entry["licence"].split("-"))
    assert "Unicode" in (folder / "Unicode-3.0.txt").read_text(encoding="utf-8")


def test_load_dataset__decodes_images_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    file = str(CORPUS_FOLDER / "emojione.parquet")
    rows = datasets.load_dataset("parquet", data_files=file, split="train", cache_dir=str(tmp_path))
    assert isinstance(rows.features["image"], datasets.Image)
    assert rows[0]["image"].size == (72, 72)
    assert isinstance(rows[0]["keywords_ko"], list)
