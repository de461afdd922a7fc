"""Rates and hours against numbers computed by hand."""

from collections.abc import Callable

import pytest

from kelip_lightning.config.experiment import ContrastiveExperiment
from kelip_lightning.planning.flops import StageFlops
from kelip_lightning.planning.stage_plan import make_stage_plan
from kelip_lightning.planning.throughput import GPUS, Throughput, estimate_throughput

Planned = Callable[..., Throughput]


@pytest.fixture
def planned(contrastive: Callable[..., ContrastiveExperiment]) -> Planned:
    """Throughput for operations in GFLOP on 10 nodes of 8 GPUs: one global and four local crops, 4500 steps."""

    def plan(
        gpu: str,
        gflops: float,
        utilisation: float = 1.0,
        precision: str = "bf16-mixed",
        loss_gflops: float = 0,
        tf32x3: bool = False,
    ) -> Throughput:
        trainer = {"devices": 8, "num_nodes": 10, "precision": precision}
        stage = contrastive(transform={"num_local_crops": 4}, trainer=trainer, global_batch_size=32_000)
        stage.schedule.max_steps = 4500
        flops = StageFlops(
            passes=[],
            forward=0,
            training=round(gflops * 1e9),
            training_recomputed=round(gflops * 4e9 / 3),
            one_crop_training=0,
            loss_training=round(loss_gflops * 1e9),
        )
        return estimate_throughput(GPUS[gpu], utilisation, stage, make_stage_plan(stage, None), flops, tf32x3=tf32x3)

    return plan


@pytest.mark.parametrize(
    ("gpu", "precision", "pairs"),
    [("a100", "bf16-mixed", 7038), ("h100", "bf16-mixed", 22319), ("h200", "bf16-mixed", 22319), ("a100", "32", 440)],
)
def test_estimate_throughput__peak_rates(gpu: str, precision: str, pairs: int, planned: Planned) -> None:
    """312, 989.4 and, in float32, 19.5 TFLOP/s over 44.33 GFLOP."""
    assert round(planned(gpu, 44.33, precision=precision).samples_per_second_per_device) == pairs


def test_estimate_throughput__whole_cluster(planned: Planned) -> None:
    """312 GFLOP at half of an A100's 312 TFLOP/s: 2 ms a pair and device."""
    time = planned("a100", 312, utilisation=0.5)
    assert time.samples_per_second_per_device == pytest.approx(500)
    assert time.samples_per_second == pytest.approx(40_000)
    assert time.images_per_second_per_node == pytest.approx(4_000)
    assert time.crops_per_second_per_node == pytest.approx(20_000)
    assert time.seconds_per_step == pytest.approx(0.8)
    assert (time.hours, time.device_hours) == pytest.approx((1, 80))
    assert time.hours_recomputed == pytest.approx(4 / 3)


@pytest.mark.parametrize(
    ("gpu", "gflops", "loss_gflops", "tf32x3"),
    [("a100", 312, 19.5, False), ("a100", 312, 52, True), ("h100", 989.4, 66.9, False), ("h100", 989.4, 164.9, True)],
)
def test_estimate_throughput__loss_has_its_own_peak(
    gpu: str, gflops: float, loss_gflops: float, tf32x3: bool, planned: Planned
) -> None:
    """1 ms in the networks and 1 ms in the loss: one product in float32, or three in TF32."""
    time = planned(gpu, gflops, loss_gflops=loss_gflops, tf32x3=tf32x3)
    assert time.samples_per_second_per_device == pytest.approx(500)
    assert time.loss_share == pytest.approx(0.5)
    assert time.hours_recomputed == pytest.approx(time.hours * (4 / 3 + 1) / 2)
