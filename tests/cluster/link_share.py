"""The share of a training step spent on a slow link between two hosts, with features gathered late and early.

`python -m tests.cluster.link_share` (root) makes two hosts with a cable of a limited rate (tc tbf), trains the dual
encoder under DDP over gloo, and prints the median step with both, beside that over an unlimited cable.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from data_modules.text.tokenizer import train_tokenizer
from kelip_lightning.distributed.gather import gather_rows, start_gather
from kelip_lightning.losses.config import ContrastiveKind
from kelip_lightning.losses.contrastive import contrastive_loss
from kelip_lightning.models.config import DualEncoderConfig, ImageEncoderConfig, TextEncoderConfig
from kelip_lightning.models.model_folder import build_dual_encoder
from tests.cluster.hosts import ADDRESSES, two_hosts
from tests.faults.processes import end_tree

SECONDS = 240
TEXTS = ["a red fox in the snow", "눈 속의 붉은 여우", "a bowl of rice", "밥 한 그릇"]


def _work(rank: int, steps: int, pairs: int) -> None:
    os.environ |= {"MASTER_ADDR": ADDRESSES["host1"], "MASTER_PORT": "29600"}
    dist.init_process_group("gloo", rank=rank, world_size=len(ADDRESSES))
    torch.manual_seed(0)
    tokenizer = train_tokenizer(TEXTS, 280, 24)
    model = build_dual_encoder(
        ImageEncoderConfig(image_size=32, patch_size=16, width=64, depth=2, num_heads=2),
        TextEncoderConfig(width=128, depth=2, num_heads=2),
        DualEncoderConfig(embed_dim=512),
        tokenizer,
    )
    ranks = DistributedDataParallel(model, gradient_as_bucket_view=True)
    images, tokens = torch.rand(5, pairs, 3, 32, 32), tokenizer.encode(TEXTS).repeat(pairs // len(TEXTS), 1)
    seconds: dict[str, list[float]] = {"late": [], "early": []}
    for step in range(2 * (steps + 1)):
        name = ("late", "early")[step % 2]
        begin = partial(partial, gather_rows) if name == "late" else start_gather
        dist.barrier()
        begun = time.perf_counter()
        _step(ranks, (images[:1], images[1:], tokens), begin, rank)
        seconds[name].append(time.perf_counter() - begun)
    if rank == 0:
        print(*(statistics.median(seconds[name][1:]) for name in seconds))
    dist.barrier()
    dist.destroy_process_group()


def _step(
    ranks: DistributedDataParallel,
    batch: tuple[Tensor, Tensor, Tensor],
    begin: Callable[[Tensor], Callable[[], Tensor]],
    rank: int,
) -> None:
    started: list[Callable[[], Tensor]] = []
    features = ranks(*batch, on_crops=lambda crops_VBE: started.append(begin(crops_VBE.transpose(0, 1))))
    towers = (features.global_VBE, features.local_VBE, features.text_BE, features.logit_scale)
    loss = contrastive_loss(
        *towers, kind=ContrastiveKind.info_nce, gather=gather_rows, gathered_crops=started[0], rank=rank
    )
    loss.total.backward()


def measure(rate: str | None, steps: int, pairs: int) -> tuple[float, float]:
    """Median seconds of a step with features gathered late and early; `rate` is tc's, `None` unlimited.

    Raises:
        RuntimeError: A process failed.
    """
    with tempfile.TemporaryDirectory() as folder, two_hosts(Path(folder), rate=rate) as hosts:
        words = [sys.executable, "-m", "tests.cluster.link_share", "--steps", str(steps), "--pairs", str(pairs)]
        running = [
            hosts.start(host, *words, "--rank", str(rank), cwd=Path(folder)) for rank, host in enumerate(ADDRESSES)
        ]
        try:
            codes = [one.wait(SECONDS) for one in running]
        finally:
            for one in running:
                end_tree(one)
        said = (Path(folder) / "host1.log").read_text(encoding="utf-8")
        if any(codes):
            raise RuntimeError(f"the processes ended with {codes}: {said[-2000:]}")
        late, early = said.splitlines()[-1].split()
        return float(late), float(early)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", default="1gbit", help="of the cable, as tc has it (default: 1gbit)")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--pairs", type=int, default=256, help="per rank")
    parser.add_argument("--rank", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.rank is not None:
        _work(arguments.rank, arguments.steps, arguments.pairs)
        return
    fast = min(measure(None, arguments.steps, arguments.pairs))
    print(f"unlimited cable: {fast:.3f} s a step")
    for name, seconds in zip(("late", "early"), measure(arguments.rate, arguments.steps, arguments.pairs), strict=True):
        print(
            f"{arguments.rate}, features gathered {name}: {seconds:.3f} s a step, {1 - fast / seconds:.0%} on the link"
        )


if __name__ == "__main__":
    main()
