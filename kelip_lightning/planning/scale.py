"""What a stage asks of stores, disks and links at several numbers of GPUs; docs/scale.md shows its output.

`python -m kelip_lightning.planning.scale experiments/kelip_b32/contrastive.yaml`
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from kelip_lightning.planning.throughput import GPUS, estimate_throughput

GPUS_PER_NODE = 8
FLOAT32 = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Assumptions:
    """What the arithmetic takes as given."""

    utilisation: float = 0.4
    """Of the GPU's peak."""
    image_bytes: float = 28_700
    """Mean size of a sample in a shard: 256 px, JPEG (docs/data.md)."""
    pairs: int = 1_184_000_000
    """Of the paper."""
    window: int = 1_048_576
    run_length: int = 64
    link_gigabytes: float = 25.0
    """Per second and GPU between nodes: 200 Gb/s InfiniBand."""
    disk_gigabytes: float = 1.0
    """Per second, written by one process to the shared file system."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """One number of GPUs."""

    gpus: int
    pairs_per_second: float
    step_seconds: float
    node_megabytes: float
    """Read from the store, per second and node."""
    requests: float
    """Of all nodes, per second, without a window."""
    requests_window: float
    """The same with a window and `order.groups` = nodes."""
    cache_gigabytes: float
    """Runs on the disk of a node, with a window."""
    index_gigabytes: float
    """On disk; rows are read where they are needed."""
    checkpoint_gigabytes: float
    checkpoint_seconds: float
    gradient_gigabytes: float
    """Sent by each GPU in a step: a ring all-reduce of the gradients."""
    feature_gigabytes: float
    """Sent by each GPU in a step: features of all crops and captions gathered, their gradients scattered."""
    link_share: float
    """Of a step, if nothing overlaps."""


def estimate_scale(stage: Any, gpus: Sequence[int], given: Assumptions, gpu: str = "a100") -> list[Scale]:
    """The demands of a contrastive stage.

    Sources: ring all-reduce, Patarasuk & Yuan 2009: 2 (N - 1) / N of the bytes; all-gather and reduce-scatter
    (N - 1) / N each.
    """
    from data_modules.sources.tar_index import ROW_BYTES
    from data_modules.sources.tar_runs import CACHED_WINDOWS
    from kelip_lightning.losses.config import MatmulPrecision
    from kelip_lightning.planning.flops import count_flops
    from kelip_lightning.planning.stage_plan import BYTES_PER_PARAMETER_SAVED, make_stage_plan

    flops, found = count_flops(stage), []
    for number in gpus:
        nodes = max(1, number // GPUS_PER_NODE)
        sized = replace(stage, trainer=replace(stage.trainer, num_nodes=nodes, devices=min(number, GPUS_PER_NODE)))
        plan = make_stage_plan(sized, None)
        tf32x3 = stage.loss.matmul_precision is not MatmulPrecision.float32
        speed = estimate_throughput(GPUS[gpu], given.utilisation, sized, plan, flops, tf32x3=tf32x3)
        rate, others = speed.samples_per_second, (number - 1) / number
        crops = plan.images_forwarded // plan.samples_seen
        features = stage.data.global_batch_size * (crops + 1) * stage.dual_encoder.embed_dim * FLOAT32
        gradients, gathered = 2 * others * FLOAT32 * plan.num_parameters, 2 * others * features
        window_bytes = CACHED_WINDOWS * min(given.pairs, given.window / nodes) * given.image_bytes
        saved = BYTES_PER_PARAMETER_SAVED * plan.num_parameters / 1e9
        found.append(
            Scale(
                gpus=number,
                pairs_per_second=rate,
                step_seconds=speed.seconds_per_step,
                node_megabytes=rate / nodes * given.image_bytes / 1e6,
                requests=rate,
                requests_window=rate / given.run_length,
                cache_gigabytes=window_bytes / 1e9,
                index_gigabytes=given.pairs * ROW_BYTES / 1e9,
                checkpoint_gigabytes=saved,
                checkpoint_seconds=saved / given.disk_gigabytes,
                gradient_gigabytes=gradients / 1e9,
                feature_gigabytes=gathered / 1e9,
                link_share=(gradients + gathered) / 1e9 / given.link_gigabytes / speed.seconds_per_step,
            )
        )
    return found


ROWS: Mapping[str, tuple[str, str]] = {
    "pairs_per_second": ("pairs per second", "{:,.0f}"),
    "step_seconds": ("seconds per step", "{:.3f}"),
    "node_megabytes": ("MB per second and node from the store", "{:,.0f}"),
    "requests": ("requests per second, without a window", "{:,.0f}"),
    "requests_window": ("requests per second, with a window and groups", "{:,.0f}"),
    "cache_gigabytes": ("GB of runs on a node's disk, with a window", "{:,.1f}"),
    "index_gigabytes": ("GB of index on disk", "{:,.1f}"),
    "checkpoint_gigabytes": ("GB of a checkpoint", "{:,.2f}"),
    "checkpoint_seconds": ("seconds to write it", "{:,.1f}"),
    "gradient_gigabytes": ("GB of gradients sent per GPU and step", "{:.2f}"),
    "feature_gigabytes": ("GB of features sent per GPU and step", "{:.2f}"),
    "link_share": ("share of a step on the links, without overlap", "{:.1%}"),
}
"""Field -> its label and format."""


def as_table(found: Sequence[Scale]) -> str:
    """A table in Markdown, a column for each number of GPUs."""
    lines = ["| | " + " | ".join(f"{one.gpus} GPUs" for one in found) + " |", "|---|" + "---:|" * len(found)]
    for name, (label, form) in ROWS.items():
        lines.append(f"| {label} | " + " | ".join(form.format(getattr(one, name)) for one in found) + " |")
    return "\n".join(lines) + "\n"


def main(words: Sequence[str] | None = None) -> int:
    """Parse, estimate, print."""
    from kelip_lightning.config.experiment import ContrastiveExperiment
    from kelip_lightning.config.load import load_experiment

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", help="an experiment of contrastive training")
    parser.add_argument("--gpus", type=int, nargs="+", default=[8, 80, 640])
    parser.add_argument("--mfu", type=float, default=Assumptions().utilisation)
    parser.add_argument("--gpu", choices=tuple(GPUS), default="a100")
    arguments = parser.parse_args(words)
    stage = load_experiment(arguments.file, [], ContrastiveExperiment, on_this_machine=False).experiment
    given = Assumptions(utilisation=arguments.mfu)
    sys.stdout.write(as_table(estimate_scale(stage, arguments.gpus, given, arguments.gpu)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
