"""`kelip data index|inspect|pack`: look at the data of an experiment, and prepare it."""

import argparse
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kelip_lightning.cli.training import check_syntax

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from data_modules.preparation import SourceReport
    from data_modules.sources.config import SourceConfig
    from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment

NAME = "data"
HELP = "index, inspect or pack the data of an experiment"
DESCRIPTION = """\
  kelip data index experiments/mine.yaml            indices of all its shards, before a run needs them
  kelip data index '/data/{000..999}.tar'           the same without an experiment, captions in .txt
  kelip data inspect experiments/mine.yaml          counts, languages, lengths, sizes, broken items, a contact sheet
  kelip data pack experiments/mine.yaml /data/256   every source as shards with a short side of 256; one that both
                                                    stages read once, with the captions of both

docs/data.md says what is read, in which order, and what happens to broken items.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One of the three actions with its own options."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    index = actions.add_parser("index", help="scan tar shards once, for random access")
    index.add_argument("what", metavar="FILE.yaml|SHARDS", nargs="+", help="an experiment, or shards as in its `files`")
    inspect = actions.add_parser("inspect", help="print what a pair set holds, and draw a contact sheet")
    inspect.add_argument("--samples", type=int, default=500, help="pairs looked at per source (default: 500)")
    inspect.add_argument("--sheet", type=Path, default=Path("contact_sheet.png"), help="PNG that is written")
    pack = actions.add_parser("pack", help="write the sources as tar shards with resized images")
    for action in (inspect, pack):
        action.add_argument("file", metavar="FILE.yaml", help="the experiment")
    pack.add_argument("output", metavar="FOLDER", type=Path, help="where the shards go")
    pack.add_argument("--short-side", type=int, default=256, help="pixels; smaller images stay (default: 256)")
    pack.add_argument("--quality", type=int, default=90, help="of WebP and JPEG (default: 90)")
    pack.add_argument("--format", default="webp", help="webp, jpg or png (default: webp)")
    pack.add_argument("--samples-per-shard", type=int, default=10_000, help="default: 10000")
    for action in (index, pack):
        action.add_argument("--workers", type=int, default=1, help="processes (default: 1)")
    for action in (index, inspect, pack):
        action.add_argument("--override", metavar="dotted.key=value", action="append", default=[], dest="changes")


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked for."""
    return {"index": _index, "inspect": _inspect, "pack": _pack}[arguments.action](arguments)


def _stages(file: str, changes: list[str]) -> dict[str, "MaskedPretrainExperiment | ContrastiveExperiment"]:
    check_syntax(file)
    from kelip_lightning.config.experiment import SCHEMAS
    from kelip_lightning.config.load import find_schema, load_experiment
    from kelip_lightning.planning.stage_plan import stages_of

    schema = find_schema(file, SCHEMAS)
    return stages_of(load_experiment(file, changes, schema).experiment)


def _sources(file: str, changes: list[str]) -> Iterator[tuple[str, "SourceConfig"]]:
    """The sources of every stage, none twice."""
    seen: list[tuple[str, object]] = []
    for stage in _stages(file, changes).values():
        for one in stage.data.sources.items():
            if one not in seen:
                seen.append(one)
                yield one


def _index(arguments: argparse.Namespace) -> int:
    from rich.progress import Progress

    from data_modules.errors import DataError
    from data_modules.sources.config import SourceConfig, SourceFormat, source_format
    from data_modules.sources.tar_source import TarSource

    if arguments.what[0].endswith((".yaml", ".yml")):
        named = list(_sources(arguments.what[0], arguments.changes))
    else:
        config = SourceConfig(files=arguments.what, format=SourceFormat.shards, caption_fields=["txt"])
        named = [("shards", config)]
    shards = [(name, config) for name, config in named if source_format(config) is SourceFormat.shards]
    if not shards:
        raise DataError(f"{arguments.what[0]} has no source of tar shards; other sources need no index")
    for name, config in shards:
        with Progress() as bar:
            show = functools.partial(_show, bar, bar.add_task(name, total=None))
            source = TarSource(name, config, num_workers=arguments.workers, progress=show)
        left_out = len(source.opening_faults())
        print(
            f"{name}: {len(source.index):,} samples in {len(source.index.shards):,} shards, {left_out:,} left out; "
            f"{source.index.file}"
        )
    return 0


def _show(bar: "Progress", task: "TaskID", done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _inspect(arguments: argparse.Namespace) -> int:
    from data_modules.errors import DataError
    from data_modules.preparation import inspect_sources
    from kelip_lightning.cli.data_report import print_reports, save_contact_sheet
    from kelip_lightning.config.experiment import ContrastiveExperiment
    from kelip_lightning.training.inputs import build_image_text_data

    stages = _stages(arguments.file, arguments.changes).values()
    stage = next((one for one in stages if isinstance(one, ContrastiveExperiment)), None)
    if stage is None:
        raise DataError(f"{arguments.file} has no contrastive stage, and so no captions to look at")
    reports: list[SourceReport] = inspect_sources(build_image_text_data(stage), max(1, arguments.samples), 8)
    print_reports(reports)
    save_contact_sheet(reports, arguments.sheet)
    print(f"contact sheet: {arguments.sheet}")
    return 0


def _pack(arguments: argparse.Namespace) -> int:
    from collections import Counter

    from rich.progress import Progress

    from data_modules.preparation import PackSettings, num_shards, pack_source, sources_to_pack
    from data_modules.sources.opening import open_source

    settings = PackSettings(
        short_side=arguments.short_side,
        quality=arguments.quality,
        image_format=arguments.format,
        samples_per_shard=arguments.samples_per_shard,
    )
    stages = _stages(arguments.file, arguments.changes)
    for name, config in sources_to_pack({stage: one.data.sources for stage, one in stages.items()}).items():
        faults, written, source = Counter[str](), 0, open_source(name, config)
        with Progress() as bar:
            task = bar.add_task(name, total=num_shards(source, config, settings))
            for shard in pack_source(source, config, arguments.output, settings, arguments.workers):
                faults.update(shard.faults)
                written += shard.samples
                bar.advance(task)
        told = ", ".join(f"{kind} {number}" for kind, number in faults.most_common()) or "none"
        print(f"{name}: {written:,} samples written to {arguments.output}; left out: {told}")
    return 0
