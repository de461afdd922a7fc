"""Looks at a lab's data: what `kelip init` writes its experiments from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_modules.errors import DataError
from data_modules.preparation.survey.columns import (
    Captions,
    empty_columns,
    find_captions,
    find_image_column,
    find_image_root,
    find_key,
    has_absolute_paths,
)
from data_modules.preparation.survey.files import DataFiles, Kind, find_files
from data_modules.preparation.survey.held_out import HeldOut, HeldOutBy, choose_held_out
from data_modules.preparation.survey.images import ImageSizes, measure_images
from data_modules.preparation.survey.rows import IMAGE, SampledRows, sample_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSurvey:
    """What was found out about the data."""

    files: DataFiles
    rows: SampledRows
    image: str
    """Column of images."""
    image_root: Path | None
    """Folder that image paths are relative to; `None`: that of the table."""
    has_absolute_paths: bool
    captions: Captions
    """Without columns if there are no captions."""
    key: str | None
    """Column that identifies a row; `None`: the default."""
    sizes: ImageSizes
    held_out: HeldOut
    notes: list[str]
    """What was found and is not used, one sentence each."""

    @property
    def num_images(self) -> int:
        """Rows, fewer by the share that cannot be used."""
        return round(self.rows.num_rows * self.sizes.num_images / max(1, len(self.rows.rows)))

    @property
    def pairs_per_image(self) -> float:
        """Captions of a row that has an image, on average, counted once for each language."""
        return sum(one.filled for one in self.captions.chosen) / max(1, len(self.rows.rows))

    @property
    def num_pairs(self) -> int:
        """Pairs of all rows, by the sample."""
        return round(self.num_images * self.pairs_per_image)

    @property
    def faults(self) -> Counter[str]:
        """Kind -> rows of the sample that cannot be used."""
        return self.sizes.faults + self.rows.faults

    def caption_characters(self, percentile: float) -> int:
        """Percentile of the lengths of the sample's captions, in characters."""
        cells = [row.get(name) for row in self.rows.rows for name in self.captions.columns]
        texts = [text for cell in cells for text in (cell if isinstance(cell, list) else [cell])]
        lengths = [len(text) for text in texts if isinstance(text, str) and text.strip()]
        return round(float(np.percentile(lengths, percentile))) if lengths else 0


def survey_data(paths: Sequence[Path]) -> DataSurvey:
    """Look at the data of the given files or folder.

    Raises:
        DataError: Nothing usable was found.
    """
    candidates = find_files(paths)
    refused: list[str] = []
    without_captions: DataSurvey | None = None
    for files in candidates:
        try:
            found = _survey(files)
        except DataError as error:
            refused.append(str(error))
            continue
        found.notes.extend(refused)
        if found.captions.columns:
            return found
        without_captions = without_captions or found
    if without_captions is None:
        raise DataError(refused[0])
    return without_captions


def _survey(files: DataFiles) -> DataSurvey:
    rows = sample_rows(files.kind, files.train)
    has_columns = files.kind in (Kind.table, Kind.dataset)
    image = find_image_column(rows) if has_columns else IMAGE
    root = find_image_root(rows, image, files.picture_folders) if has_columns else None
    captions = find_captions(rows, image)
    sizes = measure_images(rows, image, root)
    if not sizes.num_images:
        kind, number = sizes.faults.most_common(1)[0]
        raise DataError(f"none of {len(rows.rows)} images looked at in {files.train[0]} can be used ({number} {kind})")
    has_paths = any(isinstance(row.get(image), str) for row in rows.rows)
    has_one_root = root is not None or len({file.parent for file in files.train}) == 1
    held_out = choose_held_out(files, rows, can_copy=has_paths and has_one_root)
    if not captions.columns:
        reason = "nothing is evaluated without captions"
        held_out = HeldOut(by=HeldOutBy.nothing, reason=reason, train=[*held_out.train, *held_out.files])
    notes = [*files.notes, *(f"column {name} is empty in the sample" for name in empty_columns(rows))]
    return DataSurvey(
        files=files,
        rows=rows,
        image=image,
        image_root=root,
        has_absolute_paths=has_columns and has_absolute_paths(rows, image),
        captions=captions,
        key=find_key(rows) if has_columns else None,
        sizes=sizes,
        held_out=held_out,
        notes=notes,
    )
