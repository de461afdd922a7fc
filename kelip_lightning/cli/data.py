"""`kelip data index|inspect|pack`: inspect and prepare the data of an experiment."""

import argparse
import functools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.verb import load_any_experiment, verb

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from data_modules.preparation import PackSettings, SourceReport
    from data_modules.sources.config import SourceConfig
    from data_modules.sources.rows import PairSource
    from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment
_COLUMNS, _TEXT, _GAP = 6, 14, 8
"""Of the contact sheet: images in a row, and text size and gaps in pixels."""


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    index = actions.add_parser("index", help="scan tar shards once, for random access")
    index.add_argument("what", metavar="FILE.yaml|SHARDS", nargs="+", help="an experiment, or shards as in its `files`")
    inspect = actions.add_parser("inspect", help="print statistics of image-text pairs and draw a contact sheet")
    inspect.add_argument("--samples", type=int, default=500, help="pairs read per source (default: 500)")
    inspect.add_argument("--sheet", type=Path, help="PNG file (default: NAME-contact_sheet.png beside the run folder)")
    pack = actions.add_parser("pack", help="write the sources as tar shards with resized images")
    for action in (inspect, pack):
        action.add_argument("file", metavar="FILE.yaml", help="the experiment")
    pack.add_argument("output", metavar="FOLDER", type=Path, help="folder for the shards")
    pack.add_argument("--short-side", type=int, default=256, help="pixels; smaller images are kept (default: 256)")
    pack.add_argument("--quality", type=int, help="of WebP and JPEG (default: 90)")
    pack.add_argument("--format", help="webp, jpg or png (default: webp)")
    pack.add_argument("--pixels", choices=["yuv420"], help="undecoded pixels, 1.5 bytes each, instead of a format")
    pack.add_argument("--samples-per-shard", type=int, default=10_000, help="default: 10000")
    for action in (index, pack):
        action.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    for action in (index, inspect, pack):
        action.add_argument("--override", metavar="dotted.key=value", action="append", default=[], dest="changes")


@verb(_add_arguments)
def data(arguments: argparse.Namespace) -> int:
    """Index, inspect or pack the data of an experiment.

      kelip data index experiments/mine.yaml            index all tar shards of an experiment
      kelip data index '/data/{000..999}.tar'           index tar shards with captions in .txt
      kelip data inspect experiments/mine.yaml          statistics, corrupt samples, a contact sheet
      kelip data pack experiments/mine.yaml /data/256   write each source as shards with a short side of 256 pixels; a
                                                        source of both stages is written once, with the captions of both
      kelip data pack --pixels yuv420 ...               the same with undecoded pixels: five times the disk of JPEGs,
                                                        and half the time to read them

    See docs/data.md for formats, sample order and corrupt samples.
    """
    return {"index": _index, "inspect": _inspect, "pack": _pack}[arguments.action](arguments)


def _stages(file: str, changes: list[str]) -> dict[str, "MaskedPretrainExperiment | ContrastiveExperiment"]:
    experiment = load_any_experiment(file, changes, on_this_machine=True).experiment
    from kelip_lightning.planning.stage_plan import stages_of

    return stages_of(experiment)


def _sources(file: str, changes: list[str]) -> Iterator[tuple[str, "SourceConfig"]]:
    """The distinct sources of all stages."""
    seen: list[tuple[str, object]] = []
    for one in (one for stage in _stages(file, changes).values() for one in stage.data.sources.items()):
        if one not in seen:
            seen.append(one)
            yield one


def _index(arguments: argparse.Namespace) -> int:
    from data_modules.errors import DataError
    from data_modules.sources.config import PARQUET_ENDING, SourceConfig, SourceFormat, source_format

    if arguments.what[0].endswith((".yaml", ".yml")):
        named = list(_sources(arguments.what[0], arguments.changes))
    else:
        config = SourceConfig(files=arguments.what, format=SourceFormat.shards, caption_fields=["txt"])
        named = [("shards", config)]
    shards = [(name, config) for name, config in named if source_format(config) is SourceFormat.shards]
    tables = [(name, config) for name, config in named if source_format(config) is SourceFormat.table]
    tables = [(name, config) for name, config in tables if config.files[0].lower().endswith(PARQUET_ENDING)]
    if not shards and not tables:
        raise DataError(f"{arguments.what[0]} has no tar shards and no parquet; other sources need no index")
    from rich.progress import Progress

    from data_modules.sources.parquet_tables import index_parquet
    from data_modules.sources.tar_source import TarSource

    for name, config in tables:
        with Progress() as bar:
            show = functools.partial(_show, bar, bar.add_task(name, total=None))
            rows, files = index_parquet(config, num_workers=arguments.workers, progress=show)
        print(f"{name}: {rows:,} rows; {', '.join(map(str, files)) or 'no column needs an index'}")
    for name, config in shards:
        with Progress() as bar:
            show = functools.partial(_show, bar, bar.add_task(name, total=None))
            source = TarSource(name, config, num_workers=arguments.workers, progress=show)
        left_out = len(source.opening_faults())
        print(
            f"{name}: {len(source.index):,} samples in {len(source.index.shards):,} shards, {left_out:,} skipped; "
            f"{source.index.file}"
        )
    return 0


