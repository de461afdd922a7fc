"""The runs that are compared: what each was trained with and on, its metrics and its items."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kelip_lightning.config.experiment import SCHEMAS, ContrastiveExperiment
from kelip_lightning.config.load import find_schema, load_experiment
from kelip_lightning.errors import ConfigError, RunFolderError
from kelip_lightning.planning.stage_plan import Stage, stages_of
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.runs.items import StoredItems, read_items
from kelip_lightning.training.provenance import DataRecord, read_record


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """One finished run with contrastive training."""

    name: str
    """The path as given."""
    stages: Mapping[str, Stage]
    """Stage -> its settings, as the run's config.yaml has them."""
    data: DataRecord | None
    """Fingerprints of what it was trained and evaluated on; `None`: an earlier revision recorded none."""
    metrics: Mapping[str, float]
    """The final evaluation."""
    chance: Mapping[str, float]
    """Metric -> its level by chance."""
    items: Mapping[str, StoredItems] | None
    """Task -> outcomes of the final evaluation; `None`: there is no items.parquet."""

    @property
    def contrastive(self) -> ContrastiveExperiment:
        """The settings of contrastive training."""
        stage = self.stages["contrastive"]
        assert isinstance(stage, ContrastiveExperiment)
        return stage

    @property
    def seed(self) -> int:
        """Of contrastive training."""
        return self.contrastive.seed

    def samples_of(self, stage: str) -> int:
        """Samples that a stage was trained on: steps x global batch size."""
        settings = self.stages[stage]
        return settings.schedule.max_steps * settings.data.global_batch_size


Groups = Mapping[str, Sequence[ComparedRun]]
"""Name of a group -> its runs; the first group is the reference."""


def read_groups(paths: Mapping[str, Sequence[Path]]) -> dict[str, list[ComparedRun]]:
    """Read every run.

    Raises:
        RunFolderError: A run is unfinished or cannot be read, or a run stands twice.
    """
    owner: dict[Path, str] = {}
    for name, members in paths.items():
        for path in members:
            if (first := owner.setdefault(path.resolve(), name)) != name or members.count(path) > 1:
                where = f"in {name}" if first == name else f"in {first} and in {name}"
                raise RunFolderError(f"{path} stands twice, {where}; name each run once")
    return {name: [read_run(path) for path in members] for name, members in paths.items()}


def read_run(path: Path) -> ComparedRun:
    """Read a finished run.

    Raises:
        RunFolderError: It is unfinished, of MAE pre-training alone, or a file is missing or damaged.
    """
    folder = RunFolder(path)
    if not folder.report.is_file():
        raise RunFolderError(f"{path} has no {folder.report.name}: give the folder of a finished run")
    try:
        report: dict[str, Any] = json.loads(folder.report.read_text(encoding="utf-8"))
        metrics, chance = dict(report["metrics"]), dict(report["chance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunFolderError(f"{folder.report} is damaged ({error}); evaluate the run again: kelip evaluate") from error
    if not folder.config.is_file():
        raise RunFolderError(f"{path} has no {folder.config.name}, so what it was trained with is unknown; restore it")
    try:
        schema = find_schema(folder.config, SCHEMAS)
        experiment = load_experiment(
            folder.config, [], schema, on_this_machine=False, stored=True, heavy=False
        ).experiment
    except ConfigError as error:
        raise RunFolderError(f"{folder.config} cannot be read by this revision: {error.problems[0]}") from error
    stages = stages_of(experiment)
    if "contrastive" not in stages:
        raise RunFolderError(f"{path} has no contrastive training, so no evaluation to compare")
    return ComparedRun(
        name=str(path),
        stages=stages,
        data=read_record(folder),
        metrics=metrics,
        chance=chance,
        items=read_items(folder.items) if folder.items.is_file() else None,
    )
