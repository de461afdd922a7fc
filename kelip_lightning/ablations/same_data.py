"""Whether the runs that a study would reuse were trained on the data that stands there now."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from data_modules.benchmarks.evaluation_sets import EvaluationConfig
from data_modules.sources.changes import all_source_changes
from kelip_lightning.ablations.pool import RunState, find_run, state_of
from kelip_lightning.ablations.study import PlannedRun, Trained, contrastive_of
from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.schema import to_plain
from kelip_lightning.errors import RunFolderError
from kelip_lightning.planning.stage_plan import stages_of
from kelip_lightning.training.provenance import DataRecord, describe_data, read_record, refuse_other_tokenizer


def refuse_other_data(pool: Path, runs: Sequence[PlannedRun]) -> None:
    """Finished runs must have been trained on what a run would read now; those cut off compare it when they go on.

    A run of before data were recorded is not compared; it comes from another revision, which the user has accepted.

    Raises:
        RunFolderError: A run was trained on other data, or with another tokenizer file.
        DataError: The data of now cannot be opened.
    """
    known: dict[str, DataRecord] = {}
    refused: list[str] = []
    for run in runs:
        folder = find_run(pool, run)
        before = read_record(folder) if state_of(folder) is RunState.finished else None
        if before is None:
            continue
        key = json.dumps([_read_by(run.experiment), _templates_of(run.experiment)])
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


def _read_by(experiment: Trained) -> dict[str, object]:
    return {name: to_plain(stage.data.sources) for name, stage in stages_of(experiment).items()}


def _templates_of(experiment: Trained) -> str | None:
    return contrastive_of(experiment).data.captions.templates_file


def _without_evaluation(experiment: Trained) -> Trained:
    """Evaluation sets may differ: finished models are evaluated again."""
    stage = replace(contrastive_of(experiment), evaluation=EvaluationConfig())
    return replace(experiment, contrastive=stage) if isinstance(experiment, PretrainExperiment) else stage


def _changes(before: DataRecord, found: DataRecord) -> Iterator[str]:
    for stage, sources in found.sources.items():
        for change in all_source_changes(before.sources.get(stage, {}), sources):
            yield f"{stage}: {change}"
    if before.templates != found.templates:
        yield "the caption templates changed"
