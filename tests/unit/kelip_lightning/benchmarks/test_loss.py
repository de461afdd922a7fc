"""The cases of the loss benchmark compute one loss, and their memory differs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kelip_lightning.benchmarks import loss
from kelip_lightning.benchmarks.loss import (
    AUTOGRAD,
    WHOLE,
    LossCost,
    LossSetting,
    loss_of,
    measure,
    random_features,
    run_loss_benchmark,
    write_loss_report,
)
from kelip_lightning.losses.config import MatmulPrecision

CPU = torch.device("cpu")


def _info_nce(image: np.ndarray, text: np.ndarray, all_image: np.ndarray, all_text: np.ndarray, scale: float) -> float:
    """The mean over local pairs of both cross-entropies."""
    total = 0.0
    for query, keys in ((image, all_text), (text, all_image)):
        logits = scale * query @ keys.T
        own = logits[np.arange(len(query)), np.arange(len(query))]
        total += float((np.log(np.exp(logits).sum(axis=1)) - own).mean()) / 2
    return total


@pytest.mark.parametrize("case", [AUTOGRAD, WHOLE, "5"])
def test_loss_of__is_info_nce_with_equal_gradients(case: str) -> None:
    features, reference = random_features(8, 24, 6, CPU), random_features(8, 24, 6, CPU)
    arrays = [one.detach().double().numpy() for one in features]
    value = loss_of(features, case, MatmulPrecision.float32)
    assert value.item() == pytest.approx(_info_nce(*arrays[:4], scale=float(arrays[4][0])), rel=1e-5)
    value.backward()
    loss_of(reference, AUTOGRAD, MatmulPrecision.float32).backward()
    for found, expected in zip(features, reference, strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux resets the peak of a process")
def test_measure__chunks_take_less_memory_than_autograd() -> None:
    """A matrix of 256 x 32,768 float32 logits takes 32 MiB, which autograd holds several times."""
    setting = LossSetting(local=256, total=32_768, width=16)
    plain, chunked = measure(AUTOGRAD, setting), measure("256", setting)
    assert plain.peak_mebibytes is not None and chunked.peak_mebibytes is not None
    assert plain.peak_mebibytes > 60 and chunked.peak_mebibytes < 32
    assert plain.gradient_mebibytes == 2 * (256 + 32_768) * 16 * 4 / 2**20
    assert (plain.name, chunked.name) == ("plain autograd", "chunks of 256")
    assert plain.seconds > 0


def test_run_loss_benchmark__one_process_of_one_thread_per_case(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []

    def pretend(threads: int, work: object, case: str, setting: LossSetting) -> LossCost:
        assert work is measure and setting.local == 8
        asked.append((threads, case))
        return LossCost(name=case, peak_mebibytes=1.0, gradient_mebibytes=0.5, seconds=2.0)

    monkeypatch.setattr(loss, "in_fresh_process", pretend)
    lines: list[str] = []
    costs = run_loss_benchmark(LossSetting(local=8, chunks=[4, 6]), lines.append)
    assert asked == [(1, AUTOGRAD), (1, WHOLE), (1, "4"), (1, "6")]
    assert [one.name for one in costs] == [AUTOGRAD, WHOLE, "4", "6"]
    assert lines[2] == "4: 2.00 s"


def test_write_loss_report(tmp_path: Path) -> None:
    setting = LossSetting(precision=MatmulPrecision.tf32x3)
    costs = [LossCost(name="whole matrix", peak_mebibytes=3.0, gradient_mebibytes=1.0, seconds=2.0)]
    numbers, plot = write_loss_report(setting, costs, tmp_path)
    written = json.loads(numbers.read_text(encoding="utf-8"))
    assert (written["setting"]["precision"], written["cases"][0]["peak_mebibytes"]) == ("tf32x3", 3.0)
    assert "cpu" in written["environment"]
    assert plot.stat().st_size > 1000


def test_write_loss_report__no_plot_without_known_memory(tmp_path: Path) -> None:
    costs = [LossCost(name="whole matrix", peak_mebibytes=None, gradient_mebibytes=1.0, seconds=2.0)]
    assert [file.name for file in write_loss_report(LossSetting(), costs, tmp_path)] == ["loss.json"]


@pytest.mark.parametrize("options", [{"local": 7}, {"width": 0}, {"local": 64, "total": 32}])
def test_loss_setting__refuses_sizes_that_do_not_fit(options: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be at least"):
        LossSetting(**options)
