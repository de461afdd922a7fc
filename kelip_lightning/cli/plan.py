"""`kelip plan FILE`: parameters, FLOPs, memory, time and disk of an experiment."""

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from kelip_lightning.cli.verb import add_experiment_arguments, load_any_experiment, positive_count, verb
from kelip_lightning.planning.throughput import GPUS

if TYPE_CHECKING:
    from rich.table import Table

    from kelip_lightning.config.experiment import Experiment
    from kelip_lightning.planning.estimate import StageEstimate
    from kelip_lightning.planning.flops import StageFlops


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_experiment_arguments(parser)
    parser.add_argument("--gpu", choices=tuple(GPUS), default="a100", help="GPU (default: a100)")
    parser.add_argument(
        "--mfu",
        type=_share,
        default=0.4,
        metavar="SHARE",
        help="model FLOPs utilisation, above 0 and at most 1 (default: 0.4)",
    )
    parser.add_argument(
        "--tile",
        type=positive_count,
        default=1024,
        metavar="COLUMNS",
        help="max_logits_per_pair of the chunked loss (default: the experiment's, or 1024)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON, in bytes and FLOPs")


@verb(_add_arguments)
def plan(arguments: argparse.Namespace) -> int:
    """Estimate parameters, FLOPs, memory, time and disk of an experiment.

    Parameters and optimizer groups; FLOPs per image or pair; memory of one rank by strategy; throughput and hours at a
    given utilisation; sizes on disk. Each table is marked as exact or estimated. Nothing is trained; data files and
    devices need not exist.

      kelip plan experiments/kelip_b32/contrastive.yaml
      kelip plan experiments/kelip_b32/pretrain.yaml --gpu h100 --mfu 0.3 trainer.num_nodes=4 --json
    """
    experiment = load_any_experiment(arguments.file, arguments.overrides, on_this_machine=False).experiment
    from kelip_lightning.config.evaluation import EvaluationExperiment
    from kelip_lightning.errors import ConfigError
    from kelip_lightning.planning.estimate import estimate

    if isinstance(experiment, EvaluationExperiment):
        raise ConfigError([f"{arguments.file} has no training stage, so nothing to plan; give one with a schedule"])
    stages = estimate(
        experiment,
        gpu=arguments.gpu,
        utilisation=arguments.mfu,
        tile=arguments.tile,
        samples_per_epoch=samples_per_epoch(experiment),
    )
    if arguments.json:
        print(json.dumps({name: asdict(stage) for name, stage in stages.items()}, indent=2))
    else:
        _print_estimate(arguments.file, stages)
    return 0


def samples_per_epoch(experiment: "Experiment") -> dict[str, int]:
    """Stage -> samples of its sources; empty where the data is not on this machine."""
    from data_modules.errors import DataError
    from kelip_lightning.planning.stage_plan import count_samples, open_stages

    try:
        return count_samples(experiment, open_stages(experiment))
    except DataError:
        return {}


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be a number above 0 and at most 1")
    return value


def _print_estimate(file: str, stages: "Mapping[str, StageEstimate]") -> None:
    from rich.console import Console

    console = Console(highlight=False)
    for name, stage in stages.items():
        sample = "pair" if stage.contrastive_loss else "image"
        console.rule(f"{file}: {name}")
        for table in (
            _parameter_table(stage),
            _group_table(stage),
            _operation_table(stage.flops, sample),
            _memory_table(stage),
            _time_table(stage, sample),
            _disk_table(stage),
        ):
            console.print(table)
    if len(stages) > 1:
        hours = sum(one.throughput.device_hours for one in stages.values())
        console.print(f"all stages: {hours:,.0f} device-hours (estimate)")


def _parameter_table(stage: "StageEstimate") -> "Table":
    table = _table("parameters", "exact", "part", "number")
    for name, number in stage.plan.parameters.items():
        table.add_row(name.replace("_", " "), f"{number:,}")
    table.add_section()
    for name, number in stage.parameter_sums.items():
        table.add_row(name.replace("_", " "), f"{number:,}")
    return table


def _group_table(stage: "StageEstimate") -> "Table":
    columns = ("part", "role", "tensors", "parameters", "weight decay", "optimizer", "peak learning rate")
    table = _table("optimizer groups", "exact; --json lists the names", *columns)
    for one in stage.groups:
        rates = " to ".join(f"{rate:.3g}" for rate in dict.fromkeys(one.learning_rates))
        counts = f"{one.tensors:,}", f"{one.parameters:,}"
        decay = f"{one.weight_decay:g}"
        table.add_row(one.part.replace("_", " "), one.role, *counts, decay, one.optimizer, rates)
    return table


