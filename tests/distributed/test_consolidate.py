"""Runs of two processes under ZeRO: their checkpoints become one folder, equal to what the run itself exported."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kelip_lightning import build_model
from kelip_lightning.cli import main
from kelip_lightning.interchange.folder import load_model_folder
from kelip_lightning.runs.folder import RunFolder
from tests.distributed.launch import train_chain
from tests.faults.experiment import CONTRASTIVE_STEPS

pytest.importorskip("deepspeed", reason="needs the extra deepspeed")

pytestmark = [pytest.mark.slow, pytest.mark.distributed]
STAGES = (1, 2, 3)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, RunFolder]:
    """Stage of ZeRO -> a finished chain."""
    folder = tmp_path_factory.mktemp("runs")
    return {
        stage: train_chain(folder / f"zero-{stage}", f"deepspeed_stage_{stage}", "trainer.accumulate=2")
        for stage in STAGES
    }


@pytest.mark.parametrize("stage", STAGES)
def test_consolidate__equals_the_export_of_the_run(runs: dict[int, RunFolder], tmp_path: Path, stage: int) -> None:
    run = runs[stage]
    assert main(["consolidate", str(run.path), "--output", str(tmp_path / "weights")]) == 0
    found, exported = load_model_folder(tmp_path / "weights"), load_model_folder(run.dual_encoder)
    assert found.model.state_dict().keys() == exported.model.state_dict().keys()
    for name, value in exported.model.state_dict().items():
        torch.testing.assert_close(found.model.state_dict()[name], value, rtol=0, atol=0, msg=f"{name} differs")
    assert found.tokenizer is not None
    assert exported.tokenizer is not None
    assert found.tokenizer.to_json() == exported.tokenizer.to_json()


@pytest.mark.parametrize("stage", STAGES)
def test_consolidate__the_mae_stage_s_image_encoder(runs: dict[int, RunFolder], tmp_path: Path, stage: int) -> None:
    (checkpoint, *_) = sorted(runs[stage].stage("mae").checkpoints.glob("step=*"), reverse=True)
    assert main(["consolidate", str(checkpoint), "--output", str(tmp_path / "encoder")]) == 0
    found = load_file(tmp_path / "encoder" / "model.safetensors")
    exported = load_file(runs[stage].image_encoder / "model.safetensors")
    assert found.keys() == exported.keys()
    assert [name for name, value in exported.items() if not torch.equal(found[name], value)] == []


def test_consolidated_folder__serves_build_model_export_and_evaluate(
    runs: dict[int, RunFolder], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = runs[2]
    reported = json.loads(run.report.read_text(encoding="utf-8"))["metrics"]
    run.dual_encoder.rename(tmp_path / "of the run")  # as in a run that was cut off before its end
    assert main(["consolidate", str(run.path)]) == 0
    model, _, tokenizer = build_model(str(run.dual_encoder))
    features = model.encode_text(tokenizer.encode(["그림 1", "picture 1"]))
    assert features.shape == (2, 8)
    assert main(["export", str(run.dual_encoder), "--format", "open_clip", "--output", str(tmp_path / "exported")]) == 0
    assert (tmp_path / "exported" / "open_clip_model.safetensors").is_file()
    capsys.readouterr()
    assert main(["evaluate", str(run.path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["models"][str(run.path)]["metrics"] == pytest.approx(reported)


def test_damaged_checkpoint__the_one_before_it_is_consolidated(runs: dict[int, RunFolder], tmp_path: Path) -> None:
    newest, before = sorted(runs[1].stage("contrastive").checkpoints.glob("step=*"), reverse=True)
    assert newest.name == f"step={CONTRASTIVE_STEPS:07d}"
    piece = max((newest / "state.ckpt").rglob("*.pt"), key=lambda file: file.stat().st_size)
    piece.write_bytes(piece.read_bytes()[:-1])
    assert main(["consolidate", str(newest), "--output", str(tmp_path / "refused")]) == 2
    assert main(["consolidate", str(runs[1].path), "--output", str(tmp_path / "weights")]) == 0
    assert f"checkpoints/{before.name}/" in (tmp_path / "weights" / "README.md").read_text(encoding="utf-8")


def test_stages__train_the_same_model(runs: dict[int, RunFolder]) -> None:
    """Which parts of the state the ranks share out changes no number but by rounding."""
    expected = load_file(runs[1].image_encoder / "model.safetensors")
    for stage, run in runs.items():
        found = load_file(run.image_encoder / "model.safetensors")
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, rtol=1e-4, atol=1e-5, msg=f"{name} differs in stage {stage}")
