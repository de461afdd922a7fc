"""The runs that stand already: which of a study's runs are finished, under way, cut off, or still to come."""

import json
from collections.abc import Sequence
from enum import Enum
from pathlib import Path

from kelip_lightning.ablations.study import PlannedRun
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.folder import Liveness, RunFolder

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
    # A process on another machine cannot be asked, and is believed.
    return RunState.unfinished if folder.liveness() is Liveness.dead else RunState.under_way


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
            "with --resume"
        )


def record_seconds(folder: RunFolder, seconds: float) -> None:
    """Add the time of a process to what the run has taken so far."""
    if folder.path.is_dir():
        whole = {"seconds": round((seconds_of(folder) or 0.0) + seconds, 3)}
        (folder.path / COST).write_text(json.dumps(whole) + "\n", encoding="utf-8")


def seconds_of(folder: RunFolder) -> float | None:
    """How long the run's processes took, start and evaluation included; none if no study started them."""
    try:
        return float(json.loads((folder.path / COST).read_text(encoding="utf-8"))["seconds"])
    except (OSError, ValueError, KeyError):
        return None