def _operation_table(flops: "StageFlops", sample: str) -> "Table":
    caption = (
        "forward: exact, 2 FLOPs per multiply-add of matrix products; training: 3 x forward by convention, "
        "4 x with checkpointing"
    )
    columns = ("pass", "runs", "tokens", "linear", "attention", "outer", "forward", "training")
    table = _table(f"FLOPs per {sample}, GFLOP", caption, *columns)
    for one in flops.passes:
        metrics = (one.linear, one.attention, one.outer, one.forward, one.training)
        table.add_row(one.name, str(one.times), str(one.tokens), *map(_giga, metrics))
    table.add_section()
    table.add_row("all", "", "", "", "", "", _giga(flops.forward), _giga(flops.training))
    table.add_row("all, gradient checkpointing", "", "", "", "", "", "", _giga(flops.training_recomputed))
    if flops.loss_training:
        table.add_row("one global crop + caption", "", "", "", "", "", "", _giga(flops.one_crop_training))
        table.add_row("contrastive loss, not included", "", "", "", "", "", "", _giga(flops.loss_training))
    return table


def _memory_table(stage: "StageEstimate") -> "Table":
    """Gigabytes on one rank for each strategy; `*` marks the configured one."""
    caption = "state exact; buffers, activations and totals are estimates without allocator and CUDA context (2-4 GB)"
    columns = [
        "strategy",
        "weights",
        "gradients",
        "optimizer",
        "buffers",
        "activations",
        "batch",
        "loss",
        "total",
        "fits",
    ]
    configured = "ddp" if stage.strategy == "auto" else stage.strategy  # as Lightning resolves auto
    plan = stage.plan
    chunks = "" if plan.chunk_size == plan.batch_size_per_device else f" in chunks of {plan.chunk_size}"
    title = f"memory of one rank at {plan.batch_size_per_device} per device{chunks}, {plan.precision}, GB"
    table = _table(title, caption, *columns)
    for one in stage.memory:
        state = (one.state.weights, one.state.gradients, one.state.optimizer, one.state.buffers)
        metrics = (*state, one.activations, one.batch, one.loss, one.total)
        name = f"{one.strategy} *" if one.strategy == configured else one.strategy
        table.add_row(name, *map(_gigabytes, metrics), _yes(one.fits))
        checkpointed = (one.activations_checkpointed, one.batch, one.loss, one.total_checkpointed)
        table.add_row("  checkpointed", *[""] * 4, *map(_gigabytes, checkpointed), _yes(one.fits_checkpointed))
    if stage.contrastive_loss:
        loss = stage.contrastive_loss
        table.add_section()
        table.add_row("loss: features of all ranks", *[""] * 6, _gigabytes(loss.features))
        table.add_row("loss: full matrices", *[""] * 6, _gigabytes(loss.full))
        table.add_row(f"loss: chunks of {stage.tile}", *[""] * 6, _gigabytes(loss.tiled))
    return table


def _time_table(stage: "StageEstimate", sample: str) -> "Table":
    time, plan = stage.throughput, stage.plan
    table = _table(f"time on {time.gpu} at {time.utilisation:.0%} of its peak", "estimates", "metric", "value")
    rows = {
        f"{sample}s per second and device": f"{time.samples_per_second_per_device:,.0f}",
        f"{sample}s per second": f"{time.samples_per_second:,.0f}",
        "images to decode per second and node": f"{time.images_per_second_per_node:,.0f}",
        "crops to make per second and node": f"{time.crops_per_second_per_node:,.0f}",
        "seconds per step": f"{time.seconds_per_step:.3f}",
        "share of the loss": f"{time.loss_share:.1%}",
        "steps": f"{plan.max_steps:,}",
        f"{sample}s seen": f"{plan.samples_seen:,}",
        "epochs": "–" if plan.epochs is None else f"{plan.epochs:,.2f}",
        "hours": f"{time.hours:,.1f}",
        "hours with gradient checkpointing": f"{time.hours_recomputed:,.1f}",
        "device-hours": f"{time.device_hours:,.0f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def _disk_table(stage: "StageEstimate") -> "Table":
    disk, evaluation = stage.disk, stage.evaluation
    table = _table("disk and evaluation", "exact, but for some kB of names", "metric", "value")
    table.add_row("checkpoint, one file", f"{_gigabytes(disk.checkpoint)} GB")
    table.add_row("checkpoint, DeepSpeed, all partitions", f"{_gigabytes(disk.zero_checkpoint)} GB")
    table.add_row("exported weights", f"{_gigabytes(disk.exported)} GB")
    table.add_row("run folder, at most", f"{_gigabytes(disk.whole_run)} GB")
    if evaluation is not None:
        table.add_row("evaluations", f"{evaluation.times:,}")
        table.add_row("FLOPs of each, per image", f"{_giga(evaluation.flops_per_image)} GFLOP")
        table.add_row("FLOPs of each, per caption or class prompt", f"{_giga(evaluation.flops_per_caption)} GFLOP")
    return table


def _table(title: str, caption: str, *columns: str) -> "Table":
    from rich.table import Table

    table = Table(title=title, title_justify="left", caption=caption, caption_justify="left")
    for index, name in enumerate(columns):
        table.add_column(name, justify="right" if index else "left")
    return table


def _giga(operations: int) -> str:
    return f"{operations / 1e9:,.2f}"


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:,.2f}"


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"
