"""What `kelip data inspect` shows: a table per source, and a sheet of images with their captions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from rich.console import Console
from rich.table import Table

from data_modules.preparation import SHEET_SIDE, SourceReport, language_shares
from kelip_lightning.drawing.fonts import drawable, load_font
from kelip_lightning.drawing.panels import shorten

_COLUMNS, _TEXT, _GAP = 6, 14, 8


def print_reports(reports: Sequence[SourceReport]) -> None:
    """One column per source."""
    table = Table(title="Pair set", caption="tokens and short sides: 5%, median, 95%")
    table.add_column("")
    for report in reports:
        table.add_column(report.name, justify="right")
    rows = {
        "pairs": [f"{report.pairs:,}" for report in reports],
        "left out at opening": [f"{sum(report.left_out.values()):,}" for report in reports],
        "looked at": [f"{report.looked_at:,}" for report in reports],
        "Korean, English": [", ".join(f"{s:.0%}" for s in language_shares(report).values()) for report in reports],
        "tokens": [_spread(report.tokens) for report in reports],
        "short side, px": [_spread(report.sides) for report in reports],
    }
    for kind in sorted({kind for report in reports for kind in {**report.faults, **report.left_out}}):
        rows[kind] = [f"{report.faults[kind] + report.left_out[kind]:,}" for report in reports]
    for label, cells in rows.items():
        table.add_row(label, *cells)
    Console().print(table)


def _spread(values: Sequence[int]) -> str:
    return ", ".join(f"{value:.0f}" for value in np.percentile(values, (5, 50, 95))) if values else "-"


def save_contact_sheet(reports: Sequence[SourceReport], file: Path) -> None:
    """Write the examples of all sources as a PNG, captions below the images in both scripts."""
    examples = [example for report in reports for example in report.examples]
    cell = SHEET_SIDE + 3 * _GAP + _TEXT
    width = SHEET_SIDE + _GAP
    num_rows = max(1, -(-len(examples) // _COLUMNS))
    sheet = Image.new("RGB", (_COLUMNS * width + _GAP, num_rows * cell), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (picture, caption) in enumerate(examples):
        left, top = _GAP + place % _COLUMNS * width, _GAP + place // _COLUMNS * cell
        sheet.paste(picture, (left, top))
        text = shorten(drawable(" ".join(caption.split())), load_font(_TEXT), SHEET_SIDE)
        draw.text((left, top + SHEET_SIDE + _GAP // 2), text, fill="black", font=load_font(_TEXT))
    file.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(file)
