"""Settings of `kelip evaluate`: sets, where their data comes from, published results, and the tables to print."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from data_modules.benchmarks.config import EvaluationConfig
from kelip_lightning.evaluation.metric_names import metric_problem


@dataclass(kw_only=True, slots=True)
class DataNoteConfig:
    """Where the data of a file's sets comes from. Nothing is downloaded from it."""

    title: str
    """The data set's name."""
    download: str
    """Where to get it, and how to arrange it under `evaluation.data_folder`."""
    licence: str
    """Licence of images and texts."""
    notes: str = ""
    """Split, protocol, and what is known to differ from published evaluations."""


@dataclass(kw_only=True, slots=True)
class PublishedConfig:
    """Published results of one model, printed beside those of the evaluated ones."""

    model: str
    """The model's name."""
    source: str
    """Where the numbers are published: paper and table, or file."""
    protocol: str = ""
    """What differs from this file's protocol; empty: nothing known."""
    metrics: dict[str, float]
    """Metric (eval/SET_ko/zero_shot_top1) -> value; shares in [0, 1]."""

    @property
    def name(self) -> str:
        """Model and source, the heading of its row or column."""
        return f"{self.model} [{self.source}]"

    def __post_init__(self) -> None:
        for name, value in self.metrics.items():
            if problem := metric_problem(name):
                raise ValueError(f"metrics names {problem}")
            if not 0 <= value <= 1 and not name.endswith("median_rank"):
                raise ValueError(f"metrics.{name} = {value} must be a share in [0, 1]")


@dataclass(kw_only=True, slots=True)
class ResultTableConfig:
    """A table of results: a row per model and language, a column per metric, then their mean."""

    title: str
    """Heading."""
    columns: dict[str, str]
    """Heading of a column -> metric; `{language}` in it makes a row for each language."""
    mean: bool = False
    """Whether the last column is the mean over the columns that a row has a value in, with their number in brackets."""


@dataclass(kw_only=True, slots=True)
class EvaluationExperiment:
    """Evaluation sets for trained models: `kelip evaluate MODEL FILE`."""

    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """Evaluation sets."""
    include: list[str] = field(default_factory=list)
    """Further files of this kind, relative to this one; their sets and published results are added."""
    about: DataNoteConfig | None = None
    """Where the data comes from."""
    published: list[PublishedConfig] = field(default_factory=list)
    """Published results. Entries of the same model and source are one row, and must agree."""
    tables: dict[str, ResultTableConfig] = field(default_factory=dict)
    """Name -> table to print instead of the list of all metrics."""

    def __post_init__(self) -> None:
        published_rows(self.published)


def published_rows(published: Sequence[PublishedConfig]) -> dict[str, dict[str, float]]:
    """`MODEL [SOURCE]` -> its metrics, those of all entries of the same model and source together.

    Raises:
        ValueError: Two of these entries have different values of a metric.
    """
    rows: dict[str, dict[str, float]] = {}
    for one in published:
        row = rows.setdefault(one.name, {})
        for metric, value in one.metrics.items():
            if row.setdefault(metric, value) != value:
                raise ValueError(
                    f"published has {metric} = {row[metric]} and {value} for {one.name}; "
                    "remove one, or state another source"
                )
    return rows
