"""The report of `kelip init`: what was found, what was chosen."""

from collections.abc import Iterator
from pathlib import Path

from data_modules.preparation.survey.files import Kind
from data_modules.preparation.survey.survey import DataSurvey
from kelip_lightning.scaffolding.machine import Machine
from kelip_lightning.scaffolding.writing import Written


def report_rows(survey: DataSurvey, machine: Machine, written: Written) -> Iterator[tuple[str, str]]:
    """Label and text of each row."""
    rows, sizes = survey.rows, survey.sizes
    about = "about " if rows.is_estimated else ""
    train = survey.files.train
    where = str(train[0]) if len(train) == 1 else f"{len(train)} files, {train[0]} to {train[-1].name}"
    yield "data", f"{survey.files.kind.value}: {where}"
    unit = "images" if survey.files.kind in (Kind.pictures, Kind.shards) else "rows"
    yield unit, f"{about}{rows.num_rows:,}, {len(rows.rows)} looked at"
    if rows.separator is not None:
        yield "text", f"{rows.encoding}, separated by {rows.separator!r}"
    yield "images", f"{_image_place(survey)}; short side {sizes.smallest} to {sizes.largest} px, median {sizes.median}"
    for one in survey.captions.chosen:
        yield "captions", one.described
    if survey.captions.others:
        yield "other texts", ", ".join(one.name for one in survey.captions.others[:6])
    broken = ", ".join(f"{number} {kind}" for kind, number in survey.faults.most_common())
    yield "broken", f"{broken or 'none'} of {len(rows.rows) + sum(rows.faults.values())}"
    if sizes.repairs:
        yield "repaired", ", ".join(f"{number} {kind}" for kind, number in sizes.repairs.most_common())
    if survey.captions.columns:
        yield "evaluation", survey.held_out.reason
    for note in survey.notes:
        yield "note", note
    yield "machine", machine.described
    sizing = written.sizing
    yield (
        "model",
        f"width {sizing.model.width}, {sizing.model.depth} blocks, patches of {sizing.patch_size} in "
        f"{sizing.image_size} px",
    )
    yield "MAE", f"{sizing.mae_max_steps:,} steps of {sizing.mae_batch_size} images"
    if survey.captions.columns:
        yield "contrastive", f"{sizing.max_steps:,} steps of {sizing.batch_size} pairs"
    yield "written", _names(written.files)


def _image_place(survey: DataSurvey) -> str:
    if survey.files.kind is Kind.shards:
        return "members of the tar files"
    if survey.files.kind is Kind.pictures:
        return "files"
    where = f" below {survey.image_root}" if survey.image_root is not None else ""
    return f"column {survey.image}{where}"


def _names(files: list[Path]) -> str:
    return f"{', '.join(file.name for file in files)} in {files[0].parent}"
