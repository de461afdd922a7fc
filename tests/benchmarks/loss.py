"""Memory and time of the contrastive loss in chunks, in one block, and in plain autograd.

`make benchmark-loss` prints them for the pairs of one device out of a global batch, forward and backward. Each case
runs in its own process. Memory is the peak above the features, from Linux on a CPU and from torch's allocator on a GPU,
with and without the features' gradients, which any loss needs. Time on a CPU is processor time, which other processes
hardly change.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from kelip_lightning.losses.config import ContrastiveKind, MatmulPrecision
from kelip_lightning.losses.contrastive import contrastive_loss
from tests.benchmarks import seconds_of, single_threaded

MEBIBYTE = 2**20
NAMES = {"autograd": "plain autograd", "whole": "whole matrix"}


def random_features(local: int, total: int, width: int, device: str) -> list[Tensor]:
    """Leaves: unit-length image and text features of one device's pairs and of all pairs, and the logit scale."""
    torch.manual_seed(0)
    rows = [F.normalize(torch.randn(n, width, device=device), dim=1) for n in (local, local, total, total)]
    return [row.requires_grad_() for row in (*rows, torch.full((1,), 14.3, device=device))]


def loss_of(features: Sequence[Tensor], case: str, precision: MatmulPrecision) -> Tensor:
    """InfoNCE by case: `autograd`, `whole`, or the logits per pair of a chunk."""
    image_BE, text_BE, image_GE, text_GE, scale = features
    if case == "autograd":
        target_B = torch.arange(len(image_BE), device=image_BE.device)
        logits = scale * image_BE @ text_GE.T, scale * text_BE @ image_GE.T
        return sum((F.cross_entropy(one_BG, target_B) for one_BG in logits), torch.zeros_like(scale)) / 2
    gathered = {3: image_GE.unsqueeze(1), 2: text_GE}
    return contrastive_loss(
        image_BE.unsqueeze(0),
        image_BE.unsqueeze(0)[:0],
        text_BE,
        scale,
        kind=ContrastiveKind.info_nce,
        max_logits_per_pair=None if case == "whole" else int(case),
        matmul_precision=precision,
        gather=lambda rows: gathered[rows.ndim],
    ).total


def measure(case: str, local: int, total: int, width: int, device: str, precision: MatmulPrecision) -> dict[str, float]:
    """Peak memory above the features and their gradients in MiB, and the shortest of three times in seconds."""
    # The first products load tens of MiB of library code, whatever their size.
    loss_of(random_features(local // 8, local, width, device), case, precision).backward()
    features = random_features(local, total, width, device)
    before, peak, seconds = _begin_peak(device), 0, []
    for _ in range(3):
        seconds.append(seconds_of(lambda: loss_of(features, case, precision).backward(), _clock(device)))
        peak = peak or _peak_memory(device) - before
        for row in features:
            row.grad = None
    gradients = sum(4 * row.numel() for row in features[:4])
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


def _clock(device: str) -> Callable[[], float]:
    def finished() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return finished if device == "cuda" else time.process_time


def main() -> None:
    """Run every case in a process and print its row."""
    parser = single_threaded(__doc__)
    parser.add_argument("--local", type=int, default=2048, help="pairs of one device")
    parser.add_argument("--total", type=int, default=32768, help="pairs of the global batch")
    parser.add_argument("--width", type=int, default=512, help="width of the features")
    parser.add_argument(
        "--tiles", nargs="+", default=["1024", "1536", "2048", "3072"], help="logits per pair of a chunk"
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument(
        "--precision",
        default="float32",
        choices=[one.name for one in MatmulPrecision],
        help="loss.matmul_precision; plain autograd multiplies in float32 (default: float32)",
    )
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
        name, without = NAMES.get(case, f"chunks of {case}"), row["peak"] - row["gradients"]
        print(f"{name:15} {row['peak']:9.0f} {without:33.0f} {row['seconds']:9.2f}", flush=True)


if __name__ == "__main__":
    main()
