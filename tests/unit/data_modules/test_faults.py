"""A corpus with every fault: exact counts, the same replacements in every run, never a wrong pairing."""

import json
import unicodedata
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from data_modules.config import CorruptSampleConfig, ImageTextDataConfig
from data_modules.errors import DataError
from data_modules.faults import REPAIRED, SKIPPED
from data_modules.image_text import ImageTextDataModule
from data_modules.images.config import MultiCropConfig
from data_modules.order.sampling import Draw
from data_modules.sources.config import SourceConfig
from data_modules.text.config import TokenizerConfig
from tests.paths import ROOT
from tests.unit.data_modules.corpora import faulty_members, members, picture, samples, write_csv, write_tar

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")
TRANSFORM = MultiCropConfig(image_size=16, num_global_crops=1, local_size=8, num_local_crops=0)
PER_KIND, GOOD = 2, 41


def _shard(folder: Path, content: list[tuple[str, bytes]]) -> SourceConfig:
    return SourceConfig(files=[str(write_tar(folder / "a.tar", content))], caption_fields=["txt"])


def _data(source: SourceConfig, steps: int, batch: int, **options: object) -> ImageTextDataModule:
    faults = options.pop("corrupt_samples", CorruptSampleConfig(max_share=1.0))
    config = ImageTextDataConfig(
        sources={"web": source}, global_batch_size=batch, num_workers=0, corrupt_samples=faults, **options
    )
    return ImageTextDataModule(config, TRANSFORM, TokenizerConfig(vocab_size=270), seed=1, max_steps=steps)


def test_faulty_shard__every_kind_is_counted_exactly_and_every_batch_is_full(tmp_path: Path) -> None:
    content, expected = faulty_members(GOOD, PER_KIND)
    source = _shard(tmp_path, content)
    number = GOOD + sum(expected.values())
    assert number % 5 == 0
    data = _data(source, number // 5, 5)
    met: set[tuple[int, str]] = set()
    for batch in data.train_dataloader():
        assert batch.global_crops.shape == (1, 5, 3, 16, 16)
        met |= {(report.sample_id, report.kind) for report in batch.faults}
    # A bad sample may also be met as a replacement; each sample counts once here.
    assert Counter(kind for _, kind in met) == expected


def test_faulty_shard__each_sample_alone_gives_its_own_fault(tmp_path: Path) -> None:
    content, expected = faulty_members(GOOD, PER_KIND)
    source = _shard(tmp_path, content)
    data = _data(source, 1, 5)
    found: Counter[str] = Counter()
    for sample_id in range(len(data.sources[0])):
        reports = data.dataset.load([Draw(0, sample_id)]).faults
        own = [report for report in reports if report.sample_id == sample_id]
        found.update(report.kind for report in own)
        for report in own:
            assert report.key.startswith(report.kind) or report.kind == "wrong_extension", report
    assert found == expected


def test_faulty_shard__replacements_are_the_same_for_any_number_of_workers(tmp_path: Path) -> None:
    source = _shard(tmp_path, faulty_members(GOOD, PER_KIND)[0])

    def run(workers: int) -> list[object]:
        data = _data(source, 12, 5)
        data.config = replace(data.config, num_workers=workers)
        return [
            (b.sample_ids.tolist(), b.captions, b.global_crops.sum(dim=(0, 2, 3, 4)).tolist(), sorted(b.faults))
            for b in data.train_dataloader()
        ]

    assert run(0) == run(2) == run(0)


def test_faulty_shard__no_caption_changes_its_image(tmp_path: Path) -> None:
    content, _ = faulty_members(GOOD, PER_KIND)
    stems = {name.partition(".")[0]: {} for name, _ in content}
    for name, value in content:
        stems[name.partition(".")[0]][name.partition(".")[2]] = value
    opened = _data(_shard(tmp_path, content), 1, 1).sources[0]
    for index in range(len(opened)):
        try:
            record = opened[index]
        except DataError:
            continue
        parts = stems[record.key]
        assert record.image in parts.values()
        assert record.caption[:5] in unicodedata.normalize("NFC", parts["txt"].decode("utf-8", "replace"))


@pytest.mark.parametrize("kind", ["missing file", "leaves", "absolute", "no caption"])
def test_faulty_table__rows(tmp_path: Path, kind: str) -> None:
    file = Path(write_csv(tmp_path, samples(6)))
    lines = file.read_text(encoding="utf-8").splitlines()
    key, image, caption, language = lines[3].split(",")
    image = {
        "missing file": "images/none.jpg",
        "leaves": f"../{tmp_path.name}/{image}",
        "absolute": "/etc/hostname",
    }.get(kind, image)
    lines[3] = ",".join([key, image, "" if kind == "no caption" else caption, language])
    file.write_text("\n".join(lines), encoding="utf-8")
    source = SourceConfig(files=[str(file)], caption_fields=["caption"], language_field="lang")
    reports = [report for batch in _data(source, 2, 3).train_dataloader() for report in batch.faults]
    expected = "image_missing" if kind == "missing file" else "unsafe_name"
    found = [] if kind == "no caption" else [(expected, key, "web")]  # it is no pair, and no fault
    assert [(report.kind, report.key, report.source) for report in reports] == found


def test_opening__too_much_left_out_is_an_error_with_the_reason(tmp_path: Path) -> None:
    content = [*members(samples(10)), *[(f"lonely{i}.jpg", b"x") for i in range(3)]]
    source = _shard(tmp_path, content)
    with pytest.raises(
        DataError, match=r"3 of 13 samples are left out, .*max_share = 0\.2, .* \(3\) because of caption"
    ):
        _data(source, 1, 2, corrupt_samples=CorruptSampleConfig(max_share=0.2))
    assert len(_data(source, 1, 2, corrupt_samples=CorruptSampleConfig(max_share=0.25)).sources[0]) == 10


def test_max_image_pixels__is_a_setting(tmp_path: Path) -> None:
    content = [("1.jpg", picture(0, side=20)), ("1.txt", b"small"), ("2.jpg", picture(0, side=40)), ("2.txt", b"large")]
    source = _shard(tmp_path, content)
    limit = CorruptSampleConfig(max_share=1.0, max_image_pixels=999)
    batch = next(iter(_data(source, 1, 2, corrupt_samples=limit).train_dataloader()))
    assert batch.captions == ["small", "small"]
    assert [(one.kind, one.key) for one in batch.faults] == [("image_too_large", "2")]


def test_kinds__are_distinct_and_documented() -> None:
    assert not set(SKIPPED) & set(REPAIRED)
    page = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    assert [kind for kind in (*SKIPPED, *REPAIRED) if f"`{kind}`" not in page] == []


def test_fault_reports__are_plain_values(tmp_path: Path) -> None:
    content = [*members(samples(2)), ("bad.jpg", b"no"), ("bad.txt", b"text")]
    source = _shard(tmp_path, content)
    batch = next(iter(_data(source, 1, 3).train_dataloader()))
    (report,) = batch.faults
    assert json.loads(json.dumps(report._asdict()))["kind"] == "image_undecodable"
