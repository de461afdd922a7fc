"""Both stages from top to bottom: inputs -> module -> callbacks -> Trainer -> fit -> exported weights, report."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from data_modules.benchmarks.evaluation_sets import EvaluationSets
from data_modules.config_roles import Role
from data_modules.image_text import ImageTextDataModule
from data_modules.text.tokenizer import BilingualTokenizer
from kelip_lightning.callbacks.checkpointing import CheckpointCallback, ExportCallback
from kelip_lightning.callbacks.dashboard import DashboardCallback, HyperparametersCallback, decisive_metrics
from kelip_lightning.callbacks.data_health import DataHealthCallback
from kelip_lightning.callbacks.evaluation import EvaluationCallback, IntervalEvaluation, OnEvaluation
from kelip_lightning.callbacks.exact_resume import ExactResumeCallback
from kelip_lightning.callbacks.interruption import SignalWatch
from kelip_lightning.callbacks.monitoring import ThroughputCallback
from kelip_lightning.callbacks.non_finite import NonFiniteGuard
from kelip_lightning.callbacks.pictures import ReconstructionCallback, draw_confusions, draw_examples
from kelip_lightning.callbacks.probe import ProbeCallback
from kelip_lightning.callbacks.progress import ProgressLog, bar_on_terminal, has_progress_bar
from kelip_lightning.callbacks.projector import ProjectorWriter
from kelip_lightning.callbacks.threads import ThreadsCallback
from kelip_lightning.callbacks.weight_average import WeightAverageCallback
from kelip_lightning.config.experiment import ContrastiveExperiment, MaskedPretrainExperiment, PretrainExperiment
from kelip_lightning.config.fingerprint import changed_settings, evaluation_fingerprint, settings_without
from kelip_lightning.distributed.accelerators import build_strategy, choose_precision
from kelip_lightning.distributed.consensus import StepVote
from kelip_lightning.evaluation.suite import Projected
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.locking import lock_encoders
from kelip_lightning.models.masked_autoencoder import build_masked_autoencoder
from kelip_lightning.models.model_folder import (
    build_dual_encoder,
    load_image_encoder,
    save_dual_encoder,
    save_image_encoder,
)
from kelip_lightning.models.self_supervision import build_branch
from kelip_lightning.models.stored_config import check_image_encoder
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.modules.masked_pretrain import MaskedPretrainModule
from kelip_lightning.planning.stage_plan import Stage
from kelip_lightning.planning.utilization import step_cost
from kelip_lightning.runs.folder import RunFolder, StageFolder, write_whole
from kelip_lightning.runs.items import write_items
from kelip_lightning.runs.loggers import build_loggers
from kelip_lightning.runs.model_card import model_card
from kelip_lightning.runs.timing import phase
from kelip_lightning.training.fit import disable_lightning_signals, fit_stage, stage_clock
from kelip_lightning.training.initial_model import build_from_model
from kelip_lightning.training.inputs import OpenedData, build_image_data, build_image_text_data, shown_images
from kelip_lightning.training.resume import open_stage

_log = logging.getLogger(__name__)

NUM_SHOWN = 8
"""Images in a TensorBoard picture."""


def run_pretrain(experiment: PretrainExperiment, run: RunFolder, opened: OpenedData) -> dict[str, float]:
    """MAE pre-training (if configured), encoder export, contrastive training; returns the final metrics.

    A resumed run continues in the stage in which it was interrupted; an MAE stage that has been copied from another run
    (`training.reused_mae`) is finished. `opened` comes from `open_data`.
    """
    contrastive = experiment.contrastive
    # Before MAE pre-training, so that an error in the inputs of the second stage is raised before the first is trained.
    data = build_image_text_data(contrastive, opened.sources["contrastive"], run)
    if experiment.mae is not None:
        if not run.has_finished("mae"):
            run_masked_pretrain(experiment.mae, run, opened)
        init = replace(contrastive.init, image_encoder=str(run.image_encoder))
        contrastive = replace(contrastive, init=init)
    return run_contrastive(contrastive, run, opened, data)


@phase("mae")
def run_masked_pretrain(experiment: MaskedPretrainExperiment, run: RunFolder, opened: OpenedData) -> dict[str, float]:
    """MAE pre-training; exports the encoder to `mae/image_encoder`, returns the last metrics of training and probes."""
    stage = open_stage(run, "mae", experiment.trainer)
    data = build_image_data(experiment, opened.sources["mae"])
    module = build_masked_pretrain_module(experiment)
    vote = StepVote()
    probe = None
    if opened.probes:
        probe = ProbeCallback(
            opened.probes,
            experiment.probe,
            num_workers=experiment.data.num_workers,
            steps_per_epoch=data.order.epoch_length / experiment.data.global_batch_size,
            vote=vote,
        )

    def export() -> None:
        if probe is not None:
            # Before the weights: a run with an exported encoder has finished MAE pre-training.
            write_whole(stage.report, _report_text(clock, probe, opened.probe_chance))
        save_image_encoder(run.image_encoder, module.model.encoder, model_card(run, "mae", facts_of(experiment)))

    signals, clock = SignalWatch(), stage_clock(stage)
    trainer = build_trainer(
        experiment,
        stage,
        signals,
        clock,
        *bar_on_terminal("mae"),
        progress_log(experiment, "mae"),
        DashboardCallback(opened.chance, ["mae", "contrastive"] if opened.chance else ["mae"]),
        ReconstructionCallback(*shown_images(data, NUM_SHOWN), max(1, experiment.schedule.max_steps // 5)),
        *([] if probe is None else [probe]),
        DataHealthCallback(stage.bad_samples, experiment.data.corrupt_samples, data.sources),
        build_hyperparameters(experiment, ["mae/loss", *sorted(opened.probe_chance)]),
        ExportCallback(export),
        evaluation=probe,
        vote=vote,
        epoch_length=data.order.epoch_length,
    )
    fit_stage(trainer, module, data, stage, signals)
    newest = probe.newest() if probe is not None else None
    return {name: float(value) for name, value in trainer.callback_metrics.items()} | (newest[1] if newest else {})


@phase("contrastive")
def run_contrastive(
    experiment: ContrastiveExperiment, run: RunFolder, opened: OpenedData, data: ImageTextDataModule | None = None
) -> dict[str, float]:
    """Contrastive training; exports `contrastive/dual_encoder`, writes items and report, returns the final metrics.

    Args:
        experiment: The stage.
        run: Where it writes.
        opened: From `open_data`.
        data: From `build_image_text_data`; `None`: it is built here.
    """
    stage = open_stage(run, "contrastive", experiment.trainer)
    if experiment.init.image_encoder is not None:
        check_image_encoder(Path(experiment.init.image_encoder), experiment.image_encoder)
    data = data or build_image_text_data(experiment, opened.sources["contrastive"], run)
    module = build_contrastive_module(experiment, data.tokenizer, run, resumed=stage.checkpoint is not None)
    vote = StepVote()
    progress = progress_log(experiment, "contrastive")
    dashboard = DashboardCallback(opened.chance, run.stages())
    watchers = [progress.on_evaluation, dashboard.on_evaluation]
    evaluation = build_evaluation(experiment, opened.sets, data, vote, watchers)

    def export() -> None:
        card = model_card(run, "contrastive", facts_of(experiment))
        save_dual_encoder(run.dual_encoder, module.model, data.tokenizer, card)
        write_items(run.items, evaluation.items(), evaluation_fingerprint(experiment.evaluation))
        # Last and atomically: a run with a report has finished.
        write_whole(run.report, _report_text(clock, evaluation, opened.chance))

    signals, clock = SignalWatch(), stage_clock(stage)
    trainer = build_trainer(
        experiment,
        stage,
        signals,
        clock,
        *bar_on_terminal("contrastive"),
        progress,
        dashboard,
        evaluation,
        DataHealthCallback(stage.bad_samples, experiment.data.corrupt_samples, data.sources),
        build_hyperparameters(experiment, decisive_metrics(opened.chance)),
        ExportCallback(export),
        evaluation=evaluation,
        vote=vote,
        epoch_length=data.order.epoch_length,
    )
    fit_stage(trainer, module, data, stage, signals)
    newest = evaluation.newest()
    return newest[1] if newest else {}


@phase("model")
def build_masked_pretrain_module(experiment: MaskedPretrainExperiment) -> MaskedPretrainModule:
    """The module of MAE pre-training; its weights depend on the seed alone."""
    pl.seed_everything(experiment.seed, verbose=False)
    encoder = ImageEncoder(replace(experiment.image_encoder, patch_drop_rate=0.0))
    model = build_masked_autoencoder(encoder, experiment.masked_autoencoder)
    module = MaskedPretrainModule(model, experiment.optimizer, experiment.schedule, experiment.trainer.accumulate)
    module.prepare(recompute_blocks=experiment.trainer.gradient_checkpointing, compiled=experiment.trainer.compile)
    return module


@phase("model")
def build_contrastive_module(
    experiment: ContrastiveExperiment,
    tokenizer: BilingualTokenizer,
    run: RunFolder | None = None,
    *,
    resumed: bool = False,
) -> ContrastiveModule:
    """The module of contrastive training.

    Its weights depend on the seed, and on the encoder or the model that it is initialised from.

    Args:
        experiment: The stage.
        tokenizer: Its tokenizer.
        run: Keeps the report on `init.model`; `None`: it is not kept.
        resumed: Whether a checkpoint will replace the weights, so that the model of `init.model` is not needed.

    Raises:
        EncoderFileError: The encoder or the model to begin from is missing or damaged, or does not fit.
    """
    pl.seed_everything(experiment.seed, verbose=False)
    if experiment.init.model is not None:
        model = build_from_model(experiment, tokenizer, run, resumed=resumed)
    else:
        model = build_dual_encoder(
            experiment.image_encoder, experiment.text_encoder, experiment.dual_encoder, tokenizer
        )
    if experiment.init.image_encoder is not None:
        loaded = load_image_encoder(model.image_encoder, Path(experiment.init.image_encoder))
        _log.info("image encoder from %s: %d tensors loaded", experiment.init.image_encoder, loaded)
    lock_encoders(model, **experiment.init.locks)
    module = ContrastiveModule(
        model,
        tokenizer,
        experiment.loss,
        experiment.optimizer,
        experiment.schedule,
        experiment.trainer.accumulate,
        # Last: its random weights must not change the model's, and BYOL's target is a copy of the encoder as it is now.
        build_branch(model.image_encoder, experiment.self_supervision),
    )
    module.prepare(recompute_blocks=experiment.trainer.gradient_checkpointing, compiled=experiment.trainer.compile)
    return module


def build_trainer(
    experiment: Stage,
    stage: StageFolder,
    signals: SignalWatch,
    clock: Callable[[], float],
    *callbacks: pl.Callback,
    evaluation: IntervalEvaluation[Any] | None = None,
    vote: StepVote | None = None,
    epoch_length: int | None = None,
) -> pl.Trainer:
    """The Trainer of a stage with its loggers, checkpoints and guards; `callbacks` keep their order.

    `evaluation`, one of `callbacks`, gives the metric of the best checkpoint; `vote` is that of the callbacks, if they
    have questions; `epoch_length` is the number of samples of a pass over the data.

    Raises:
        ConfigError: A logger's service cannot be used.
    """
    config, max_steps = experiment.trainer, experiment.schedule.max_steps
    vote, batch_size = vote or StepVote(), experiment.data.global_batch_size
    throughput = ThroughputCallback(step_cost(experiment), global_batch_size=batch_size, epoch_length=epoch_length)
    checkpoint = CheckpointCallback(
        experiment.checkpoint, stage, signals=signals, clock=clock, evaluation=evaluation, vote=vote
    )
    trainer = pl.Trainer(
        max_steps=max_steps,
        precision=choose_precision(config.precision, config.accelerator),
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=build_strategy(
            config.strategy,
            config.accelerator,
            num_processes=config.num_processes,
            timeout=timedelta(minutes=config.timeout_minutes),
        ),
        gradient_clip_val=experiment.optimizer.gradient_clip_norm,
        log_every_n_steps=min(config.log_every_n_steps, max_steps),
        deterministic=config.deterministic,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        enable_progress_bar=has_progress_bar(callbacks),
        logger=build_loggers(config.loggers, stage),
        plugins=[checkpoint.io],
        callbacks=[
            *([] if config.num_threads is None else [ThreadsCallback(config.num_threads)]),
            throughput,
            ExactResumeCallback(stage, experiment.seed),
            NonFiniteGuard(experiment.non_finite, stage.non_finite, vote),
            *([] if config.ema_decay is None else [WeightAverageCallback(config.ema_decay)]),
            *callbacks,
            checkpoint,
            throughput.last,
        ],
    )
    disable_lightning_signals(trainer)
    return trainer


SHOWN_SETTINGS = ("seed", "data.global_batch_size", "schedule.max_steps", "optimizer.name", "optimizer.learning_rate")
"""Settings that TensorBoard's HParams page shows beside those that differ from their default."""


