"""From an experiment to a trained model: the only place that builds a Trainer."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger, TensorBoardLogger

from data_modules.benchmarks.evaluation_sets import EvaluationSets
from data_modules.config_roles import Role
from data_modules.image_text import ImageTextDataModule
from kelip_lightning.callbacks.caption_panel import CaptionPanelCallback
from kelip_lightning.callbacks.checkpointing import CheckpointCallback, Metrics
from kelip_lightning.callbacks.data_health import DataHealthCallback
from kelip_lightning.callbacks.encoder_export import ExportCallback
from kelip_lightning.callbacks.evaluation import EvaluationCallback
from kelip_lightning.callbacks.hyperparameters import HyperparametersCallback, flatten_settings
from kelip_lightning.callbacks.interruption import SignalWatch
from kelip_lightning.callbacks.loop_position import LoopPositionCallback
from kelip_lightning.callbacks.non_finite import NonFiniteGuard
from kelip_lightning.callbacks.progress import PairProgressBar
from kelip_lightning.callbacks.random_state import RandomStateCallback
from kelip_lightning.callbacks.reconstructions import ReconstructionCallback
from kelip_lightning.callbacks.same_start import SameStartCallback
from kelip_lightning.callbacks.throughput import ThroughputCallback
from kelip_lightning.callbacks.weight_average import WeightAverageCallback
from kelip_lightning.config.experiment import (
    ContrastiveExperiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.config.fingerprint import evaluation_fingerprint
from kelip_lightning.config.roles import settings_without
from kelip_lightning.distributed.accelerators import build_strategy, choose_precision
from kelip_lightning.distributed.consensus import StepVote
from kelip_lightning.errors import ConfigError
from kelip_lightning.evaluation.suite import chance_levels
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.masked_autoencoder import build_masked_autoencoder
from kelip_lightning.models.model_folder import (
    build_dual_encoder,
    check_image_encoder,
    load_image_encoder,
    save_dual_encoder,
    save_image_encoder,
)
from kelip_lightning.models.self_supervision import build_branch
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.modules.masked_pretrain import MaskedPretrainModule
from kelip_lightning.planning.stage_plan import OpenedSources
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.runs.items import ITEMS, write_items
from kelip_lightning.runs.metrics_file import MetricsFileLogger
from kelip_lightning.runs.model_card import model_card
from kelip_lightning.runs.shared_files import write_whole
from kelip_lightning.runs.stage_folder import StageFolder
from kelip_lightning.training.fit import fit_stage, leave_signals_to_us, stage_clock
from kelip_lightning.training.inputs import ContrastiveInputs, build_image_data, read_contrastive_inputs, shown_images
from kelip_lightning.training.resume import open_stage

_log = logging.getLogger(__name__)

Experiment = MaskedPretrainExperiment | ContrastiveExperiment
NUM_SHOWN = 8
"""Images in a TensorBoard picture."""


def run_pretrain(experiment: PretrainExperiment, run: RunFolder, opened: OpenedSources) -> dict[str, float]:
    """MAE pre-training (unless switched off), hand-over, contrastive training; returns the final metrics.

    A run that is resumed goes on in the stage in which it was cut off. The sources come from `open_stages`.
    """
    contrastive = experiment.contrastive
    # Before MAE pre-training: what is wrong with the second stage's data must not cost the first stage.
    inputs = read_contrastive_inputs(contrastive, run, opened["contrastive"])
    if experiment.mae is not None:
        if not (run.resumed and run.has_finished("mae")):
            run_masked_pretrain(experiment.mae, run, opened)
        init = replace(contrastive.init, image_encoder=str(run.image_encoder))
        contrastive = replace(contrastive, init=init)
    return run_contrastive(contrastive, run, opened, inputs)


def run_masked_pretrain(
    experiment: MaskedPretrainExperiment, run: RunFolder, opened: OpenedSources
) -> dict[str, float]:
    """Stage 1; writes the hand-over folder `mae/image_encoder` and returns the last training metrics."""
    stage = open_stage(run, "mae", experiment.trainer)
    data = build_image_data(experiment, opened["mae"])
    pl.seed_everything(experiment.seed, verbose=False)
    encoder = ImageEncoder(replace(experiment.image_encoder, patch_drop_rate=0.0))
    model = build_masked_autoencoder(encoder, experiment.masked_autoencoder)
    module = MaskedPretrainModule(model, experiment.optimizer, experiment.schedule, experiment.trainer.accumulate)
    module.prepare(recompute_blocks=experiment.trainer.gradient_checkpointing, compiled=experiment.trainer.compile)
    images, noise = shown_images(data, NUM_SHOWN)
    signals = SignalWatch()
    trainer = build_trainer(
        experiment,
        stage,
        signals,
        stage_clock(stage),
        PairProgressBar("MAE pre-training"),
        ReconstructionCallback(images, noise, max(1, experiment.schedule.max_steps // 5)),
        DataHealthCallback(stage.bad_samples, experiment.data.corrupt_samples, data.sources),
        HyperparametersCallback(flatten_settings(settings_without(Role.reporting, experiment)), ["train/loss"]),
        ExportCallback(
            lambda: save_image_encoder(run.image_encoder, encoder, model_card(run, "mae", facts_of(experiment)))
        ),
    )
    fit_stage(trainer, module, data, stage, signals)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def run_contrastive(
    experiment: ContrastiveExperiment, run: RunFolder, opened: OpenedSources, inputs: ContrastiveInputs | None = None
) -> dict[str, float]:
    """Stage 2; writes `contrastive/dual_encoder` and report.json, and returns the final evaluation.

    Args:
        experiment: The stage.
        run: Where it writes.
        opened: Its sources, from `open_stages`.
        inputs: What `read_contrastive_inputs` gave, if it has been called already.
    """
    stage = open_stage(run, "contrastive", experiment.trainer)
    init = experiment.init.image_encoder
    if init is not None:
        check_image_encoder(Path(init), experiment.image_encoder)
    inputs = inputs or read_contrastive_inputs(experiment, run, opened["contrastive"])
    data, sets = inputs.data, inputs.sets
    module = build_contrastive_module(experiment, data)
    evaluation = EvaluationCallback(sets, experiment.evaluation.every_n_steps)
    chance = chance_levels(sets)
    refuse_unknown_metric(experiment, chance)
    signals, clock = SignalWatch(), stage_clock(stage)
    trainer = build_trainer(
        experiment,
        stage,
        signals,
        clock,
        PairProgressBar("contrastive"),
        evaluation,
        *_panels(sets, evaluation),
        DataHealthCallback(stage.bad_samples, experiment.data.corrupt_samples, data.sources),
        HyperparametersCallback(flatten_settings(settings_without(Role.reporting, experiment)), sorted(chance)),
        ExportCallback(
            lambda: save_dual_encoder(
                run.dual_encoder,
                module.model,
                data.tokenizer,
                model_card(run, "contrastive", facts_of(experiment)),
            )
        ),
        ExportCallback(
            # Before the report, which says that the run has finished.
            lambda: write_items(
                run.path / ITEMS, evaluation.items(module), evaluation_fingerprint(experiment.evaluation)
            )
        ),
        ExportCallback(lambda: _write_report(run, evaluation, chance, clock())),
        metrics=evaluation.newest,
        evaluated=evaluation.acts_after,
    )
    fit_stage(trainer, module, data, stage, signals)
    newest = evaluation.newest()
    return newest[1] if newest else {}


def facts_of(experiment: Experiment) -> dict[str, object]:
    """What a model card says of a stage's training."""
    batch, steps = experiment.data.global_batch_size, experiment.schedule.max_steps
    files = sorted({file for source in experiment.data.sources.values() for file in source.files})
    return {
        "Data": ", ".join(files),
        "Training": f"{steps} optimizer steps of {batch}, {steps * batch:,} samples, seed {experiment.seed}",
        "Image encoder": f"{experiment.image_encoder}",
    }