def _show(bar: "Progress", task: "TaskID", done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _inspect(arguments: argparse.Namespace) -> int:
    from data_modules.errors import DataError
    from kelip_lightning.config.experiment import ContrastiveExperiment

    stages = _stages(arguments.file, arguments.changes).values()
    stage = next((one for one in stages if isinstance(one, ContrastiveExperiment)), None)
    if stage is None:
        raise DataError(f"{arguments.file} has no contrastive stage, and so no captions")
    from data_modules.preparation import inspect_sources
    from kelip_lightning.training.inputs import build_image_text_data

    reports: list[SourceReport] = inspect_sources(build_image_text_data(stage), max(1, arguments.samples), 8)
    _print_reports(reports)
    if unusable := [report for report in reports if not report.tokens]:
        raise DataError("; ".join(_unusable(report) for report in unusable))
    sheet = arguments.sheet or Path(stage.output_dir, f"{stage.name}-contact_sheet.png")
    _save_contact_sheet(reports, sheet)
    print(f"contact sheet: {sheet}")
    return 0


def _unusable(report: "SourceReport") -> str:
    """One sentence about a source of which no inspected pair can be used."""
    kinds = ", ".join(f"{kind} {number}" for kind, number in report.faults.most_common())
    return (
        f"source '{report.name}': none of {report.looked_at:,} inspected pairs can be used ({kinds}): correct its "
        "files and fields (docs/data.md lists the kinds of faults)"
    )


def _pack(arguments: argparse.Namespace) -> int:
    stages = _stages(arguments.file, arguments.changes)
    from rich.progress import Progress

    from data_modules.preparation import num_shards, pack_source, sources_to_pack
    from data_modules.sources.opening import open_source

    settings = _pack_settings(arguments)
    named = sources_to_pack({stage: one.data.sources for stage, one in stages.items()})
    sources = {name: open_source(name, config) for name, config in named.items()}
    if arguments.pixels:
        _print_disk(named, sources, arguments.output, settings.short_side)
    for name, config in named.items():
        faults, written, source = Counter[str](), 0, sources[name]
        with Progress() as bar:
            task = bar.add_task(name, total=num_shards(source, config, settings))
            for shard in pack_source(source, config, arguments.output, settings, arguments.workers):
                faults.update(shard.faults)
                written += shard.samples
                bar.advance(task)
        skipped = ", ".join(f"{kind} {number}" for kind, number in faults.most_common()) or "none"
        print(f"{name}: {written:,} samples written to {arguments.output}; skipped: {skipped}")
    return 0


def _pack_settings(arguments: argparse.Namespace) -> "PackSettings":
    """The settings of the command line.

    Raises:
        DataError: One of them has no effect beside another, or is out of range.
    """
    from data_modules.errors import DataError
    from data_modules.preparation import PLANES_ENDING, PackSettings

    given = {"image_format": arguments.format, "quality": arguments.quality}
    given = {name: value for name, value in given.items() if value is not None}
    if arguments.pixels and given:
        option = "--format" if arguments.format is not None else "--quality"
        raise DataError(
            f"--pixels {arguments.pixels} stores undecoded pixels, which have no {option}: leave one of them out"
        )
    if arguments.format == "png" and "quality" in given:
        raise DataError("--quality is of WebP and JPEG, and --format png has none: leave one of them out")
    if arguments.pixels:
        given = {"image_format": PLANES_ENDING}
    return PackSettings(short_side=arguments.short_side, samples_per_shard=arguments.samples_per_shard, **given)


def _print_disk(
    configs: "Mapping[str, SourceConfig]", sources: "Mapping[str, PairSource]", output: Path, short_side: int
) -> None:
    """Print the disk that the sources take as planes, and what is free."""
    import shutil

    from data_modules.preparation import planes_bytes

    total = 0
    for name, source in sources.items():
        needed = planes_bytes(source, configs[name], short_side)
        total += needed
        print(f"{name}: about {needed / 1e9:.3g} GB, 1.5 bytes a pixel")
    folder = next(one for one in (output.absolute(), *output.absolute().parents) if one.exists())
    print(f"about {total / 1e9:.3g} GB in all; {shutil.disk_usage(folder).free / 1e9:.3g} GB are free in {folder}")


def _print_reports(reports: "Sequence[SourceReport]") -> None:
    from rich.console import Console
    from rich.table import Table

    from data_modules.preparation import language_shares

    table = Table(title="Image-text pairs", caption="tokens and short sides: 5%, median, 95%")
    table.add_column("")
    for report in reports:
        table.add_column(report.name, justify="right")
    rows = {
        "pairs": [f"{report.pairs:,}" for report in reports],
        "skipped at opening": [f"{sum(report.left_out.values()):,}" for report in reports],
        "read": [f"{report.looked_at:,}" for report in reports],
        "Korean, English": [", ".join(f"{s:.0%}" for s in language_shares(report).values()) for report in reports],
        "tokens": [_spread(report.tokens) for report in reports],
        "short side, px": [_spread(report.sides) for report in reports],
    }
    for kind in sorted({kind for report in reports for kind in {**report.faults, **report.left_out}}):
        rows[kind] = [f"{report.faults[kind] + report.left_out[kind]:,}" for report in reports]
    for label, cells in rows.items():
        table.add_row(label, *cells)
    Console().print(table)


def _spread(values: "Sequence[int]") -> str:
    import numpy as np

    return ", ".join(f"{value:.0f}" for value in np.percentile(values, (5, 50, 95))) if values else "-"


def _save_contact_sheet(reports: "Sequence[SourceReport]", file: Path) -> None:
    """Write the examples of all sources as a PNG, captions below the images."""
    from PIL import Image, ImageDraw

    from data_modules.preparation import SHEET_SIDE
    from kelip_lightning.drawing.fonts import drawable, load_font
    from kelip_lightning.drawing.panels import shorten

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
