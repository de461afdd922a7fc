"""What the machine does at most: the rate of large matrix products of the step's shapes, and operations of a step."""

import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from data_modules.records import ImageTextBatch
from kelip_lightning.benchmarks.step.setting import StepSetting, architecture_of, experiment_of
from kelip_lightning.models.dual_encoder import DualEncoder
from kelip_lightning.models.kernels import fast_attention
from kelip_lightning.planning.flops import FORWARD_AND_BACKWARD, count_flops

SQUARE = 2048
MIN_SECONDS, MIN_REPEATS, WARMUP = 0.3, 5, 2
"""Of each product: it is repeated until both minima are reached."""


def product_shapes(setting: StepSetting) -> dict[str, tuple[int, int, int]]:
    """Name -> (m, k, n) of an m x k by k x n product: those of the image encoder's blocks, and a square one.

    m is the number of tokens of all global crops of a batch.
    """
    image = architecture_of(setting).image
    rows, width = setting.batch * setting.global_crops * (1 + image.num_patches), image.width
    hidden = int(width * image.mlp_ratio)
    return {
        "image qkv": (rows, width, 3 * width),
        "image MLP, first": (rows, width, hidden),
        "image MLP, second": (rows, hidden, width),
        "square": (SQUARE, SQUARE, SQUARE),
    }


def product_rates(setting: StepSetting) -> dict[str, float]:
    """Name of a product -> its operations per second (2 m k n over the median time), in the setting's precision.

    bf16-mixed multiplies bfloat16 matrices, 32-true float32 ones.
    """
    dtype = torch.bfloat16 if setting.precision == "bf16-mixed" else torch.float32
    device = torch.device(setting.device)
    rates = {}
    for name, (m, k, n) in product_shapes(setting).items():
        left, right = torch.randn(m, k, dtype=dtype, device=device), torch.randn(n, k, dtype=dtype, device=device)
        rates[name] = 2 * m * k * n / _median_seconds(lambda a=left, b=right: F.linear(a, b), device)  # type: ignore[misc]
    return rates


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    seconds: list[float] = []
    while len(seconds) < WARMUP + MIN_REPEATS or sum(seconds[WARMUP:]) < MIN_SECONDS:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds.append(time.perf_counter() - start)
    return median(seconds[WARMUP:])


def count_step(setting: StepSetting, model: DualEncoder, batches: Sequence[ImageTextBatch]) -> list[int]:
    """Operations of our step on each batch, forward and backward, by the conventions of `planning.flops`.

    Those that are done: the text encoder's are counted while it encodes the batch's captions, so that its padding
    counts if it computes padding, and does not if it leaves it out.
    """
    counted = count_flops(experiment_of(setting, num_steps=1))
    passes = {one.name: one for one in counted.passes}
    images = sum(one.times * one.forward for name, one in passes.items() if name != "caption")
    totals = []
    for batch in batches:
        blocks = _text_flops(model, batch)
        forward = len(batch.tokens) * (images + passes["caption"].outer) + blocks
        totals.append(FORWARD_AND_BACKWARD * forward + len(batch.tokens) * counted.loss_training)
    return totals


@torch.no_grad()
def _text_flops(model: DualEncoder, batch: ImageTextBatch) -> int:
    """Forward operations of the text encoder's blocks on the captions of a batch."""
    device = next(model.text_encoder.parameters()).device
    with fast_attention(device), FlopCounterMode(display=False) as counter:
        model.text_encoder(batch.tokens.to(device))
    return int(counter.get_total_flops())
