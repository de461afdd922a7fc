"""The contents of a study's report: results, curves over training, costs, examples, and missing runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from kelip_lightning.ablations.claims import ClaimResult, decide_claims
from kelip_lightning.ablations.execution import Failure
from kelip_lightning.ablations.pool import RunState, find_folder, revisions_of, seconds_of, state_of, steps_share_of
from kelip_lightning.ablations.results import Example, Result, compute_results, find_examples
from kelip_lightning.ablations.study import PlannedRun, Study, contrastive_of
from kelip_lightning.config.fingerprint import evaluation_fingerprint
from kelip_lightning.distributed.accelerators import AUTO, choose_device
from kelip_lightning.errors import RunFolderError
from kelip_lightning.inference.evaluate import items_of_run
from kelip_lightning.planning.stage_plan import Plan
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.runs.items import StoredItems, evaluation_of, read_items, write_items
from kelip_lightning.runs.metrics_file import read_losses, read_metrics


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """A judged metric of a run at one evaluation."""

    metric: str
    variant: str
    seed: int
    step: int
    """Optimizer steps of contrastive training; 0: untrained."""
    tokens: int
    """Image tokens so far, MAE pre-training included."""
    value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LossPoint:
    """Training loss of a run at one logged step."""

    stage: str
    """`mae` or `contrastive`."""
    variant: str
    seed: int
    step: int
    loss: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Cost of one run of a variant."""

    variant: str
    steps: int
    """Optimizer steps of all stages."""
    images: int
    """Crops that the image encoder processes."""
    tokens: int
    """Tokens that the image encoder processes."""
    parameters: int
    """Of the evaluated model, with the maximum vocabulary size."""
    seconds: float | None
    """Mean wall-clock seconds of the runs; `None` if no study started them."""
    steps_share: float | None
    """Mean share of these seconds in training steps, waiting for batches included; `None`: no run recorded it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """One run of the study."""

    variant: str
    seed: int
    folder: str
    state: str
    seconds: float | None
    steps_share: float | None
    """Of the seconds, those in training steps, waiting for batches included."""
    revision: str
    """Code revision, with `+changes` if the working tree differed from it; several if another one resumed the run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyReport:
    """The contents of a report."""

    results: list[Result]
    claims: list[ClaimResult]
    curves: list[CurvePoint]
    losses: list[LossPoint]
    costs: list[Cost]
    runs: list[RunRecord]
    references: dict[str, dict[str, float | None]]
    """Judged metric -> `chance`, the expectation for random embeddings, and `untrained`, the mean over seeds of the
    reference variant before the first step."""
    equal_compute: dict[tuple[str, str], dict[str, float]]
    """(Judged metric, variant) -> `equal_compute_tokens`, the image tokens of the cheapest variant, and
    `equal_compute`, the mean over seeds of the metric there, interpolated linearly between evaluations."""
    examples: list[Example]
    notes: list[str]
    """Warnings: missing runs, different revisions."""


def collect(study: Study, failures: Sequence[Failure] = (), device: str = AUTO) -> StudyReport:
    """Read every finished run of the study.

    Args:
        study: Of the runs.
        failures: Runs that failed.
        device: For models that are evaluated again, as in `--device`; auto: the CPU for `trainer.accelerator=cpu`,
            else a GPU if there is one.

    Raises:
        RunFolderError: No run of the reference has finished, or runs cannot be compared.
    """
    finished = {
        (run.variant, run.seed): folder
        for run in study.runs
        if state_of(folder := find_folder(study.pool, run)) is RunState.finished
    }
    if not any(variant == study.config.reference for variant, _ in finished):
        raise RunFolderError(
            f"no run of the reference '{study.config.reference}' has finished in {study.pool}, so there is nothing to "
            "compare with; train it first"
        )
    items: dict[str, dict[int, Mapping[str, StoredItems]]] = {}
    curves: list[CurvePoint] = []
    losses: list[LossPoint] = []
    for run in study.runs:  # reference first
        if (own := finished.get((run.variant, run.seed))) is not None:
            items.setdefault(run.variant, {})[run.seed] = _items(own, run, device)
            curves += _curve(run, own, study.scale.metrics)
            losses += [
                LossPoint(stage=stage, variant=run.variant, seed=run.seed, step=step, loss=loss)
                for stage, points in read_losses(own.metrics).items()
                for step, loss in points
            ]
    records = [_record(study, run) for run in study.runs]
    return StudyReport(
        results=compute_results(items, study.scale.metrics, study.config.categories),
        claims=decide_claims(items, study.scale.claims, study.variants[1:], study.config.categories),
        curves=curves,
        losses=losses,
        costs=[_cost(study, variant, records) for variant in study.variants],
        runs=records,
        references=_references(study, finished, curves),
        equal_compute=_equal_compute(curves, study.scale.metrics),
        examples=find_examples(items, study.scale.metrics),
        notes=_notes(records, failures),
    )


