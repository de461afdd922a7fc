"""`kelip plan FILE`: parameters, FLOPs, memory, time and disk of an experiment."""

import argparse
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING

from kelip_lightning.cli.tables import number_table, table_console
from kelip_lightning.cli.verb import add_experiment_arguments, load_any_experiment, positive_count, verb
from kelip_lightning.planning.throughput import GPUS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from kelip_lightning.config.experiment import Experiment
    from kelip_lightning.planning.data_index import IndexSize
    from kelip_lightning.planning.estimate import StageEstimate
    from kelip_lightning.planning.flops import StageFlops
    from kelip_lightning.planning.stage_plan import OpenedSources


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
    from kelip_lightning.planning.data_index import index_sizes
    from kelip_lightning.planning.estimate import estimate

    if isinstance(experiment, EvaluationExperiment):
        raise ConfigError([f"{arguments.file} has no training stage, so nothing to plan; give one with a schedule"])
    opened = opened_sources(experiment)
    stages = estimate(
        experiment,
        gpu=arguments.gpu,
        utilisation=arguments.mfu,
        tile=arguments.tile,
        samples_per_epoch=samples_per_epoch(experiment, opened),
    )
    indices = {name: index_sizes(opened.get(name, ())) for name in stages}
    if arguments.json:
        plain = {name: asdict(stage) | {"data_index": [*map(asdict, indices[name])]} for name, stage in stages.items()}
        print(json.dumps(plain, indent=2))
    else:
        print_estimate(arguments.file, stages, indices)
    return 0


def opened_sources(experiment: "Experiment") -> "OpenedSources":
    """The open sources of each stage; empty where the data is not on this machine."""
    from data_modules.errors import DataError
    from kelip_lightning.planning.stage_plan import open_stages

    try:
        return open_stages(experiment)
    except DataError:
        return {}


def samples_per_epoch(experiment: "Experiment", opened: "OpenedSources") -> dict[str, int]:
    """Stage -> samples of its open sources."""
    from data_modules.errors import DataError
    from kelip_lightning.planning.stage_plan import count_samples

    try:
        return count_samples(experiment, opened) if opened else {}
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


def print_estimate(
    file: str, stages: "Mapping[str, StageEstimate]", indices: "Mapping[str, Sequence[IndexSize]] | None" = None
) -> None:
    """Print the tables of every stage, in at least 80 columns; `indices` holds those of its open sources."""
    console = table_console()
    for name, stage in stages.items():
        sample = "pair" if stage.contrastive_loss else "image"
        console.print(f"{file}: {name}", style="bold", markup=False, soft_wrap=True)
        console.print()
        for table in (
            _parameter_table(stage),
            _group_table(stage),
            _operation_table(stage.flops, sample),
            _memory_table(stage),
            *_loss_tables(stage),
            _time_table(stage, sample),
            _disk_table(stage),
            _index_table((indices or {}).get(name, ())),
        ):
            console.print(table)
            console.print()
    if len(stages) > 1:
        hours = sum(one.throughput.device_hours for one in stages.values())
        console.print(f"all stages: {hours:,.0f} device-hours (estimate)")


def _index_table(sizes: "Sequence[IndexSize]") -> "Table":
    from kelip_lightning.planning.data_index import PAPER_ROWS, index_scale

    caption = (
        "memory of each rank, shared with the loader processes that it forks; files are read, a row where it is "
        "needed, by all ranks of a node; both stages share a source with the same settings"
    )
    table = number_table("index of the data, GB", caption, "source", "rows", "memory", "files")
    for one in sizes:
        table.add_row(f"{one.source} ({one.kind})", f"{one.rows:,}", f"{one.memory / 1e9:.4f}", f"{one.disk / 1e9:.4f}")
    table.add_section()
    for scale in index_scale():
        table.add_row(scale.kind, f"{PAPER_ROWS:,}", f"{scale.memory / 1e9:.4f}", f"{scale.disk / 1e9:.4f}")
    return table


def _parameter_table(stage: "StageEstimate") -> "Table":
    table = number_table("parameters", "exact", "part", "number")
    for name, number in stage.plan.parameters.items():
        table.add_row(name.replace("_", " "), f"{number:,}")
    table.add_section()
    for name, number in stage.parameter_sums.items():
        table.add_row(name.replace("_", " "), f"{number:,}")
    return table


