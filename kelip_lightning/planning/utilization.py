"""What `contrastive/mfu` relates: the operations of a training step, and the peak of the device that does them."""

import time

import torch

from kelip_lightning.callbacks.monitoring import StepCost
from kelip_lightning.config.experiment import ContrastiveExperiment
from kelip_lightning.distributed.accelerators import choose_precision
from kelip_lightning.planning.flops import count_flops
from kelip_lightning.planning.stage_plan import Stage
from kelip_lightning.planning.throughput import GPUS

_SIDE, _REPEATS = 2048, 3
"""Side of the square matrices whose product measures a peak, and products of which the fastest counts."""


def step_cost(stage: Stage) -> StepCost:
    """The operations of a stage's samples and tokens, and the peak of this process's device.

    The peak is NVIDIA's for the GPUs of `kelip plan`, and measured on a product of square matrices elsewhere.
    """
    passes = count_flops(stage).passes
    captions = sum(one.training for one in passes if one.name == "caption")
    context_length = stage.tokenizer.context_length if isinstance(stage, ContrastiveExperiment) else 1
    precision = choose_precision(stage.trainer.precision, stage.trainer.accelerator)
    dtype = torch.float32 if precision == "32-true" else torch.bfloat16
    on_gpu = stage.trainer.accelerator != "cpu" and torch.cuda.is_available()
    return StepCost(
        per_sample=sum(one.training for one in passes) - captions,
        per_token=captions / context_length,
        peak=device_peak(torch.device("cuda" if on_gpu else "cpu"), dtype),
    )


def device_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of matrix products on a device, as listed or, if it is not, as measured."""
    name = torch.cuda.get_device_name(device).lower() if device.type == "cuda" else ""
    listed = next((gpu for key, gpu in GPUS.items() if key in name), None)
    if listed is not None:
        return listed.bf16 if dtype is torch.bfloat16 else listed.fp32
    left, right = (torch.ones(_SIDE, _SIDE, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(1 + _REPEATS):
        start = time.perf_counter()
        (left @ right)[0, 0].item()  # waits for the device
        seconds.append(time.perf_counter() - start)
    return 2 * _SIDE**3 / min(seconds[1:])
