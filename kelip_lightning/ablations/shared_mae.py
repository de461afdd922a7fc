"""MAE pre-training that several runs of a study have in common: which run trains it, and which ones copy it."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Event

from kelip_lightning.ablations.pool import find_folder
from kelip_lightning.ablations.study import PlannedRun
from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.fingerprint import training_fingerprint
from kelip_lightning.runs.folder import RunFolder

_PAUSE_SECONDS = 0.2


class SharedMae:
    """Of all runs with the same MAE settings and seed, the one whose MAE pre-training the others copy.

    Args:
        pool: Folder of the runs.
        runs: The runs of a study.
        due: Those that are about to be trained, in this order.
    """

    def __init__(self, pool: Path, runs: Sequence[PlannedRun], due: Sequence[PlannedRun]) -> None:
        self._pool = pool
        self._sources: dict[str, PlannedRun] = {}
        self._ended: dict[str, Event] = {run.name: Event() for run in due}
        done = [run for run in runs if self._folder(run).has_finished("mae")]
        for run in (*done, *due):
            if (stage := _stage_of(run)) is not None:
                self._sources.setdefault(stage, run)

    def finished_source(self, run: PlannedRun) -> RunFolder | None:
        """The run to copy MAE pre-training from; `None`: none has finished it, or this run trains its own."""
        source = self._source_of(run)
        folder = None if source is None else self._folder(source)
        return folder if folder is not None and folder.has_finished("mae") else None

    def wait_for_source(self, run: PlannedRun, is_interrupted: Callable[[], bool]) -> RunFolder | None:
        """As `finished_source`, but the run that trains it is waited for until it has got so far, or has ended.

        Args:
            run: About to be trained.
            is_interrupted: Whether waiting is of no use any more.
        """
        source = self._source_of(run)
        if source is not None and source.name in self._ended:
            ended, folder = self._ended[source.name], self._folder(source)
            while not (folder.has_finished("mae") or ended.is_set() or is_interrupted()):
                time.sleep(_PAUSE_SECONDS)
        return self.finished_source(run)

    def has_ended(self, run: PlannedRun) -> None:
        """Tell that a run has finished or failed."""
        self._ended[run.name].set()

    def _source_of(self, run: PlannedRun) -> PlannedRun | None:
        """Another run of the same MAE pre-training; `None`: there is none, or this run has begun its own."""
        stage = _stage_of(run)
        source = None if stage is None else self._sources.get(stage)
        return None if source is run or self._folder(run).stage("mae").path.is_dir() else source

    def _folder(self, run: PlannedRun) -> RunFolder:
        return find_folder(self._pool, run)


def _stage_of(run: PlannedRun) -> str | None:
    """Fingerprint of a run's MAE pre-training, its seed included; `None`: it has none."""
    experiment = run.experiment
    if not isinstance(experiment, PretrainExperiment) or experiment.mae is None:
        return None
    return training_fingerprint(experiment.mae)
