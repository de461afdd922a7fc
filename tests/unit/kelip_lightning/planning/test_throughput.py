"""Rates and hours, by hand."""

import pytest

from kelip_lightning.planning.throughput import GPUS, Throughput, estimate_throughput


def planned(
    gpu: str,
    utilisation: float,
    precision: str = "bf16-mixed",
    loss_flops: int = 0,
    loss_in_halves: bool = False,
) -> Throughput:
    return estimate_throughput(
        GPUS[gpu],
        utilisation,
        precision=precision,
        training_flops=44_330_000_000,
        recomputed_flops=59_106_666_667,
        loss_flops=loss_flops,
        loss_in_halves=loss_in_halves,
        crops_per_sample=5,
        global_batch_size=32_640,
        num_steps=1000,
        devices_per_node=8,
        num_nodes=10,
    )


@pytest.mark.parametrize(
    ("gpu", "utilisation", "pairs"),
    [("a100", 1.0, 7038), ("a100", 0.5, 3519), ("h100", 0.4, 8928), ("h200", 0.4, 8928)],
)
def test_estimate_throughput__pairs_per_second(gpu: str, utilisation: float, pairs: int) -> None:
    """312 and 989.4 TFLOP/s over 44.33 GFLOP."""
    assert round(planned(gpu, utilisation).samples_per_second_per_device) == pairs


def test_estimate_throughput__whole_cluster() -> None:
    time = planned("a100", 0.5)
    rate = 80 * 156e12 / 44.33e9
    assert time.samples_per_second == pytest.approx(rate)
    assert time.images_per_second_per_node == pytest.approx(rate / 10)
    assert time.crops_per_second_per_node == pytest.approx(rate / 10 * 5)
    assert time.seconds_per_step == pytest.approx(32_640 / rate)
    assert time.hours == pytest.approx(32_640_000 / rate / 3600)
    assert time.device_hours == pytest.approx(80 * time.hours)
    assert time.hours_recomputed == pytest.approx(time.hours * 4 / 3)


def test_estimate_throughput__float32_is_slower() -> None:
    ratio = planned("a100", 0.4).samples_per_second / planned("a100", 0.4, "32-true").samples_per_second
    assert ratio == pytest.approx(312 / 19.5)


@pytest.mark.parametrize(
    ("gpu", "loss_in_halves", "seconds"),
    [
        ("a100", False, 44.33 / 312e3 + 1 / 19.5e3),
        ("a100", True, 44.33 / 312e3 + 3 / 156e3),
        ("h100", True, 44.33 / 989.4e3 + 3 / 494.7e3),
    ],
)
def test_estimate_throughput__the_loss_has_the_peak_of_its_own_precision(
    gpu: str, loss_in_halves: bool, seconds: float
) -> None:
    """A GFLOP of products in the loss; with TF32 halves three, on tensor cores."""
    time = planned(gpu, 0.5, loss_flops=10**9, loss_in_halves=loss_in_halves)
    assert 1 / time.samples_per_second_per_device == pytest.approx(2 * seconds)
    loss = seconds - 44.33 / {"a100": 312e3, "h100": 989.4e3}[gpu]
    assert time.loss_share == pytest.approx(loss / seconds)
    networks = 1 - time.loss_share
    assert time.hours_recomputed == pytest.approx(time.hours * (networks * 4 / 3 + time.loss_share))