def build_contrastive_module(experiment: ContrastiveExperiment, data: ImageTextDataModule) -> ContrastiveModule:
    """The module of stage 2; weights depend on the seed alone, and the encoder to start from if one is named."""
    pl.seed_everything(experiment.seed, verbose=False)
    model = build_dual_encoder(
        experiment.image_encoder, experiment.text_encoder, experiment.dual_encoder, data.tokenizer
    )
    if experiment.init.image_encoder is not None:
        loaded = load_image_encoder(model.image_encoder, Path(experiment.init.image_encoder))
        _log.info("image encoder from %s: %d tensors loaded", experiment.init.image_encoder, loaded)
    model.image_encoder.requires_grad_(not experiment.init.lock_image_encoder)
    model.text_encoder.requires_grad_(not experiment.init.lock_text_encoder)
    module = ContrastiveModule(
        model,
        data.tokenizer,
        experiment.loss,
        experiment.optimizer,
        experiment.schedule,
        experiment.trainer.accumulate,
        # Last, as its fresh weights must not move the model's, and BYOL's target starts from the encoder as it is now.
        build_branch(model.image_encoder, experiment.self_supervision),
    )
    module.prepare(recompute_blocks=experiment.trainer.gradient_checkpointing, compiled=experiment.trainer.compile)
    return module


