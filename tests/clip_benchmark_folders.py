"""Drawings of the embedded corpus, and evaluation sets of them in the folder layout of CLIP_benchmark."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
from PIL import Image

from tests.paths import ROOT
from tests.unit.data_modules.corpora import write_tar

PER_SHARD = 23
"""Samples of a tar file: no divisor of the sets' sizes, and more than ten files, as 10.tar sorts before 2.tar."""
TEMPLATES = {"en": ["{}", "a drawing of {}"], "ko": ["{}", "{} 그림"]}
"""Language -> templates in this package's spelling."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture with its texts."""

    image: bytes
    """PNG, RGB on white: CLIP_benchmark would show the hidden colours of transparent pixels."""
    label: int
    """Sub-group."""
    captions: dict[str, list[str]]
    """Language -> the name, then keywords."""


def read_drawings(classes: Sequence[str], per_class: int, num_captions: int = 2) -> list[Drawing]:
    """Drawings of the design noto without skin tones, in turn from each sub-group; at most `per_class` of each."""
    file = ROOT / "data_modules" / "emoji" / "noto.parquet"
    texts = pq.read_table(file, columns=["subgroup", "skin_tone"]).to_pylist()
    rows: dict[str, list[int]] = {name: [] for name in classes}
    for row, cells in enumerate(texts):
        if cells["subgroup"] in rows and not cells["skin_tone"]:
            rows[cells["subgroup"]].append(row)
    chosen = [rows[name][place] for place in range(per_class) for name in classes if place < len(rows[name])]
    columns = ["image", "subgroup", *(f"{kind}_{language}" for kind in ("name", "keywords") for language in TEMPLATES)]
    table = pq.read_table(file, columns=columns).take(chosen).to_pylist()
    return [
        Drawing(
            image=_on_white(row["image"]["bytes"]),
            label=classes.index(row["subgroup"]),
            captions={
                language: [row[f"name_{language}"], *row[f"keywords_{language}"]][:num_captions]
                for language in TEMPLATES
            },
        )
        for row in table
    ]


def _on_white(data: bytes) -> bytes:
    drawing = Image.open(io.BytesIO(data)).convert("RGBA")
    buffer = io.BytesIO()
    Image.alpha_composite(Image.new("RGBA", drawing.size, "white"), drawing).convert("RGB").save(buffer, "PNG")
    return buffer.getvalue()


def write_classification_folder(folder: Path, drawings: Sequence[Drawing], names: Sequence[str], language: str) -> Path:
    """Labelled drawings with the names and templates of one language, as CLIP_benchmark reads them."""
    _write_shards(folder, [("cls", str(one.label)) for one in drawings], drawings)
    (folder / "classnames.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    templates = [one.replace("{}", "{c}") for one in TEMPLATES[language]]
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates) + "\n", encoding="utf-8")
    return folder


def write_retrieval_folder(folder: Path, drawings: Sequence[Drawing], language: str) -> Path:
    """Drawings with their captions in one language, as CLIP_benchmark reads them."""
    _write_shards(folder, [("txt", "\n".join(one.captions[language])) for one in drawings], drawings)
    (folder / "dataset_type.txt").write_text("retrieval\n", encoding="utf-8")
    return folder


def _write_shards(folder: Path, texts: Sequence[tuple[str, str]], drawings: Sequence[Drawing]) -> None:
    (folder / "test").mkdir(parents=True)
    members = [
        [(f"s{number:07d}.png", one.image), (f"s{number:07d}.{ending}", text.encode())]
        for number, (one, (ending, text)) in enumerate(zip(drawings, texts, strict=True))
    ]
    shards = [members[start : start + PER_SHARD] for start in range(0, len(members), PER_SHARD)]
    for number, shard in enumerate(shards):
        write_tar(folder / "test" / f"{number}.tar", [member for sample in shard for member in sample])
    (folder / "test" / "nshards.txt").write_text(str(len(shards)), encoding="utf-8")