def _group_table(stage: "StageEstimate") -> "Table":
    columns = ("part and role", "tensors", "parameters", "weight\ndecay", "optimizer", "peak\nlearning\nrate")
    table = number_table("optimizer groups", "exact; --json lists the names", *columns)
    for part in dict.fromkeys(one.part for one in stage.groups):
        table.add_row(part.replace("_", " "))
        for one in (group for group in stage.groups if group.part == part):
            rates = " to ".join(f"{rate:.3g}" for rate in dict.fromkeys(one.learning_rates))
            counts = f"{one.tensors:,}", f"{one.parameters:,}"
            table.add_row(f" {one.role}", *counts, f"{one.weight_decay:g}", one.optimizer, rates)
        table.add_section()
    return table


def _operation_table(flops: "StageFlops", sample: str) -> "Table":
    caption = (
        "forward: exact, 2 FLOPs per multiply-add of matrix products; training: 3 x forward by convention, "
        "4 x with checkpointing"
    )
    columns = ("pass", "runs", "tokens", "linear", "attention", "outer", "forward", "training")
    table = number_table(f"FLOPs per {sample}, GFLOP", caption, *columns)
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
    """Gigabytes on one rank, a column for each strategy; `*` marks the configured one."""
    configured = "ddp" if stage.strategy == "auto" else stage.strategy  # as Lightning resolves auto
    plan, memory = stage.plan, stage.memory
    chunks = "" if plan.chunk_size == plan.batch_size_per_device else f" in chunks of {plan.chunk_size}"
    names = [one.strategy.replace("deepspeed_stage_", "ZeRO ") for one in memory]
    marks = [" *" if one.strategy == configured else "" for one in memory]
    table = number_table(
        f"memory of one rank at {plan.batch_size_per_device} per device{chunks}, {plan.precision}, GB",
        "ZeRO n: trainer.strategy=deepspeed_stage_n; * the experiment's strategy. State exact; buffers, activations "
        "and totals are estimates without allocator and CUDA context (2-4 GB)",
        "strategy",
        *(f"{name}{mark}" for name, mark in zip(names, marks, strict=True)),
    )
    rows: dict[str, list[int]] = {
        "weights": [one.state.weights for one in memory],
        "gradients": [one.state.gradients for one in memory],
        "optimizer": [one.state.optimizer for one in memory],
        "buffers": [one.state.buffers for one in memory],
        "activations": [one.activations for one in memory],
        "batch": [one.batch for one in memory],
        "loss": [one.loss for one in memory],
        "total": [one.total for one in memory],
    }
    for name, numbers in rows.items():
        table.add_row(name, *map(_gigabytes, numbers))
    table.add_row("fits", *(_yes(one.fits) for one in memory), end_section=True)
    table.add_row("activations, gradient checkpointing", *(_gigabytes(one.activations_checkpointed) for one in memory))
    table.add_row("total, gradient checkpointing", *(_gigabytes(one.total_checkpointed) for one in memory))
    table.add_row("fits, gradient checkpointing", *(_yes(one.fits_checkpointed) for one in memory))
    return table


def _loss_tables(stage: "StageEstimate") -> "Iterator[Table]":
    """The contrastive loss with and without chunks; no table for MAE pre-training."""
    loss = stage.contrastive_loss
    if loss is None:
        return
    table = number_table("memory of the contrastive loss on one rank, GB", "estimates", "part", "GB")
    table.add_row("features of all ranks", _gigabytes(loss.features))
    table.add_row("full logit matrices", _gigabytes(loss.full))
    table.add_row(f"rows in chunks: max_logits_per_pair={stage.tile}", _gigabytes(loss.tiled))
    yield table


def _time_table(stage: "StageEstimate", sample: str) -> "Table":
    time, plan = stage.throughput, stage.plan
    table = number_table(f"time on {time.gpu} at {time.utilisation:.0%} of its peak", "estimates", "metric", "value")
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
    table = number_table("disk, shared memory and evaluation", "exact, but for some kB of names", "metric", "value")
    table.add_row("checkpoint, one file", f"{_gigabytes(disk.checkpoint)} GB")
    table.add_row("checkpoint, DeepSpeed, all partitions", f"{_gigabytes(disk.zero_checkpoint)} GB")
    table.add_row("exported weights", f"{_gigabytes(disk.exported)} GB")
    table.add_row("run folder, at most", f"{_gigabytes(disk.whole_run)} GB")
    table.add_row("batches ahead in /dev/shm, per rank", f"{_gigabytes(stage.shared_memory)} GB")
    if evaluation is not None:
        table.add_row("evaluations", f"{evaluation.times:,}")
        table.add_row("FLOPs of each, per image", f"{_giga(evaluation.flops_per_image)} GFLOP")
        table.add_row("FLOPs of each, per caption or class prompt", f"{_giga(evaluation.flops_per_caption)} GFLOP")
    return table


def _giga(operations: int) -> str:
    return f"{operations / 1e9:,.2f}"


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:,.2f}"


def _yes(fits: bool) -> str:
    return "yes" if fits else "no"
