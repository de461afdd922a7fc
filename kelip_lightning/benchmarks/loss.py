"""Memory and time of the contrastive loss in chunks, in one block, and in plain autograd.

For the pairs of one device out of a global batch, forward and backward; each case runs in its own process. Memory is
the peak above the features, with and without the features' gradients, which any loss needs. Time on a CPU is processor
time of one thread, which other processes hardly change.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from data_modules.config_roles import at_least, check_ranges
from kelip_lightning.benchmarks.peak_memory import MEBIBYTE, PeakMemory
from kelip_lightning.benchmarks.processes import Progress, in_fresh_process
from kelip_lightning.benchmarks.writing import write_benchmark
from kelip_lightning.drawing.charts import ChartRow
from kelip_lightning.losses.config import ContrastiveKind, MatmulPrecision
from kelip_lightning.losses.contrastive import contrastive_loss

AUTOGRAD, WHOLE = "autograd", "whole"
NAMES = {AUTOGRAD: "plain autograd", WHOLE: "whole matrix"}
REPEATS = 3


@dataclass(kw_only=True, slots=True)
class LossSetting:
    """Sizes of the loss and its arithmetic."""

    local: int = field(default=2048, metadata=at_least(8))
    """Pairs of one device."""
    total: int = field(default=32_768, metadata=at_least(8))
    """Pairs of the global batch."""
    width: int = field(default=512, metadata=at_least(1))
    """Width of the features."""
    chunks: list[int] = field(default_factory=lambda: [1024, 1536, 2048, 3072])
    """Values of loss.max_logits_per_pair, one case each."""
    device: str = "cpu"
    """cpu or cuda."""
    precision: MatmulPrecision = MatmulPrecision.float32
    """loss.matmul_precision; plain autograd multiplies in float32."""

    def __post_init__(self) -> None:
        check_ranges(self)
        if self.total < self.local:
            raise ValueError(f"total = {self.total} must be at least local = {self.local}")


@dataclass(frozen=True, slots=True, kw_only=True)
class LossCost:
    """What one case takes."""

    name: str
    peak_mebibytes: float | None
    """Above the features; `None`: it cannot be measured here."""
    gradient_mebibytes: float
    """Of the features' gradients, a part of the peak."""
    seconds: float
    """The shortest of `REPEATS`."""


def run_loss_benchmark(setting: LossSetting, progress: Progress) -> list[LossCost]:
    """Every case in a process of its own."""
    costs = []
    for case in (AUTOGRAD, WHOLE, *map(str, setting.chunks)):
        costs.append(in_fresh_process(1, measure, case, setting))
        progress(f"{costs[-1].name}: {costs[-1].seconds:.2f} s")
    return costs


def measure(case: str, setting: LossSetting) -> LossCost:
    """One case, in this process."""
    device = torch.device(setting.device)
    # The first products load tens of MiB of library code, whatever their size.
    small = random_features(setting.local // 8, setting.local, setting.width, device)
    loss_of(small, case, setting.precision).backward()
    features = random_features(setting.local, setting.total, setting.width, device)
    memory, peak, seconds = PeakMemory(device), None, []
    for repeat in range(REPEATS):
        clock = _clock(device)
        start = clock()
        loss_of(features, case, setting.precision).backward()
        seconds.append(clock() - start)
        peak = memory.mebibytes() if repeat == 0 else peak
        for row in features:
            row.grad = None
    return LossCost(
        name=NAMES.get(case, f"chunks of {case}"),
        peak_mebibytes=peak,
        gradient_mebibytes=sum(4 * row.numel() for row in features[:4]) / MEBIBYTE,
        seconds=min(seconds),
    )


def random_features(local: int, total: int, width: int, device: torch.device) -> list[Tensor]:
    """Leaves: unit-length image and text features of one device's pairs and of all pairs, and the logit scale."""
    torch.manual_seed(0)
    rows = [F.normalize(torch.randn(n, width, device=device), dim=1) for n in (local, local, total, total)]
    return [row.requires_grad_() for row in (*rows, torch.full((1,), 14.3, device=device))]


def loss_of(features: Sequence[Tensor], case: str, precision: MatmulPrecision) -> Tensor:
    """InfoNCE by case: `autograd`, `whole`, or the logits per pair of a chunk."""
    image_BE, text_BE, image_GE, text_GE, scale = features
    if case == AUTOGRAD:
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
        max_logits_per_pair=None if case == WHOLE else int(case),
        matmul_precision=precision,
        gather=lambda rows: gathered[rows.ndim],
    ).total


def _clock(device: torch.device) -> Callable[[], float]:
    def finished() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return finished if device.type == "cuda" else time.process_time


def write_loss_report(setting: LossSetting, costs: Sequence[LossCost], folder: Path) -> list[Path]:
    """Write loss.json and loss.png, the peak of each case; returns both."""
    rows = [
        ChartRow(label=one.name, value=one.peak_mebibytes, low=None, high=None)
        for one in costs
        if one.peak_mebibytes is not None
    ]
    title = f"Peak MiB of the contrastive loss, {setting.local} x {setting.total} pairs, width {setting.width}"
    content = {"setting": asdict(setting) | {"precision": setting.precision.name}, "cases": [*map(asdict, costs)]}
    return write_benchmark(folder, "loss", content, rows, title)