def _items(folder: RunFolder, run: PlannedRun, device: str) -> dict[str, StoredItems]:
    """The items of the study's evaluation; the model is evaluated again if the run used other sets."""
    evaluation = contrastive_of(run.experiment).evaluation
    fingerprint = evaluation_fingerprint(evaluation)
    if evaluation_of(folder.items) == fingerprint:
        return read_items(folder.items)
    file = folder.path / f"items-{fingerprint}.parquet"
    if evaluation_of(file) != fingerprint:
        on_cpu = device == AUTO and contrastive_of(run.experiment).trainer.accelerator == "cpu"
        write_items(file, items_of_run(folder, evaluation, choose_device("cpu" if on_cpu else device)), fingerprint)
    return read_items(file)


def _curve(run: PlannedRun, folder: RunFolder, metrics: Sequence[str]) -> list[CurvePoint]:
    offset, each = _tokens_of(run.plan)
    points = []
    for entry in read_metrics(folder.metrics):
        points += [
            CurvePoint(
                metric=metric,
                variant=run.variant,
                seed=run.seed,
                step=int(entry["step"]),
                tokens=round(offset + each * entry["step"]),
                value=float(entry[metric]),
            )
            for metric in metrics
            if entry.get(metric) is not None
        ]
    return points


def _tokens_of(plan: Plan) -> tuple[int, float]:
    """Image tokens before contrastive training, and per step of it."""
    stages = dict(plan.stages)
    last = stages.pop("contrastive")
    return sum(stage.tokens_forwarded for stage in stages.values()), last.tokens_forwarded / last.max_steps


def _cost(study: Study, variant: str, records: Sequence[RunRecord]) -> Cost:
    plan = next(run.plan for run in study.runs if run.variant == variant)
    own = [one for one in records if one.variant == variant]
    seconds = [one.seconds for one in own if one.seconds is not None]
    shares = [one.steps_share for one in own if one.steps_share is not None]
    return Cost(
        variant=variant,
        steps=sum(stage.max_steps for stage in plan.stages.values()),
        images=sum(stage.images_forwarded for stage in plan.stages.values()),
        tokens=sum(stage.tokens_forwarded for stage in plan.stages.values()),
        parameters=plan.stages["contrastive"].num_parameters,
        seconds=float(np.mean(seconds)) if seconds else None,
        steps_share=float(np.mean(shares)) if shares else None,
    )


def _record(study: Study, run: PlannedRun) -> RunRecord:
    folder = find_folder(study.pool, run)
    return RunRecord(
        variant=run.variant,
        seed=run.seed,
        folder=folder.name,
        state=state_of(folder).value,
        seconds=seconds_of(folder),
        steps_share=steps_share_of(folder),
        revision=" then ".join(map(str, revisions_of(folder))),
    )


def _references(
    study: Study, finished: Mapping[tuple[str, int], RunFolder], curves: Sequence[CurvePoint]
) -> dict[str, dict[str, float | None]]:
    reference = study.config.reference
    folder = next(folder for (variant, _), folder in finished.items() if variant == reference)
    chance = json.loads(folder.report.read_text(encoding="utf-8"))["chance"]
    found: dict[str, dict[str, float | None]] = {}
    for metric in study.scale.metrics:
        values = [one.value for one in curves if one.metric == metric and one.variant == reference and not one.step]
        found[metric] = {"chance": chance.get(metric), "untrained": float(np.mean(values)) if values else None}
    return found


def _equal_compute(curves: Sequence[CurvePoint], metrics: Sequence[str]) -> dict[tuple[str, str], dict[str, float]]:
    found = {}
    for metric in metrics:
        lines: dict[str, dict[int, list[CurvePoint]]] = {}
        for point in curves:
            if point.metric == metric:
                lines.setdefault(point.variant, {}).setdefault(point.seed, []).append(point)
        ends = [max(point.tokens for point in line) for by_seed in lines.values() for line in by_seed.values()]
        if not ends:
            continue
        for variant, by_seed in lines.items():
            at = [np.interp(min(ends), [p.tokens for p in one], [p.value for p in one]) for one in by_seed.values()]
            found[metric, variant] = {"equal_compute": float(np.mean(at)), "equal_compute_tokens": min(ends)}
    return found


def _notes(records: Sequence[RunRecord], failures: Sequence[Failure]) -> list[str]:
    notes = [f"{one.run.variant}, seed {one.run.seed}, failed: {one.reason}" for one in failures]
    missing = [one for one in records if one.state != RunState.finished.value]
    if missing:
        listed = ", ".join(f"{one.variant} {one.seed} ({one.state})" for one in missing)
        notes.append(f"{len(missing)} of {len(records)} runs have not finished and are left out: {listed}")
    revisions = sorted({one.revision for one in records if one.state == RunState.finished.value})
    if len(revisions) > 1:
        notes.append(f"the runs come from {len(revisions)} revisions of the code: {', '.join(revisions)}")
    return notes