def build_hyperparameters(experiment: Stage, metrics: Sequence[str]) -> HyperparametersCallback:
    """The HParams page: these metrics, and the settings that tell runs apart; all settings for other loggers."""
    shown = changed_settings(experiment, SHOWN_SETTINGS)
    return HyperparametersCallback(shown, metrics, settings_without(Role.reporting, experiment))


def progress_log(experiment: Stage, stage: str) -> ProgressLog:
    """The progress lines of a stage."""
    return ProgressLog(
        stage,
        global_batch_size=experiment.data.global_batch_size,
        interval_seconds=60 * experiment.trainer.progress_every_minutes,
    )


def build_evaluation(
    experiment: ContrastiveExperiment,
    sets: EvaluationSets,
    data: ImageTextDataModule,
    vote: StepVote,
    watchers: Sequence[OnEvaluation],
) -> EvaluationCallback:
    """The evaluation of contrastive training, its panels and its projector; `watchers` are told of each first."""
    return EvaluationCallback(
        sets,
        experiment.evaluation,
        num_workers=experiment.data.num_workers,
        steps_per_epoch=data.order.epoch_length / experiment.data.global_batch_size,
        vote=vote,
        on_evaluation=[*watchers, draw_examples, draw_confusions, ProjectorWriter(experiment.data.num_workers)],
        num_examples=NUM_SHOWN,
        projected=projected_set(experiment),
    )


