"""From an experiment to a trained model: the only place that builds a Trainer."""

import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from data_modules.evaluation_sets import EvaluationSets, build_evaluation_sets
from data_modules.image import ImageDataModule
from data_modules.image_text import ImageTextDataModule
from data_modules.sampling import Draw
from data_modules.stage_data import StageDataModule
from kelip_lightning.callbacks.caption_panel import CaptionPanelCallback
from kelip_lightning.callbacks.encoder_export import ExportCallback
from kelip_lightning.callbacks.evaluation import EvaluationCallback
from kelip_lightning.callbacks.hyperparameters import HyperparametersCallback, flatten_settings
from kelip_lightning.callbacks.interruption import InterruptionCallback, StageInterrupted
from kelip_lightning.callbacks.progress import PairProgressBar
from kelip_lightning.callbacks.reconstructions import ReconstructionCallback
from kelip_lightning.callbacks.run_record import MetricsFileLogger
from kelip_lightning.callbacks.throughput import ThroughputCallback
from kelip_lightning.callbacks.weight_average import WeightAverageCallback
from kelip_lightning.config.experiment import (
    ContrastiveExperiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.evaluation.suite import chance_levels
from kelip_lightning.model_card import model_card
from kelip_lightning.models.dual_encoder_file import build_dual_encoder, save_dual_encoder
from kelip_lightning.models.encoder_file import check_image_encoder, load_image_encoder, save_image_encoder
from kelip_lightning.models.image_encoder import ImageEncoder
from kelip_lightning.models.official_autoencoder import build_masked_autoencoder
from kelip_lightning.models.weights_folder import config_to_dict
from kelip_lightning.modules.contrastive import ContrastiveModule
from kelip_lightning.modules.masked_pretrain import MaskedPretrainModule
from kelip_lightning.modules.stage import StageModule
from kelip_lightning.precision import choose_precision
from kelip_lightning.run_folder import RunFolder, StageFolder
from kelip_lightning.strategies import build_strategy

_log = logging.getLogger(__name__)

Experiment = MaskedPretrainExperiment | ContrastiveExperiment
NUM_SHOWN = 8
"""Images in a TensorBoard picture."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContrastiveInputs:
    """Everything that stage 2 reads, opened and checked."""

    data: ImageTextDataModule
    """Its tokenizer is trained or read."""
    sets: EvaluationSets


def run_pretrain(experiment: PretrainExperiment, run: RunFolder) -> dict[str, float]:
    """MAE warm-up (unless switched off), hand-over, contrastive training; returns the final figures."""
    contrastive = experiment.contrastive
    # Before the warm-up: what is wrong with the second stage's data must not cost the first stage.
    inputs = read_contrastive_inputs(contrastive)
    if experiment.mae is not None:
        run_masked_pretrain(experiment.mae, run)
        init = replace(contrastive.init, image_encoder=str(run.image_encoder))
        contrastive = replace(contrastive, init=init)
    return run_contrastive(contrastive, run, inputs)


def run_masked_pretrain(experiment: MaskedPretrainExperiment, run: RunFolder) -> dict[str, float]:
    """Stage 1; writes the hand-over folder `mae/image_encoder` and returns the last training figures."""
    stage = run.stage("mae")
    data = build_image_data(experiment)
    pl.seed_everything(experiment.seed, verbose=False)
    encoder = ImageEncoder(replace(experiment.image_encoder, patch_drop_rate=0.0))
    model = build_masked_autoencoder(encoder, experiment.masked_autoencoder)
    module = MaskedPretrainModule(model, experiment.optimizer, experiment.schedule, experiment.trainer.accumulate)
    module.prepare(recompute_blocks=experiment.trainer.gradient_checkpointing, compiled=experiment.trainer.compile)
    images, noise = _shown_images(data)
    trainer = build_trainer(
        experiment,
        stage,
        PairProgressBar("MAE warm-up"),
        ReconstructionCallback(images, noise, max(1, experiment.schedule.max_steps // 5)),
        HyperparametersCallback(flatten_settings(settings_of(experiment)), ["train/loss"]),
        ExportCallback(
            lambda: save_image_encoder(run.image_encoder, encoder, model_card(run, "mae", facts_of(experiment)))
        ),
    )
    _fit(trainer, module, data)
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


def run_contrastive(
    experiment: ContrastiveExperiment, run: RunFolder, inputs: ContrastiveInputs | None = None
) -> dict[str, float]:
    """Stage 2; writes `contrastive/dual_encoder` and report.json, and returns the final evaluation.

    Args:
        experiment: The stage.
        run: Where it writes.
        inputs: What `read_contrastive_inputs` gave, if it has been called already.
    """
    stage = run.stage("contrastive")
    init = experiment.init.image_encoder
    if init is not None:
        check_image_encoder(Path(init), experiment.image_encoder)
    inputs = inputs or read_contrastive_inputs(experiment)
    data, sets = inputs.data, inputs.sets
    module = build_contrastive_module(experiment, data)
    if init is not None:
        report = load_image_encoder(module.model.image_encoder, Path(init))
        _log.info("image encoder from %s: %s", init, report)
    evaluation = EvaluationCallback(sets, experiment.evaluation.every_n_steps)
    chance = chance_levels(sets)
    trainer = build_trainer(
        experiment,
        stage,
        PairProgressBar("contrastive"),
        evaluation,
        *_panels(sets, evaluation),
        HyperparametersCallback(flatten_settings(settings_of(experiment)), sorted(chance)),
        ExportCallback(
            lambda: save_dual_encoder(
                run.dual_encoder,
                module.model,
                data.tokenizer,
                model_card(run, "contrastive", facts_of(experiment)),
            )
        ),
    )
    started = time.monotonic()
    _fit(trainer, module, data)
    _write_report(run, evaluation, chance, time.monotonic() - started)
    return evaluation.history[-1][1]


def facts_of(experiment: Experiment) -> dict[str, object]:
    """What a model card says of a stage's training."""
    batch, steps = experiment.data.global_batch_size, experiment.schedule.max_steps
    files = sorted({file for source in experiment.data.sources.values() for file in source.files})
    return {
        "Data": ", ".join(files),
        "Training": f"{steps} optimizer steps of {batch}, {steps * batch:,} samples, seed {experiment.seed}",
        "Image encoder": f"{experiment.image_encoder}",
    }


def settings_of(experiment: Experiment) -> dict[str, object]:
    """The experiment as nested plain values, less where files lie."""
    plain = config_to_dict(experiment)
    return {key: value for key, value in plain.items() if key not in ("name", "output_dir", "evaluation")}


def build_image_data(experiment: MaskedPretrainExperiment) -> ImageDataModule:
    """The data module of stage 1."""
    return ImageDataModule(
        experiment.data,
        experiment.transform,
        num_patches=(experiment.transform.image_size // experiment.image_encoder.patch_size) ** 2,
        seed=experiment.seed,
        max_steps=experiment.schedule.max_steps,
    )


def read_contrastive_inputs(experiment: ContrastiveExperiment) -> ContrastiveInputs:
    """Open the pair set, train or read the tokenizer, decode the evaluation sets.

    Raises:
        DataError: A file is missing, damaged, or not as configured.
    """
    data = ImageTextDataModule(
        experiment.data,
        experiment.transform,
        experiment.tokenizer,
        seed=experiment.seed,
        max_steps=experiment.schedule.max_steps,
    )
    sets = build_evaluation_sets(experiment.evaluation, experiment.image_encoder.image_size)
    return ContrastiveInputs(data=data, sets=sets)


def build_contrastive_module(experiment: ContrastiveExperiment, data: ImageTextDataModule) -> ContrastiveModule:
    """The module of stage 2 with weights that depend on the seed alone."""
    pl.seed_everything(experiment.seed, verbose=False)
    model = build_dual_encoder(
        experiment.image_encoder, experiment.text_encoder, experiment.dual_encoder, data.tokenizer
    )
    model.image_encoder.requires_grad_(not experiment.init.lock_image_encoder)
    model.text_encoder.requires_grad_(not experiment.init.lock_text_encoder)
    accumulate = experiment.trainer.accumulate
    module = ContrastiveModule(
        model, data.tokenizer, experiment.loss, experiment.optimizer, experiment.schedule, accumulate
    )
    module.prepare(recompute_blocks=experiment.trainer.gradient_checkpointing, compiled=experiment.trainer.compile)
    return module


def build_trainer(experiment: Experiment, stage: StageFolder, *callbacks: pl.Callback) -> pl.Trainer:
    """The Trainer of a stage with its loggers, checkpoints and interruption; `callbacks` keep their order."""
    config = experiment.trainer
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    loggers = [
        TensorBoardLogger(stage.path, name="", version=""),
        MetricsFileLogger(stage.metrics_file, stage=stage.name),
    ]
    checkpoint = ModelCheckpoint(
        stage.checkpoints,
        filename="step={step:07d}",
        auto_insert_metric_name=False,
        monitor="step",
        mode="max",
        save_top_k=config.keep_checkpoints,
        every_n_train_steps=config.checkpoint_every_n_steps,
    )
    return pl.Trainer(
        max_steps=experiment.schedule.max_steps,
        precision=choose_precision(config.precision, config.accelerator),
        accelerator=config.accelerator,
        devices=config.devices,
        num_nodes=config.num_nodes,
        strategy=build_strategy(config.strategy, config.accelerator),
        gradient_clip_val=experiment.optimizer.gradient_clip_norm,
        log_every_n_steps=config.log_every_n_steps,
        deterministic=config.deterministic,
        use_distributed_sampler=False,
        enable_model_summary=False,
        logger=loggers,
        callbacks=[
            *([] if config.ema_decay is None else [WeightAverageCallback(config.ema_decay)]),
            *callbacks,
            ThroughputCallback(),
            checkpoint,
            InterruptionCallback(stage.checkpoints / "interrupted.ckpt"),
        ],
    )


def _fit(trainer: pl.Trainer, module: StageModule, data: StageDataModule) -> None:
    """Train to the end.

    Raises:
        StageInterrupted: A signal stopped the stage; its checkpoint is written.
    """
    with _tuned_kernels(trainer.strategy.root_device):
        trainer.fit(module, datamodule=data)
    _raise_if_interrupted(trainer)


@contextmanager
def _tuned_kernels(device: torch.device) -> Iterator[None]:
    """For the length of a fit, two defaults of torch changed that only cost time in these models."""
    deterministic: Any = torch.utils.deterministic  # a module with properties, which type checkers do not see
    flash, fill = torch.backends.cuda.flash_sdp_enabled(), deterministic.fill_uninitialized_memory
    # torch's fused attention is slower than the plain one on CPUs at 5 to 80 tokens: 1.4 times the step, measured.
    torch.backends.cuda.enable_flash_sdp(flash and device.type != "cpu")
    # Deterministic mode fills every new tensor, which matters only to kernels that read what they never wrote: a tenth
    # of a step on a CPU, measured.
    deterministic.fill_uninitialized_memory = False
    try:
        yield
    finally:
        torch.backends.cuda.enable_flash_sdp(flash)
        deterministic.fill_uninitialized_memory = fill


def _raise_if_interrupted(trainer: Any) -> None:  # Trainer sets `callbacks` where type checkers do not see it
    for callback in trainer.callbacks:
        if isinstance(callback, InterruptionCallback) and callback.interrupted_at is not None:
            raise StageInterrupted(callback.checkpoint, callback.interrupted_at)


def _panels(sets: EvaluationSets, evaluation: EvaluationCallback) -> Sequence[pl.Callback]:
    return [CaptionPanelCallback(one, evaluation.every_n_steps, NUM_SHOWN, evaluation) for one in sets.retrieval[:1]]


def _shown_images(data: ImageDataModule) -> tuple[Tensor, Tensor]:
    """A few fixed crops with their noise: the first of the order's first batch."""
    ids = data.order.batch(0)[:NUM_SHOWN]
    draws = [Draw(0, int(sample_id)) for sample_id in ids]
    batch = data.collate([data.dataset[draw] for draw in draws])
    return batch.images, batch.noise


def _write_report(run: RunFolder, evaluation: EvaluationCallback, chance: Mapping[str, float], seconds: float) -> None:
    step, figures = evaluation.history[-1]
    report = {"step": step, "seconds": round(seconds, 1), "metrics": figures, "chance": dict(chance)}
    run.report.write_text(json.dumps(report, indent=2), encoding="utf-8")
