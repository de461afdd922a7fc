"""Runs of two processes under ZeRO: their checkpoints become one folder, equal to what the run itself exported."""

from pathlib import Path

import pytest
import torch

from kelip_lightning.cli import main
from kelip_lightning.models.dual_encoder_file import load_dual_encoder
from kelip_lightning.run_folder import RunFolder
from tests.distributed.zero_runs import train_each_stage

pytest.importorskip("deepspeed", reason="needs the extra deepspeed")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    train_each_stage(folder)
    return folder


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.parametrize("stage", [1, 2, 3])
def test_consolidate__equals_the_export_of_the_run(runs: Path, tmp_path: Path, stage: int) -> None:
    run = RunFolder(runs / f"zero-{stage}")
    assert main(["consolidate", str(run.path), "--output", str(tmp_path / "weights")]) == 0
    found, exported = load_dual_encoder(tmp_path / "weights"), load_dual_encoder(run.dual_encoder)
    assert found.model.state_dict().keys() == exported.model.state_dict().keys()
    for name, value in exported.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, msg=f"{name} differs")
    assert found.tokenizer.to_json() == exported.tokenizer.to_json()


@pytest.mark.slow
@pytest.mark.distributed
def test_stages__train_the_same_model(runs: Path) -> None:
    """Which parts of the state the ranks share out changes no number but by rounding."""
    folders = [RunFolder(runs / f"zero-{stage}").dual_encoder for stage in (1, 2, 3)]
    states = [load_dual_encoder(folder).model.state_dict() for folder in folders]
    for other in states[1:]:
        for name, value in states[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5, msg=f"{name} differs")
