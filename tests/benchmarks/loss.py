"""Memory and time of the contrastive loss in tiles, of its whole matrix at once, and of plain autograd.

`make benchmark-loss` prints them for the pairs of one device out of a global batch, forward and backward. Every case
runs in a process of its own. Memory is the peak over what the features take, from Linux on a CPU and from torch's
allocator on a GPU; the features' gradients, which any loss has to make, are given apart. Time is the processor's on a
CPU, so that other work on the machine hardly counts.
"""

import argparse
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kelip_lightning.losses.contrastive import ContrastiveKind, contrastive_loss
from kelip_lightning.losses.tiles import MatmulPrecision

MEBIBYTE = 2**20


@dataclass(frozen=True, slots=True)
class Features:
    """Unit-length features of one device's pairs, of all pairs, and the factor on cosines."""

    image_BE: Tensor
    text_BE: Tensor
    image_GE: Tensor
    text_GE: Tensor
    logit_scale: Tensor

    @property
    def rows(self) -> tuple[Tensor, ...]:
        """All features."""
        return self.image_BE, self.text_BE, self.image_GE, self.text_GE

    @classmethod
    def random(cls, local: int, total: int, width: int, device: str) -> "Features":
        """All of them leaves."""
        torch.manual_seed(0)
        rows = [F.normalize(torch.randn(n, width, device=device), dim=1) for n in (local, local, total, total)]
        return cls(*(row.requires_grad_() for row in [*rows, torch.full((1,), 14.3, device=device)]))


def autograd_loss(features: Features) -> Tensor:
    """InfoNCE as one writes it down; torch keeps what the backward pass needs."""
    target_B = torch.arange(len(features.image_BE), device=features.image_BE.device)
    image_logits_BG = features.logit_scale * features.image_BE @ features.text_GE.T
    text_logits_BG = features.logit_scale * features.text_BE @ features.image_GE.T
    return (F.cross_entropy(image_logits_BG, target_B) + F.cross_entropy(text_logits_BG, target_B)) / 2


def loss_of(features: Features, case: str, precision: MatmulPrecision) -> Tensor:
    """The loss by name of the case: `autograd`, `whole`, or a tile size."""
    if case == "autograd":
        return autograd_loss(features)
    image_BE = features.image_BE.unsqueeze(0)
    gathered = {3: features.image_GE.unsqueeze(1), 2: features.text_GE}
    return contrastive_loss(
        image_BE,
        image_BE[:0],
        features.text_BE,
        features.logit_scale,
        kind=ContrastiveKind.info_nce,
        max_logits_per_pair=None if case == "whole" else int(case),
        matmul_precision=precision,
        gather=lambda rows: gathered[rows.ndim],
    ).total


def measure(case: str, local: int, total: int, width: int, device: str, precision: MatmulPrecision) -> dict[str, float]:
    """Peak memory over the features in MiB, their gradients' share of it, and the fastest of three times in seconds."""
    torch.set_num_threads(1)
    # The first products read tens of MiB of library code into memory, whatever their size.
    loss_of(Features.random(local // 8, local, width, device), case, precision).backward()
    features = Features.random(local, total, width, device)
    before = _begin_peak(device)
    seconds = []
    for _ in range(3):
        start = _clock(device)
        loss_of(features, case, precision).backward()
        seconds.append(_clock(device) - start)
        if len(seconds) == 1:
            peak = _peak_memory(device) - before
            gradients = sum(4 * row.numel() for row in features.rows)
        for row in features.rows:
            row.grad = None
    return {"peak": peak / MEBIBYTE, "gradients": gradients / MEBIBYTE, "seconds": min(seconds)}


def _begin_peak(device: str) -> int:
    """Forget earlier peaks; returns the bytes in use."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # see proc(5)
    return _peak_memory(device)


def _peak_memory(device: str) -> int:
    if device == "cuda":
        return torch.cuda.max_memory_allocated()
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    (kibibytes,) = (int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
    return kibibytes * 1024


def _clock(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--local", type=int, default=2048, help="pairs of one device")
    parser.add_argument("--total", type=int, default=32768, help="pairs of the global batch")
    parser.add_argument("--width", type=int, default=512, help="width of the features")
    parser.add_argument("--tiles", nargs="+", default=["1024", "1536", "2048", "3072"], help="tile sizes")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--precision", default="float32", choices=[one.name for one in MatmulPrecision],
        help="loss.matmul_precision; plain autograd multiplies in float32 (default: float32)",
    )  # fmt: skip
    parser.add_argument("--case", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    sizes = (arguments.local, arguments.total, arguments.width, arguments.device)
    if arguments.case is not None:
        print(json.dumps(measure(arguments.case, *sizes, MatmulPrecision[arguments.precision])))
        return
    described = f"width {sizes[2]}, {arguments.precision}, {sizes[3]}"
    print(f"InfoNCE of {sizes[0]} x {sizes[1]} pairs, {described}, forward and backward")
    print("case             peak MiB   without the features' gradients   seconds")
    for case in ("autograd", "whole", *arguments.tiles):
        command = [sys.executable, "-m", "tests.benchmarks.loss", *sys.argv[1:], "--case", case]
        row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        name = f"tiles of {case}" if case.isdigit() else {"autograd": "plain autograd", "whole": "whole matrix"}[case]
        print(f"{name:15} {row['peak']:9.0f} {row['peak'] - row['gradients']:33.0f} {row['seconds']:9.2f}", flush=True)


if __name__ == "__main__":
    main()
