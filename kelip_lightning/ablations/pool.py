"""The shared folder of a scale's runs: states of runs, and checks of data and code before a run is reused."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Self

from data_modules.benchmarks.config import EvaluationConfig, ProbeConfig
from data_modules.sources.fingerprint import all_source_changes
from kelip_lightning.ablations.study import PlannedRun, Trained, contrastive_of
from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.schema import to_plain
from kelip_lightning.errors import RunFolderError
from kelip_lightning.planning.stage_plan import stages_of
from kelip_lightning.runs.environment import code_digest, describe_revision
from kelip_lightning.runs.folder import Liveness, RunFolder
from kelip_lightning.runs.timing import read_sessions
from kelip_lightning.training.provenance import DataRecord, describe_data, read_record, refuse_other_tokenizer

COST = "cost.json"
ANY = "any"
"""Accepts every revision."""
_SHOWN, _LEAST = 10, 7
"""Digits of a commit in a message, and the fewest that identify one."""


class RunState(Enum):
    """Progress of a run."""

    finished = "finished"
    running = "running"
    interrupted = "interrupted"
    missing = "missing"


def find_folder(pool: Path, run: PlannedRun) -> RunFolder:
    """The folder of the run, whichever study trained it; if there is none, the one to create."""
    found = [RunFolder(path) for path in sorted(pool.glob(f"*-{run.fingerprint}")) if path.is_dir()]
    finished = [folder for folder in found if state_of(folder) is RunState.finished]
    return [*finished, *found, RunFolder(pool / run.name)][0]


def state_of(folder: RunFolder) -> RunState:
    """Progress of the run in a folder."""
    if not folder.path.is_dir():
        return RunState.missing
    if folder.read_status().get("state") == "finished" and folder.report.is_file():
        return RunState.finished
    # A process on another machine cannot be checked, and counts as running.
    return RunState.interrupted if folder.liveness() is Liveness.dead else RunState.running


def refuse_unfinished(pool: Path, runs: Sequence[PlannedRun]) -> None:
    """Interrupted runs are continued only with `--resume`.

    Raises:
        RunFolderError: A run was interrupted.
    """
    folders = [find_folder(pool, run) for run in runs]
    names = [folder.name for folder in folders if state_of(folder) is RunState.interrupted]
    if names:
        raise RunFolderError(
            f"{len(names)} of the runs were interrupted ({', '.join(names)} in {pool}); continue them with --resume"
        )


def record_seconds(folder: RunFolder, seconds: float, cores: int | None = None) -> None:
    """Add the wall-clock time of a process to that of the run, and its core-seconds on `cores` cores."""
    if folder.path.is_dir():
        before = _read_cost(folder)
        total = {"seconds": round(before.get("seconds", 0.0) + seconds, 3)}
        if cores is not None and (not before or "core_seconds" in before):
            total["core_seconds"] = round(before.get("core_seconds", 0.0) + seconds * cores, 3)
        (folder.path / COST).write_text(json.dumps(total) + "\n", encoding="utf-8")


def seconds_of(folder: RunFolder) -> float | None:
    """Wall-clock seconds of the run's processes, start and evaluation included; `None` if no study started them."""
    return _read_cost(folder).get("seconds")


def steps_share_of(folder: RunFolder) -> float | None:
    """Share of the run's wall-clock time in training steps of both stages, waiting for batches included.

    `None` without a record of the phases, or of the time from a study.
    """
    seconds = seconds_of(folder)
    try:
        sessions = read_sessions(folder)
    except RunFolderError:
        return None
    if not seconds:
        return None
    return sum(one.seconds_in("steps", "loader") for one in sessions) / seconds


