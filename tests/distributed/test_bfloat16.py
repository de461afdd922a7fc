"""Every strategy trains in bfloat16 what it trains in float32, but for the shorter numbers."""

from pathlib import Path

import pytest

from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.runs.metrics_file import read_metrics
from tests.distributed.launch import train_chain

pytestmark = [pytest.mark.slow, pytest.mark.distributed]

WAYS = [
    ("ddp", "bf16-mixed", 0.03),
    ("ddp", "bf16-true", 0.1),
    ("deepspeed_stage_1", "bf16-mixed", 0.03),
    ("deepspeed_stage_2", "bf16-mixed", 0.03),
    ("deepspeed_stage_3", "bf16-mixed", 0.03),
]


def losses(run: RunFolder) -> list[float]:
    """Of every step of both stages."""
    return [line[key] for line in read_metrics(run.metrics) if (key := f"{line['stage']}/loss") in line]


@pytest.fixture(scope="module")
def in_float32(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    return losses(train_chain(tmp_path_factory.mktemp("float32") / "run", "ddp"))


@pytest.mark.parametrize(("strategy", "precision", "tolerance"), WAYS)
def test_bfloat16__losses_are_near_those_of_float32(
    in_float32: list[float], tmp_path: Path, strategy: str, precision: str, tolerance: float
) -> None:
    if strategy != "ddp":
        pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    found = losses(train_chain(tmp_path / "run", strategy, f"trainer.precision={precision}"))
    assert found == pytest.approx(in_float32, rel=tolerance)
    assert found != in_float32
