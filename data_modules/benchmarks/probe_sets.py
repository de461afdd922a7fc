"""Labelled images for k-NN and linear probes of frozen features, checked; they stay encoded until they are embedded.

Shapes: M training images, N test images, K classes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.benchmarks.config import IntervalConfig, LabelledImagesConfig, ProbeConfig, ProbeSetConfig
from data_modules.benchmarks.image_stream import SelectedImages
from data_modules.benchmarks.layouts.fingerprints import sample_fingerprints
from data_modules.benchmarks.layouts.opening import open_samples
from data_modules.benchmarks.sample_table import RowIds, SampleTable
from data_modules.errors import DataError
from data_modules.sources.fingerprint import FileFingerprint
from data_modules.sources.tables import as_text


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class LabelledImages:
    """Images with the number of their class."""

    images: SelectedImages
    """M or N images."""
    labels: Tensor
    """int64 (M,) or (N,), in [0, K)."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ProbeSet:
    """Labelled training and test images of the same classes, no image in both."""

    name: str
    train: LabelledImages
    test: LabelledImages
    classes: Sequence[str]
    """K names, sorted; each has a training image."""
    k: int
    """Neighbours, at most M."""
    l2: float | None
    """Penalty of the linear probe; `None`: it is searched."""
    max_iter: int
    """Most iterations of a fit."""
    interval: IntervalConfig = field(default_factory=IntervalConfig)
    """When it is evaluated in training; not given: with the others."""
    notes: Sequence[str] = ()
    """Sentences on what was left out, for the user."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One part of a set, before its classes are numbered."""

    table: SampleTable
    rows: RowIds
    names: list[str]
    notes: list[str]


def build_probe_sets(config: ProbeConfig) -> list[ProbeSet]:
    """Open and check every configured set; no image is decoded.

    Raises:
        DataError: A file is missing or damaged, no row satisfies `where`, there are fewer than two classes or fewer
            training images than `k`, or an image is in both parts.
    """
    return [build_probe_set(name, one, config.data_folder) for name, one in config.sets.items()]


def build_probe_set(name: str, config: ProbeSetConfig, data_folder: str | None = None) -> ProbeSet:
    """The training and test images of one set; errors as in `build_probe_sets`."""
    context = f"probe.sets.{name}"
    train, test = (
        _read(part, config.label, f"{context}.{key}", data_folder)
        for key, part in (("train", config.train), ("test", config.test))
    )
    if train.table.identity == test.table.identity and len(both := np.intersect1d(train.rows, test.rows)):
        raise DataError(
            f"{context}: {len(both):,} images are in both `train` and `test`, where each would be its own neighbour; "
            "separate them with `where`"
        )
    classes = sorted(set(train.names))
    if len(classes) < 2:
        raise DataError(
            f"{context}.train: all {len(train.names):,} images have the class '{classes[0]}'; a probe needs two or "
            "more classes, check `label` and `where`"
        )
    if config.k > len(train.names):
        raise DataError(
            f"{context}.k = {config.k} must be at most the number of training images, {len(train.names):,}; "
            "use a smaller k, or more training images"
        )
    number = {one: place for place, one in enumerate(classes)}
    known = np.array([one in number for one in test.names])
    if not known.any():
        raise DataError(
            f"{context}.test: no image has one of the {len(classes)} classes of the training images; check `label`"
        )
    notes = [*train.notes, *test.notes]
    notes += _left_out(f"{context}.test", ~known, "images of classes without a training image")
    return ProbeSet(
        name=name,
        train=_labelled(train.table, train.rows, [number[one] for one in train.names]),
        test=_labelled(test.table, test.rows[known], [number[one] for one in test.names if one in number]),
        classes=classes,
        k=config.k,
        l2=config.l2,
        max_iter=config.max_iter,
        interval=config.interval,
        notes=notes,
    )


def probe_fingerprints(config: ProbeConfig) -> dict[str, tuple[FileFingerprint, ...]]:
    """`probe.NAME` -> fingerprints of a set's files, without reading them.

    Raises:
        DataError: A file is missing or damaged.
    """
    return {
        f"probe.{name}": tuple(
            file for part in (one.train, one.test) for file in sample_fingerprints(part.table, config.data_folder)
        )
        for name, one in config.sets.items()
    }


def _read(config: LabelledImagesConfig, label: str, context: str, data_folder: str | None) -> _Part:
    """The rows that satisfy `where` and have a class, at most `max_images` of them."""
    table = open_samples(config.table, context, data_folder=data_folder, columns=[label, *config.where])
    rows = _matching(table, config.where, context)
    cells = table.cells(label, rows)
    names = ["" if cell is None else as_text(cell).strip() for cell in cells]
    has_class = np.array([bool(one) for one in names])
    if not has_class.any():
        raise DataError(f"{context}: no image has anything in the column '{label}'; check `label`")
    notes = _left_out(context, ~has_class, f"images without a class in the column '{label}'")
    chosen = np.flatnonzero(has_class)
    if config.max_images is not None and len(chosen) > config.max_images:
        notes.append(
            f"{context}: {config.max_images:,} of {len(chosen):,} images are used, spread evenly; max_images: null "
            "uses all"
        )
        chosen = chosen[np.linspace(0, len(chosen) - 1, config.max_images).round().astype(np.int64)]
    table.keys(rows[chosen])  # refuses an image that is listed twice, before any is decoded
    return _Part(table, rows[chosen], [names[place] for place in chosen], notes)


def _matching(table: SampleTable, where: Mapping[str, Sequence[str]], context: str) -> RowIds:
    """The rows that satisfy every condition, ascending, one or more."""
    rows = np.arange(len(table), dtype=np.int64)
    for column, allowed in where.items():
        values = frozenset(allowed)
        rows = rows[[as_text(cell) in values for cell in table.cells(column, rows)]]
    if not len(rows):
        raise DataError(f"{context}: no row has {dict(where)}; correct `where`" if where else f"{context} has no rows")
    return rows


def _labelled(table: SampleTable, rows: RowIds, labels: Sequence[int]) -> LabelledImages:
    return LabelledImages(images=SelectedImages(table, rows), labels=torch.tensor(labels, dtype=torch.int64))


def _left_out(context: str, mask: NDArray[np.bool_], what: str) -> list[str]:
    return [f"{context}: {int(mask.sum()):,} of {len(mask):,} {what} are left out"] if mask.any() else []