def core_hours_of(folder: RunFolder) -> float | None:
    """CPU time of the run: wall-clock hours x its share of the cores; `None` without a record of time.

    Without a record of the cores, by runs of earlier revisions or of no study, it is that of all cores which the run
    was allowed: an upper bound if other runs shared them. The time of a run that no study started is in timing.json.
    """
    cost = _read_cost(folder)
    if "core_seconds" in cost:
        return cost["core_seconds"] / 3600
    try:
        seconds = cost["seconds"] if "seconds" in cost else sum(one.total for one in read_sessions(folder))
        environment = json.loads(folder.environment.read_text(encoding="utf-8"))
        cores = int(environment.get("cpu_cores_allowed") or environment["cpu_cores"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return seconds * cores / 3600


def _read_cost(folder: RunFolder) -> dict[str, float]:
    """The numbers of cost.json; empty if it is missing or damaged."""
    try:
        found = json.loads((folder.path / COST).read_text(encoding="utf-8"))
        return {str(key): float(value) for key, value in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@dataclass(frozen=True, slots=True, kw_only=True)
class Revision:
    """A state of the code."""

    commit: str | None
    """Of git; `None`: unknown."""
    is_dirty: bool
    """Whether tracked files differed from the commit."""
    code: str | None
    """Digest of the code; `None` in runs that did not record it."""

    @classmethod
    def of(cls, environment: Mapping[str, Any]) -> Self:
        """From a record of `describe_environment`."""
        git = environment.get("git") or {}
        return cls(commit=git.get("revision"), is_dirty=bool(git.get("dirty")), code=environment.get("code"))

    @classmethod
    def of_now(cls) -> Self:
        """Of the running code."""
        return cls.of({"git": describe_revision(), "code": code_digest()})

    def is_same_code(self, other: Self) -> bool:
        """Whether both digests are known and equal, as those of commits that differ in documents only."""
        return self.code is not None and self.code == other.code

    def is_named(self, name: str) -> bool:
        """Whether `--accept-revision` names this one: as printed, by its digest, or by digits of a clean commit."""
        if name in (ANY, str(self)) or (self.code is not None and name == self.code):
            return True
        return not self.is_dirty and len(name) >= _LEAST and (self.commit or "").startswith(name)

    @property
    def in_full(self) -> str:
        """With the digest of the code, which distinguishes two states of one commit."""
        text = str(self)
        return f"{text} (code {self.code})" if self.code and self.code not in text else text

    def __str__(self) -> str:
        """The commit; with changes, or without git, also the digest of the code."""
        commit = self.commit[:_SHOWN] if self.commit else "unknown"
        if self.commit and not self.is_dirty:
            return commit
        return f"{commit}{'+changes' if self.is_dirty else ''}{f'.{self.code}' if self.code else ''}"


def revisions_of(folder: RunFolder) -> list[Revision]:
    """The revisions that trained a run, first one first; an unknown one if nothing is recorded."""
    found = [Revision.of(one) for one in _environments(folder)]
    return list(dict.fromkeys(found)) or [Revision(commit=None, is_dirty=False, code=None)]


def _environments(folder: RunFolder) -> Iterator[Mapping[str, Any]]:
    try:
        yield json.loads(folder.environment.read_text(encoding="utf-8"))
        resumptions = folder.resumes.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return
    # The last line may be incomplete; complete ones end with a newline.
    yield from (json.loads(line).get("environment") or {} for line in resumptions.split("\n")[:-1])


def refuse_other_revisions(pool: Path, runs: Sequence[PlannedRun], accepted: Sequence[str]) -> None:
    """Runs that another revision of the code trained are reused or resumed only if the user accepts it.

    Args:
        pool: Folder of the runs.
        runs: To be reused or resumed.
        accepted: Accepted revisions: as the error prints them, their digest, digits of a commit, or `any`.

    Raises:
        RunFolderError: A run is of another revision; names both.
    """
    now = Revision.of_now()
    others: dict[Revision, list[str]] = {}
    for run in runs:
        folder = find_folder(pool, run)
        if state_of(folder) is RunState.missing:
            continue
        for one in revisions_of(folder):
            if not one.is_same_code(now) and not any(one.is_named(name) for name in accepted):
                others.setdefault(one, []).append(folder.name)
    if others:
        listed = "; ".join(
            f"{names[0]}{f' and {len(names) - 1} more' if len(names) > 1 else ''} by {one.in_full}"
            for one, names in others.items()
        )
        options = " ".join(f"--accept-revision {one}" for one in others)
        raise RunFolderError(
            f"runs in {pool} were trained by another revision of the code ({listed}), and this is {now.in_full}; if "
            f"the difference does not matter, accept them with {options}, or train anew with --output FOLDER"
        )


def refuse_other_data(pool: Path, runs: Sequence[PlannedRun]) -> None:
    """Finished runs are reused only if the data they were trained on is unchanged; interrupted ones check on resume.

    Runs without a record of their data are not checked: they are of another revision, which the user accepted.

    Raises:
        RunFolderError: A run was trained on other data, or with another tokenizer file.
        DataError: The present data cannot be opened.
    """
    known: dict[str, DataRecord] = {}
    refused: list[str] = []
    for run in runs:
        folder = find_folder(pool, run)
        before = read_record(folder) if state_of(folder) is RunState.finished else None
        if before is None:
            continue
        sources = {name: to_plain(stage.data.sources) for name, stage in stages_of(run.experiment).items()}
        key = json.dumps([sources, contrastive_of(run.experiment).data.captions.templates_file])
        if key not in known:
            known[key] = describe_data(_without_evaluation(run.experiment))
        if changes := list(_changes(before, known[key])):
            refused.append(f"{folder.name}: {'; '.join(changes)}")
        if contrastive_of(run.experiment).tokenizer.file is not None:
            refuse_other_tokenizer(folder, run.experiment)
    if refused:
        more = f", and {len(refused) - 1} more" if len(refused) > 1 else ""
        raise RunFolderError(
            f"runs in {pool} were trained on other data ({refused[0]}{more}); restore the data, or train anew with "
            "--output FOLDER"
        )


def _without_evaluation(experiment: Trained) -> Trained:
    """Evaluation sets may differ: finished models are evaluated again."""
    stage = replace(contrastive_of(experiment), evaluation=EvaluationConfig())
    if not isinstance(experiment, PretrainExperiment):
        return stage
    mae = None if experiment.mae is None else replace(experiment.mae, probe=ProbeConfig())
    return replace(experiment, mae=mae, contrastive=stage)


def _changes(before: DataRecord, found: DataRecord) -> Iterator[str]:
    for stage, sources in found.sources.items():
        for change in all_source_changes(before.sources.get(stage, {}), sources):
            yield f"{stage}: {change}"
    if before.templates != found.templates:
        yield "the caption templates changed"
