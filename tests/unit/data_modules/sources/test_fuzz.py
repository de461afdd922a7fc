"""Damaged tars, parquet files, CSV tables and images give a right pair, a counted fault or a clear error."""

import random
import re
import unicodedata
import warnings
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_modules.errors import DataError
from data_modules.faults import SKIPPED, SampleFault
from data_modules.images.decoding import decode, open_image
from data_modules.records import PairRecord
from data_modules.sources.config import SourceConfig
from data_modules.sources.opening import open_source
from tests.unit.data_modules.corpora import Sample, members, samples, write_csv, write_tar

CORPUS = samples(6)
MUTATIONS = {"tar": 1500, "csv": 300, "tsv": 100, "parquet": 300}
"""2,200 in all."""


def _mutate(content: bytes, generator: random.Random) -> bytes:
    """One to four changes: bytes, cuts, doubled or lost parts, a run of zeros."""
    changed = bytearray(content)
    for _ in range(generator.randint(1, 4)):
        place = generator.randrange(len(changed)) if changed else 0
        length = min(generator.choice((1, 4, 100, 512, 3000)), len(changed) - place)
        match generator.randrange(6):
            case 0 | 1:
                changed[place : place + 1] = bytes([generator.randrange(256)])
            case 2:
                del changed[place:]
            case 3:
                del changed[place : place + length]
            case 4:
                changed[place:place] = changed[place : place + length]
            case _:
                changed[place : place + length] = bytes(length)
    return bytes(changed)


def _write(kind: str, folder: Path) -> Path:
    if kind == "tar":
        return write_tar(folder / "a.tar", members(CORPUS))
    if kind == "parquet":
        rows = [{"key": one.key, "image": {"bytes": one.image}, "caption": one.caption} for one in CORPUS]
        pq.write_table(pa.Table.from_pylist(rows), folder / "a.parquet")
        return folder / "a.parquet"
    return Path(write_csv(folder, CORPUS, "\t" if kind == "tsv" else ","))


def _outcome(config: SourceConfig) -> str:
    """Kinds of outcomes; asserts that no image is paired with the caption of another one."""
    try:
        source = open_source("s", config)
    except DataError:
        return "error"
    outcomes = set()
    for index in range(len(source)):
        try:
            record = source[index]
            decode(open_image(record.image))
        except SampleFault as fault:
            outcomes.add(fault.kind)
        else:
            _check_pairing(record, Path(config.files[0]))
            outcomes.add("good")
    assert outcomes <= {"good", *SKIPPED}
    return "+".join(sorted(outcomes))


def _check_pairing(record: PairRecord, file: Path) -> None:
    """Image and caption are from one line of a text table; elsewhere an intact image has no other one's caption."""
    if file.suffix in (".csv", ".tsv"):
        text = unicodedata.normalize("NFC", file.read_bytes().decode("utf-8", "replace")).replace("\0", " ")
        caption = record.caption.splitlines()[0]
        assert any(record.file_name in line and caption in line for line in re.split(r"[\r\n]+", text)), record
        return
    by_image: dict[bytes, Sample] = {one.image: one for one in CORPUS}
    owner = by_image.get(record.image)
    if owner is not None and record.caption != owner.caption:
        assert record.caption not in {one.caption for one in CORPUS}, (owner.key, record.caption)


@pytest.mark.slow
@pytest.mark.parametrize("kind", MUTATIONS)
def test_sources__damaged_files(tmp_path: Path, kind: str) -> None:
    file = _write(kind, tmp_path)
    whole, generator = file.read_bytes(), random.Random(kind)
    field = "txt" if kind == "tar" else "caption"
    outcomes = []
    for number in range(MUTATIONS[kind]):
        # A file of its own name each time: caches go by name and time of change.
        damaged = file.with_name(f"{number}{file.suffix}")
        damaged.write_bytes(_mutate(whole, generator))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            folder = {"index_folder": str(tmp_path / "index")} if kind == "tar" else {}
            config = SourceConfig(files=[str(damaged)], caption_fields=[field], language="ko", **folder)
            outcomes.append(_outcome(config))
        damaged.unlink()
    assert len(set(outcomes)) >= 3, "errors, faults and good samples all occur"
    assert any("good" in one for one in outcomes)
