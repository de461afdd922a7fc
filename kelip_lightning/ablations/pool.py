"""The runs that stand already: which of a study's runs are finished, under way, cut off, or still to come."""

import json
import shutil
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from kelip_lightning.ablations.study import PlannedRun
from kelip_lightning.errors import RunFolderError
from kelip_lightning.run_folder import RunFolder

COST = "cost.json"


class RunState(Enum):
    """How far a run has come."""

    finished = "finished"
    under_way = "under way"
    unfinished = "cut off"
    missing = "to come"


def find_run(pool: Path, run: PlannedRun) -> RunFolder:
    """The folder of the run, whichever study trained it; where there is none, the one that it will have."""
    found = [RunFolder(path) for path in sorted(pool.glob(f"*-{run.fingerprint}")) if path.is_dir()]
    finished = [folder for folder in found if state_of(folder) is RunState.finished]
    return [*finished, *found, RunFolder(pool / run.name)][0]


def state_of(folder: RunFolder) -> RunState:
    """How far the run in a folder has come."""
    if not folder.path.is_dir():
        return RunState.missing
    if folder.read_status().get("state") == "finished" and folder.report.is_file():
        return RunState.finished
    return RunState.under_way if folder.is_under_way() else RunState.unfinished


def refuse_unfinished(pool: Path, runs: Sequence[PlannedRun]) -> None:
    """Runs that were cut off are somebody's time; only `--resume` touches them.

    Raises:
        RunFolderError: There is one.
    """
    folders = [find_run(pool, run) for run in runs]
    cut_off = [folder.path for folder in folders if state_of(folder) is RunState.unfinished]
    if cut_off:
        raise RunFolderError(
            f"{len(cut_off)} of the runs were cut off ({', '.join(path.name for path in cut_off)} in {pool}); go on "
            "with --resume, which starts them again"
        )


def clear(folder: RunFolder) -> None:
    """Remove what a run that was cut off has left, so that it can start again.

    Raises:
        RunFolderError: The run has finished or is under way.
    """
    if state_of(folder) in (RunState.finished, RunState.under_way):
        raise RunFolderError(f"{folder.path} is {state_of(folder).value} and stays as it is")
    shutil.rmtree(folder.path)


def record_seconds(folder: RunFolder, seconds: float) -> None:
    """Keep how long the run's process took."""
    (folder.path / COST).write_text(json.dumps({"seconds": round(seconds, 1)}) + "\n", encoding="utf-8")


def seconds_of(folder: RunFolder) -> float | None:
    """How long the run's process took, start and evaluation included; none if it was not started by a study."""
    try:
        return float(json.loads((folder.path / COST).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError):
        return None
