"""The tables of `kelip plan`."""

from collections.abc import Iterator, Mapping

from rich.console import Console
from rich.table import Table

from kelip_lightning.planning.estimate import StageEstimate
from kelip_lightning.planning.flops import StageFlops


def print_estimate(file: str, stages: Mapping[str, StageEstimate]) -> None:
    """All tables of all stages."""
    console = Console(highlight=False)
    for name, stage in stages.items():
        sample = "pair" if stage.contrastive_loss else "image"
        console.rule(f"{file}: {name}")
        for table in (
            parameter_table(stage),
            group_table(stage),
            operation_table(stage.flops, sample),
            memory_table(stage),
            time_table(stage, sample),
            disk_table(stage),
        ):
            console.print(table)
    if len(stages) > 1:
        hours = sum(one.throughput.device_hours for one in stages.values())
        console.print(f"all stages: {hours:,.0f} device-hours (estimate)")


def parameter_table(stage: StageEstimate) -> Table:
    """Part -> number."""
    table = _table("parameters", "exact, counted on the modules", "part", "number")
    for name, number in stage.plan.parameters.items():
        table.add_row(name.replace("_", " "), f"{number:,}")
    table.add_section()
    for name, number in stage.parameter_sums.items():
        table.add_row(name.replace("_", " "), f"{number:,}")
    return table


def group_table(stage: StageEstimate) -> Table:
    """Part and role -> what the optimizer does with it."""
    columns = ("part", "what they are", "tensors", "parameters", "weight decay", "optimizer", "peak learning rate")
    table = _table("optimizer groups", "exact, counted on the modules; --json lists the names", *columns)
    for one in stage.groups:
        rates = " to ".join(f"{rate:.3g}" for rate in dict.fromkeys(one.learning_rates))
        counts = f"{one.tensors:,}", f"{one.parameters:,}"
        decay = f"{one.weight_decay:g}"
        table.add_row(one.part.replace("_", " "), one.role, *counts, decay, one.optimizer, rates)
    return table


def operation_table(flops: StageFlops, sample: str) -> Table:
    """Operations of each pass and of a whole sample, in GFLOP."""
    caption = (
        "forward: exact, matrix products at 2 operations per multiply-add; training: 3 x forward by convention, "
        "4 x with checkpointing"
    )
    columns = ("pass", "runs", "tokens", "linear", "attention", "outer", "forward", "training")
    table = _table(f"operations per {sample}, GFLOP", caption, *columns)
    for one in flops.passes:
        metrics = (one.linear, one.attention, one.outer, one.forward, one.training)
        table.add_row(one.name, str(one.times), str(one.tokens), *map(_giga, metrics))
    table.add_section()
    table.add_row("all", "", "", "", "", "", _giga(flops.forward), _giga(flops.training))
    table.add_row("all, checkpointing", "", "", "", "", "", "", _giga(flops.training_recomputed))
    if flops.loss_training:
        table.add_row("one global crop + caption", "", "", "", "", "", "", _giga(flops.one_crop_training))
        table.add_row("contrastive loss, apart", "", "", "", "", "", "", _giga(flops.loss_training))
    return table


def memory_table(stage: StageEstimate) -> Table:
    """Gigabytes on one rank for each strategy; the configured one is starred."""
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
    configured = "ddp" if stage.strategy == "auto" else stage.strategy  # what Lightning makes of auto
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
        table.add_row("  with checkpointing", *[""] * 4, *map(_gigabytes, checkpointed), _yes(one.fits_checkpointed))
    if stage.contrastive_loss:
        loss = stage.contrastive_loss
        table.add_section()
        table.add_row("loss: features of all ranks", *[""] * 6, _gigabytes(loss.features))
        table.add_row("loss: full matrices", *[""] * 6, _gigabytes(loss.full))
        table.add_row(f"loss: tiles of {stage.tile}", *[""] * 6, _gigabytes(loss.tiled))
    return table


def time_table(stage: StageEstimate, sample: str) -> Table:
    """Rates and hours."""
    time, plan = stage.throughput, stage.plan
    table = _table(f"time on {time.gpu} at {time.utilisation:.0%} of its peak", "estimates", "metric", "value")
    rows = {
        f"{sample}s per second and device": f"{time.samples_per_second_per_device:,.0f}",
        f"{sample}s per second": f"{time.samples_per_second:,.0f}",
        "images to decode per second and node": f"{time.images_per_second_per_node:,.0f}",
        "crops to make per second and node": f"{time.crops_per_second_per_node:,.0f}",
        "seconds per step": f"{time.seconds_per_step:.3f}",
        "of it the loss's products": f"{time.loss_share:.1%}",
        "steps": f"{plan.max_steps:,}",
        f"{sample}s seen": f"{plan.samples_seen:,}",
        "epochs": "–" if plan.epochs is None else f"{plan.epochs:,.2f}",
        "hours": f"{time.hours:,.1f}",
        "hours with checkpointing": f"{time.hours_recomputed:,.1f}",
        "device-hours": f"{time.device_hours:,.0f}",
    }
    for name, value in rows.items():
        table.add_row(name, value)
    return table


def disk_table(stage: StageEstimate) -> Table:
    """Sizes of what is written, and what evaluations cost."""
    table = _table("disk, and evaluation", "sizes exact but for some kB of names; operations exact", "metric", "value")
    for name, value in _disk_rows(stage):
        table.add_row(name, value)
    return table


def _disk_rows(stage: StageEstimate) -> Iterator[tuple[str, str]]:
    disk = stage.disk
    yield "checkpoint, one file", f"{_gigabytes(disk.checkpoint)} GB"
    yield "checkpoint, DeepSpeed, all files", f"{_gigabytes(disk.zero_checkpoint)} GB"
    yield "exported weights", f"{_gigabytes(disk.exported)} GB"
    yield "run folder, at most", f"{_gigabytes(disk.whole_run)} GB"
    if (evaluation := stage.evaluation) is not None:
        yield "evaluations", f"{evaluation.times:,}"
        yield "each, per image", f"{_giga(evaluation.flops_per_image)} GFLOP"
        yield "each, per caption or class prompt", f"{_giga(evaluation.flops_per_caption)} GFLOP"


def _table(title: str, caption: str, *columns: str) -> Table:
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
