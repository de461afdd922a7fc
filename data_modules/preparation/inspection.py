"""Statistics of a sample of a pair set."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

from data_modules.faults import SampleFault, sample_errors
from data_modules.image_text import ImageTextDataModule
from data_modules.images.decoding import decode, open_image, to_picture
from data_modules.languages import LANGUAGES
from data_modules.records import PairRecord

SHEET_SIDE = 128
"""Longest side of an image of the contact sheet, in pixels."""


@dataclass(slots=True)
class SourceReport:
    """Statistics of a sample of one source."""

    name: str
    pairs: int
    """Pairs of the whole source."""
    left_out: Counter[str]
    """Kind -> samples without an id, skipped when the source was opened."""
    looked_at: int = 0
    """Pairs of the sample."""
    languages: Counter[str] = field(default_factory=Counter)
    tokens: list[int] = field(default_factory=list)
    """Per caption, start and end included."""
    sides: list[int] = field(default_factory=list)
    """Short side per image, pixels."""
    faults: Counter[str] = field(default_factory=Counter)
    """Kind -> skipped and repaired samples."""
    examples: list[tuple[Image.Image, str]] = field(default_factory=list)
    """Thumbnails with their captions."""


def inspect_sources(data: ImageTextDataModule, num_samples: int, num_examples: int) -> list[SourceReport]:
    """Inspect up to `num_samples` >= 1 evenly spaced pairs of each source; keep `num_examples` images per language."""
    reports = []
    for source in data.sources:
        left_out = Counter(report.kind for report in source.opening_faults())
        pairs = source.pairs()
        report = SourceReport(source.name, len(pairs), left_out)
        positions = np.unique(np.linspace(0, len(pairs) - 1, num_samples).astype(np.int64))
        for index in pairs.take(positions).tolist():
            report.looked_at += 1
            try:
                record = source[index]
                with sample_errors(record.key):
                    _inspect_pair(data, record, report, num_examples)
            except SampleFault as fault:
                report.faults[fault.kind] += 1
        reports.append(report)
    return reports


def _inspect_pair(data: ImageTextDataModule, record: PairRecord, report: SourceReport, num_examples: int) -> None:
    repairs: list[str] = []
    encoded = open_image(record.image, record.file_name, repairs, data.config.corrupt_samples.max_image_pixels)
    picture = to_picture(decode(encoded))
    report.faults.update([*repairs, *record.repairs])
    report.languages[record.language] += 1
    report.tokens.append(data.tokenizer.encode(record.caption).shape[1])
    report.sides.append(min(encoded.width, encoded.height))
    if report.languages[record.language] <= num_examples:
        picture.thumbnail((SHEET_SIDE, SHEET_SIDE))
        report.examples.append((picture, record.caption))


def language_shares(report: SourceReport) -> dict[str, float]:
    """Share of each language among the usable pairs of the sample."""
    total = max(1, sum(report.languages.values()))
    return {language: report.languages[language] / total for language in LANGUAGES}