def refuse_unknown_metric(experiment: ContrastiveExperiment, chance: Mapping[str, float]) -> None:
    """The metric by which the best checkpoint is chosen must be one of the evaluation's.

    Raises:
        ConfigError: It is not.
    """
    metric = experiment.checkpoint.best_metric
    if metric is not None and metric not in chance:
        known = ", ".join(sorted(chance)) or "none, because no evaluation set is configured"
        raise ConfigError([f"checkpoint.best_metric = {metric!r} is no metric of this evaluation; those are {known}"])


def build_trainer(
    experiment: Experiment,
    stage: StageFolder,
    signals: SignalWatch,
    clock: Callable[[], float],
    *callbacks: pl.Callback,
    metrics: Metrics = lambda: None,
    evaluated: Callable[[int], bool] = lambda _: False,
) -> pl.Trainer:
    """The Trainer of a stage with its loggers, checkpoints and guards; `callbacks` keep their order."""
    config = experiment.trainer
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    vote = StepVote()
    checkpoint = CheckpointCallback(
        experiment.checkpoint,
        stage.checkpoints,
        stage.name,
        signals=signals,
        metrics_file=stage.metrics_file,
        clock=clock,
        metrics=metrics,
        evaluated=evaluated,
        vote=vote,
    )
    trainer = pl.Trainer(
        max_steps=experiment.schedule.max_steps,
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
        log_every_n_steps=config.log_every_n_steps,
        deterministic=config.deterministic,
        use_distributed_sampler=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        logger=build_loggers(stage),
        plugins=[checkpoint.io],
        callbacks=[
            SameStartCallback(stage),
            LoopPositionCallback(),
            RandomStateCallback(experiment.seed),
            NonFiniteGuard(experiment.non_finite, stage.non_finite, vote),
            *([] if config.ema_decay is None else [WeightAverageCallback(config.ema_decay)]),
            *callbacks,
            ThroughputCallback(),
            checkpoint,
        ],
    )
    leave_signals_to_us(trainer)
    return trainer


def build_loggers(stage: StageFolder) -> list[Logger]:
    """TensorBoard and metrics.jsonl; TensorBoard forgets what a resumed stage is going to log again.

    The last numbers before a checkpoint of k steps stand at step k (evaluation) and k - 1 (training).
    """
    purge = (stage.checkpoint.step + 1 if stage.checkpoint else 0) if stage.resumed else None
    return [
        TensorBoardLogger(stage.path, name="", version="", purge_step=purge),
        MetricsFileLogger(stage.metrics_file, stage=stage.name),
    ]


def _panels(sets: EvaluationSets, evaluation: EvaluationCallback) -> Sequence[pl.Callback]:
    return [CaptionPanelCallback(one, evaluation.every_n_steps, NUM_SHOWN, evaluation) for one in sets.retrieval[:1]]


def _write_report(run: RunFolder, evaluation: EvaluationCallback, chance: Mapping[str, float], seconds: float) -> None:
    """The final metrics, whole or not at all: where they stand, the run has finished."""
    step, metrics = evaluation.history[-1]
    report = {"step": step, "seconds": round(seconds, 1), "metrics": metrics, "chance": dict(chance)}
    write_whole(run.report, json.dumps(report, indent=2))