def projected_set(experiment: ContrastiveExperiment) -> Projected | None:
    """The retrieval set whose last embeddings are written for TensorBoard's projector; `None`: there is none."""
    name = experiment.projector.set or next(iter(experiment.evaluation.retrieval), None)
    if name is None or experiment.projector.max_images == 0:
        return None
    return Projected(set_name=name, max_images=experiment.projector.max_images)


def _report_text(clock: Callable[[], float], evaluation: IntervalEvaluation[Any], chance: Mapping[str, float]) -> str:
    """A stage's report: its seconds, its last evaluation, chance levels."""
    report = {"seconds": round(clock(), 1)} | evaluation.report() | {"chance": dict(chance)}
    return json.dumps(report, indent=2)


def facts_of(experiment: Stage) -> dict[str, object]:
    """The facts of a stage's training for the model card."""
    batch, steps = experiment.data.global_batch_size, experiment.schedule.max_steps
    files = sorted({file for source in experiment.data.sources.values() for file in source.files})
    facts: dict[str, object] = {
        "Data": ", ".join(files),
        "Training": f"{steps} optimizer steps of {batch}, {steps * batch:,} samples, seed {experiment.seed}",
        "Image encoder": f"{experiment.image_encoder}",
    }
    if isinstance(experiment, ContrastiveExperiment) and experiment.init.model is not None:
        facts["Initial model"] = f"{experiment.init.model}, SHA-256 {experiment.init.model_sha256}"
    return facts
