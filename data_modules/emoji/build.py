"""Build the emoji corpus from pinned packages, reproducible byte for byte.

Run `python -m data_modules.emoji.build` in an environment with `requirements.txt`, next to this file. With `--check`,
the result is compared with the shipped files and nothing is written.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from data_modules.emoji.concepts import Concept, read_concepts
from data_modules.emoji.packages import DESIGNS, Annotations, Design, FetchError, fetch_packages, plain, read_packages
from data_modules.emoji.render import render
from data_modules.emoji.splits import concept_splits, row_split
from data_modules.emoji.verify import COLUMNS, CORPUS_FOLDER, LIST_COLUMNS, MANIFEST_NAME, STRING_COLUMNS, file_digest

ROWS_PER_GROUP = 256
_PROGRESS_STEP = 500
_LOG = logging.getLogger(__name__)

Row = dict[str, Any]


def _schema() -> pa.Schema:
    """Schema of every file, with the metadata from which `datasets` decodes the images."""
    text: dict[str, Any] = {"dtype": "string", "_type": "Value"}
    arrow: dict[str, pa.DataType] = {
        "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        "skin_tone": pa.bool_(),
    }
    features: dict[str, Any] = {
        "image": {"_type": "Image"},
        "skin_tone": {"dtype": "bool", "_type": "Value"},
    }
    for name in STRING_COLUMNS:
        arrow[name], features[name] = pa.string(), text
    for name in LIST_COLUMNS:
        arrow[name] = pa.list_(pa.string())
        features[name] = {"feature": text, "_type": "List"}
    info = {"info": {"features": {name: features[name] for name in COLUMNS}}}
    fields = [pa.field(name, arrow[name]) for name in COLUMNS]
    return pa.schema(fields, metadata={"huggingface": json.dumps(info)})


def _text_columns(concept: Concept, languages: dict[str, Annotations]) -> Row:
    """Columns of a concept that are equal in all designs."""
    row: Row = {
        "concept": concept.concept,
        "emoji": concept.emoji,
        "code_points": " ".join(concept.codes).upper(),
        "group": concept.group,
        "subgroup": concept.subgroup,
        "skin_tone": bool(concept.tones),
        "family": concept.family,
    }
    for language, annotations in languages.items():
        annotation = annotations.find(concept.emoji)
        row[f"name_{language}"] = annotation.name
        row[f"keywords_{language}"] = list(annotation.keywords)
    return row


def _render_all(name: str, drawings: Sequence[str]) -> list[bytes]:
    """Render drawings on all cores, in order; logs the progress."""
    images = []
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for count, image in enumerate(pool.map(render, drawings, chunksize=16), 1):
            images.append(image)
            if count % _PROGRESS_STEP == 0 or count == len(drawings):
                _LOG.info("%s: %d of %d rendered", name, count, len(drawings))
    return images


def _rows(design: Design, packages: dict[str, Path], known: dict[str, Row]) -> list[Row]:
    """Rows of one design, in the order of the concepts; concepts without a drawing have none."""
    drawings = design.load(packages)
    drawn = [concept for concept in known if plain(concept) in drawings]
    images = _render_all(design.name, [drawings[plain(concept)] for concept in drawn])
    return [
        known[concept]
        | {
            "key": f"{design.name}/{concept}",
            "image": {"bytes": image, "path": f"{concept}.webp"},
            "design": design.name,
            "split": row_split(known[concept]["split"], design.name),
        }
        for concept, image in zip(drawn, images, strict=True)
    ]


def _write_parquet(rows: Sequence[Row], path: Path) -> None:
    """Write rows with fixed settings; the images are already compressed."""
    schema = _schema()
    columns = {name: [row[name] for row in rows] for name in COLUMNS}
    table = pa.table(columns, schema=schema)
    leaves = [*STRING_COLUMNS, "skin_tone", *(f"{name}.list.element" for name in LIST_COLUMNS)]
    compression = dict.fromkeys([*leaves, "image.path"], "zstd") | {"image.bytes": "none"}
    pq.write_table(
        table,
        path,
        row_group_size=ROWS_PER_GROUP,
        compression=compression,
        compression_level=dict.fromkeys([*leaves, "image.path"], 9),
        use_dictionary=["design", "group", "subgroup", "split", "family"],
        write_statistics=["key", "concept", "split"],
        version="2.6",
        data_page_version="1.0",
    )


def _manifest_entry(design: Design, rows: Sequence[Row], path: Path) -> dict[str, Any]:
    pins = read_packages()
    return {
        "design": design.name,
        "licence": design.licence,
        "credit": design.credit,
        "packages": {name: pins[name]["version"] for name in design.packages},
        "rows": len(rows),
        "splits": dict(sorted(Counter(row["split"] for row in rows).items())),
        "bytes": path.stat().st_size,
        "sha256": file_digest(path),
    }


def build_corpus(packages: dict[str, Path], output: Path) -> None:
    """Write one Parquet file per design and the manifest.

    Args:
        packages: npm package name -> its unpacked folder.
        output: Folder for the files; created if missing.

    Raises:
        KeyError: CLDR lacks the name of a concept.
        ValueError: A drawing cannot be rendered.
    """
    output.mkdir(parents=True, exist_ok=True)
    concepts = read_concepts()
    splits = concept_splits(concepts)
    languages = {language: Annotations(packages, language) for language in ("ko", "en")}
    known = {item.concept: _text_columns(item, languages) | {"split": splits[item.concept]} for item in concepts}
    files = {}
    for design in DESIGNS:
        path = output / f"{design.name}.parquet"
        rows = _rows(design, packages, known)
        _write_parquet(rows, path)
        files[path.name] = _manifest_entry(design, rows, path)
        _LOG.info("%s: %d rows, %d bytes", path.name, len(rows), path.stat().st_size)
    manifest = {"concepts": len(concepts), "files": files}
    text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
    (output / MANIFEST_NAME).write_text(text, encoding="utf-8")


def differences(built: Path, shipped: Path) -> list[str]:
    """Names of the files that differ between two corpus folders."""
    names = [f"{design.name}.parquet" for design in DESIGNS] + [MANIFEST_NAME]
    return [
        name
        for name in names
        if not (shipped / name).is_file() or file_digest(built / name) != file_digest(shipped / name)
    ]


def _check(packages: dict[str, Path], folder: Path, shipped: Path) -> int:
    """Build to a temporary folder and compare; returns the exit status."""
    built = folder / "built"
    build_corpus(packages, built)
    changed = differences(built, shipped)
    if changed:
        _LOG.error("The rebuilt corpus differs from the shipped one in %s.", ", ".join(changed))
        return 1
    _LOG.info("The rebuilt corpus equals the shipped one byte for byte.")
    return 0


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(description="Build the emoji corpus.")
    parser.add_argument("--output", type=Path, default=CORPUS_FOLDER, help="folder to write")
    parser.add_argument("--check", action="store_true", help="compare with the files in --output, write nothing")
    options = parser.parse_args(None if arguments is None else list(arguments))
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            packages = fetch_packages(folder)
            if options.check:
                return _check(packages, folder, options.output)
            build_corpus(packages, options.output)
        except FetchError as error:
            _LOG.error("%s", error)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
