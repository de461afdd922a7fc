"""`kelip pretrain --mae-from RUN`: MAE pre-training of another run, copied instead of trained again."""

import json
import shutil
from pathlib import Path

import pytest

from data_modules.json_lines import read_json_lines
from kelip_lightning.cli import main
from kelip_lightning.models.model_folder import WEIGHTS
from kelip_lightning.runs.metrics_file import lines_of_stage
from kelip_lightning.training import stages
from tests.integration.test_chain import EXPERIMENT, SMALL

TINY = [*SMALL, "contrastive.evaluation.every_n_steps=null"]


def _pretrain(folder: Path, name: str, *words: str) -> int:
    return main(["pretrain", EXPERIMENT, f"output_dir={folder}", f"name={name}", *TINY, *words])


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    assert _pretrain(folder, "source") == 0
    return folder / "source"


@pytest.fixture
def _no_mae(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("MAE pre-training is trained again")

    monkeypatch.setattr(stages, "run_masked_pretrain", refuse)


def test_mae_from__gives_the_weights_of_a_run_that_trains_its_own(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = ["contrastive.schedule.max_steps=5", "contrastive.transform.num_local_crops=0"]
    assert _pretrain(tmp_path, "own", *other) == 0
    with monkeypatch.context() as patch:
        patch.setattr(stages, "run_masked_pretrain", None)  # calling it would fail
        assert _pretrain(tmp_path, "copied", *other, "--mae-from", str(source)) == 0
    own, copied = tmp_path / "own", tmp_path / "copied"
    for exported in ("mae/image_encoder", "contrastive/dual_encoder"):
        assert (copied / exported / WEIGHTS).read_bytes() == (own / exported / WEIGHTS).read_bytes()
    for stage in ("mae", "contrastive"):
        losses = [
            [
                (one["step"], one[f"{stage}/loss"])
                for one in read_json_lines(run / "metrics.jsonl")
                if f"{stage}/loss" in one
            ]
            for run in (own, copied)
        ]
        assert losses[0] and losses[0] == losses[1]
    assert lines_of_stage(copied / "metrics.jsonl", "mae") == lines_of_stage(source / "metrics.jsonl", "mae")
    assert not (copied / "mae" / "checkpoints").exists() and not (copied / "mae.partial").exists()
    assert json.loads((copied / "mae" / "reused.json").read_text())["run"] == str(source)
    assert {file.name for file in (own / "mae").iterdir()} - {"checkpoints"} <= {
        file.name if not file.name.startswith("events") else next((own / "mae").glob("events*")).name
        for file in (copied / "mae").iterdir()
    }


@pytest.mark.usefixtures("_no_mae")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["mae.masked_autoencoder.mask_ratio=0.5"], "had other settings (masked_autoencoder.mask_ratio: 0.75 -> 0.5)"),
        (["seed=1"], "had other settings (seed: 0 -> 1)"),
        (["mae=null"], "this experiment has no MAE pre-training (mae is null); leave it out"),
    ],
)
def test_mae_from__refuses_another_mae_pretraining(
    source: Path, tmp_path: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _pretrain(tmp_path, "other", *words, "--mae-from", str(source)) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("_no_mae")
def test_mae_from__refuses_a_run_that_is_missing_unfinished_or_of_other_data(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _pretrain(tmp_path, "other", "--mae-from", str(tmp_path / "none")) == 2
    assert f"{tmp_path / 'none'}: no run folder" in capsys.readouterr().err

    changed = shutil.copytree(source, tmp_path / "changed")
    record = json.loads((changed / "data.json").read_text(encoding="utf-8"))
    next(iter(record["sources"]["mae"].values()))["num_samples"] -= 1
    (changed / "data.json").write_text(json.dumps(record), encoding="utf-8")
    assert _pretrain(tmp_path, "other", "--mae-from", str(changed)) == 2
    assert "its MAE pre-training saw other data (source " in capsys.readouterr().err

    (changed / "mae" / "image_encoder" / WEIGHTS).unlink()
    assert _pretrain(tmp_path, "other", "--mae-from", str(changed)) == 2
    assert "this run has not finished MAE pre-training" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("_no_mae")
def test_mae_from__warns_of_another_revision_and_takes_a_run_of_mae_alone(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alone = shutil.copytree(source, tmp_path / "alone")
    environment = json.loads((alone / "environment.json").read_text(encoding="utf-8"))
    (alone / "environment.json").write_text(json.dumps(environment | {"code": "0123456789ab"}), encoding="utf-8")
    shutil.rmtree(alone / "contrastive")
    assert _pretrain(tmp_path, "copied", "--mae-from", str(alone)) == 0
    assert any("trained by another revision of the code (code 0123456789ab" in one for one in caplog.messages)
    assert json.loads((tmp_path / "copied" / "mae" / "reused.json").read_text())["code"] == "0123456789ab"


def test_mae_from__is_not_used_by_a_run_that_has_begun_its_own(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    begun = shutil.copytree(source, tmp_path / "begun")
    for gone in ("mae/image_encoder", "mae/checkpoints", "contrastive"):
        shutil.rmtree(begun / gone)
    (begun / "report.json").unlink()
    (begun / "status.json").unlink()
    assert _pretrain(tmp_path, "begun", "--resume", "auto", "--mae-from", str(source)) == 0
    assert f"{begun} has begun MAE pre-training already: --mae-from is not used" in caplog.messages
    assert not (begun / "mae" / "reused.json").exists()
    exported = "mae/image_encoder"
    assert (begun / exported / WEIGHTS).read_bytes() == (source / exported / WEIGHTS).read_bytes()
