"""Labelled images of probes: classes, what is left out, bounds on their number, and what is refused."""

from collections.abc import Callable
from typing import Any

import pytest

from data_modules.benchmarks.config import (
    IntervalConfig,
    LabelledImagesConfig,
    ProbeConfig,
    ProbeSetConfig,
    TableConfig,
)
from data_modules.benchmarks.probe_sets import ProbeSet, build_probe_set, build_probe_sets, probe_fingerprints
from data_modules.errors import DataError

Rows = list[dict[str, Any]]


@pytest.fixture
def part(write_table: Callable[[Rows, str], str]) -> Callable[..., LabelledImagesConfig]:
    """A part of rows with the given classes, in a file of its own."""

    def make(kinds: list[str | None], name: str = "a.parquet", **options: Any) -> LabelledImagesConfig:
        rows = [{"image": {"bytes": b"x", "path": None}, "kind": kind, "row": str(n)} for n, kind in enumerate(kinds)]
        return LabelledImagesConfig(table=TableConfig(files=[write_table(rows, name)]), **options)

    return make


def _set(train: LabelledImagesConfig, test: LabelledImagesConfig, **options: Any) -> ProbeSet:
    return build_probe_set("kinds", ProbeSetConfig(train=train, test=test, label="kind", **{"k": 1} | options))


def test_build_probe_set__labels_are_those_of_the_training_classes(part: Callable[..., LabelledImagesConfig]) -> None:
    interval = IntervalConfig(every_n_steps=7)
    found = _set(
        part(["새", " 꽃", None, "bird", "새"]),
        part(["bird", "fish", "꽃", "새", "fish"], "b.parquet"),
        k=4,
        l2=None,
        max_iter=9,
        interval=interval,
    )
    assert found.classes == ["bird", "꽃", "새"]
    assert (found.train.labels.tolist(), found.train.images.rows.tolist()) == ([2, 1, 0, 2], [0, 1, 3, 4])
    assert (found.test.labels.tolist(), found.test.images.rows.tolist()) == ([0, 1, 2], [0, 2, 3])
    assert (found.k, found.l2, found.max_iter, found.interval) == (4, None, 9, interval)
    assert found.notes == [
        "probe.sets.kinds.train: 1 of 5 images without a class in the column 'kind' are left out",
        "probe.sets.kinds.test: 2 of 5 images of classes without a training image are left out",
    ]


def test_build_probe_set__at_most_so_many_images_spread_evenly(part: Callable[..., LabelledImagesConfig]) -> None:
    kinds: list[str | None] = ["b", "a"] * 10
    found = _set(part(kinds, max_images=5), part(kinds, "b.parquet", max_images=None))
    assert found.train.images.rows.tolist() == [0, 5, 10, 14, 19]  # 19 / 4 apart, rounded to even
    assert found.train.labels.tolist() == [1, 0, 1, 1, 0]
    assert found.test.images.rows.tolist() == list(range(20))
    assert found.notes == ["probe.sets.kinds.train: 5 of 20 images are used, spread evenly; max_images: null uses all"]


def test_build_probe_set__parts_of_one_table(part: Callable[..., LabelledImagesConfig]) -> None:
    kinds: list[str | None] = ["a", "b", "a", "b"]
    train, test = (part(kinds, where={"row": rows}) for rows in (["0", "1"], ["2", "3"]))
    found = _set(train, test)
    assert (found.train.images.rows.tolist(), found.test.images.rows.tolist()) == ([0, 1], [2, 3])
    overlapping = part(kinds, where={"row": ["1", "2"]})
    with pytest.raises(DataError, match=r"probe\.sets\.kinds: 1 images are in both `train` and `test`.*`where`"):
        _set(train, overlapping)


@pytest.mark.parametrize(
    ("train", "test", "options", "message"),
    [
        (["a", "a"], ["a"], {}, r"train: all 2 images have the class 'a'; a probe needs two or more classes"),
        (["a", "b"], ["c"], {}, r"test: no image has one of the 2 classes of the training images; check `label`"),
        (["a", "b"], ["a"], {"k": 3}, r"kinds\.k = 3 must be at most the number of training images, 2; use a smaller"),
        ([None, None], ["a"], {}, r"train: no image has anything in the column 'kind'; check `label`"),
        (["a", "b"], ["a"], {"label": "sort"}, r"test.*'sort'|train.*'sort'"),
    ],
)
def test_build_probe_set__what_is_refused(
    part: Callable[..., LabelledImagesConfig],
    train: list[str | None],
    test: list[str | None],
    options: dict[str, Any],
    message: str,
) -> None:
    config = ProbeSetConfig(train=part(train), test=part(test, "b.parquet"), **{"label": "kind", "k": 1} | options)
    with pytest.raises(DataError, match=message):
        build_probe_sets(ProbeConfig(sets={"kinds": config}))


def test_build_probe_set__no_row_satisfies_where(part: Callable[..., LabelledImagesConfig]) -> None:
    nothing = part(["a", "b"], where={"row": ["9"]})
    with pytest.raises(DataError, match=r"probe\.sets\.kinds\.train: no row has \{'row': \['9'\]\}; correct `where`"):
        _set(nothing, part(["a"], "b.parquet"))


@pytest.mark.parametrize("key", ["captions", "concept"])
def test_labelled_images_config__settings_without_effect(key: str) -> None:
    table = (
        TableConfig(files=["a.parquet"], captions={"ko": "name"})
        if key == "captions"
        else TableConfig(files=["a.parquet"], concept="name")
    )
    with pytest.raises(ValueError, match=rf"table\.{key} has no effect, since a probe reads images and classes only"):
        LabelledImagesConfig(table=table)


def test_probe_fingerprints__of_both_parts(part: Callable[..., LabelledImagesConfig]) -> None:
    def fingerprint(train: list[str | None]) -> object:
        config = ProbeSetConfig(train=part(train), test=part(["a"], "b.parquet"), label="kind")
        return probe_fingerprints(ProbeConfig(sets={"kinds": config}))

    before = fingerprint(["a", "b"])
    assert isinstance(before, dict)
    assert list(before) == ["probe.kinds"]
    assert len(before["probe.kinds"]) == 2
    assert fingerprint(["a", "b"]) == before
    assert fingerprint(["a", "b", "b"]) != before
