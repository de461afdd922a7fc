"""The command line without training."""

import json
import subprocess
import sys
import types
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kelip_lightning.cli import main, parse_arguments
from kelip_lightning.errors import StageInterrupted
from kelip_lightning.runs.folder import RunFolder
from tests.paths import ROOT

EXPERIMENT = "experiments/emoji/pretrain.yaml"


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A run folder that looks finished."""
    run = RunFolder.create(
        tmp_path / "run",
        config="evaluation: {retrieval: {a: {table: {files: [x], captions: {ko: k}}}}}\n",
        overrides=[],
        plan={},
    )
    run.dual_encoder.mkdir(parents=True)
    (run.dual_encoder / "model.safetensors").touch()
    return run.path


def replace_module(monkeypatch: pytest.MonkeyPatch, name: str, **functions: Any) -> None:
    """Replace a module that a verb imports with one of these functions."""
    module = types.ModuleType(name)
    module.__dict__.update(functions)
    monkeypatch.setitem(sys.modules, name, module)


def test_python_m_kelip_lightning() -> None:
    command = [sys.executable, "-m", "kelip_lightning", "mae", "nowhere.yaml"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"kelip {metadata.version('kelip-lightning')}\n"


def test_parse_arguments__overrides_around_options() -> None:
    arguments = parse_arguments(["evaluate", "runs/x", "--json", "file.yaml", "seed=1"])
    assert arguments.json
    assert arguments.overrides == ["file.yaml", "seed=1"]
    with pytest.raises(SystemExit):
        parse_arguments(["pretrain", "file.yaml", "--seed=1"])


def test_pretrain__three_mistakes_three_sentences(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    replace_module(monkeypatch, "kelip_lightning.training.stages", run_pretrain=None)
    assert main(["pretrain", EXPERIMENT, "mae.sed=1", "contrastive.seed=one", "schedule.warmup_steps=99999"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("kelip: 4 problems:")  # the warm-up steps are too many in either stage
    assert "mae.sed is not a known key; did you mean mae.seed?" in message
    assert "contrastive.seed = 'one' must be a whole number" in message
    assert "Traceback" not in message


def pretend_to_train(experiment: Any, run: RunFolder, opened: Any) -> dict[str, float]:
    """Replaces training."""
    assert [source.name for source in opened.sources["contrastive"]] == ["plain", "skin_tones"]
    assert run.read_status()["state"] == "running"
    stage = run.stage("contrastive")
    stage.checkpoints.mkdir(parents=True)
    if experiment.contrastive.seed == 1:
        (stage.checkpoints / "step=0000003").mkdir()
        raise StageInterrupted(stage.checkpoints / "step=0000003", 3, by_user=True)
    if experiment.contrastive.seed == 2:
        raise OSError(28, "No space left on device")
    return {"eval/known_ko/image_to_text_R@1": 0.5}


def test_pretrain__run_interruption_and_full_disk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    replace_module(monkeypatch, "kelip_lightning.training.stages", run_pretrain=pretend_to_train)

    def pretrain(name: str, *more: str) -> int:
        return main(["pretrain", EXPERIMENT, f"name={name}", f"output_dir={tmp_path}", "mae=null", *more])

    assert pretrain("whole") == 0
    assert "50.00 %" in capsys.readouterr().out
    assert RunFolder(tmp_path / "whole").read_status()["state"] == "finished"
    assert pretrain("whole") == 2
    assert "holds a finished run" in capsys.readouterr().err
    assert pretrain("stopped", "seed=1") == 130
    assert "step=0000003" in capsys.readouterr().err
    assert RunFolder(tmp_path / "stopped").read_status()["state"] == "interrupted"
    assert pretrain("full", "seed=2") == 1
    assert "the disk is full" in capsys.readouterr().err


def test_evaluate__table_json_and_sets(
    finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def evaluate_models(models: list[str], evaluation: Any, *_: Any) -> Any:
        asked.append(evaluation)
        one = SimpleNamespace(metrics={"eval/a_ko/image_to_text_R@1": 0.5}, tie_differences={})
        chance = {"eval/a_ko/image_to_text_R@1": 0.01}
        return SimpleNamespace(models=dict.fromkeys(models, one), chance=chance, notes=["3 left out"], missing={})

    replace_module(monkeypatch, "kelip_lightning.inference.evaluate", evaluate_models=evaluate_models)
    assert main(["evaluate", str(finished)]) == 0
    shown = capsys.readouterr().out
    assert "50.00 %" in shown and "3 left out" in shown
    assert main(["evaluate", str(finished), "--json", "evaluation.every_n_steps=7"]) == 0
    assert json.loads(capsys.readouterr().out)["chance"] == {"eval/a_ko/image_to_text_R@1": 0.01}
    assert list(asked[0].retrieval) == ["a"]
    assert asked[1].every_n_steps == 7
    monkeypatch.chdir(ROOT)
    assert main(["evaluate", str(finished), EXPERIMENT, "--json"]) == 0
    assert "unseen_design" in asked[2].retrieval
    assert main(["evaluate", str(finished), "experiments/emoji/mae.yaml"]) == 2


def test_predict(finished: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(_: str, image: Path, *__: Any) -> list[float]:
        assert image == Path("apple.png")
        return [0.25, 0.75]

    replace_module(monkeypatch, "kelip_lightning.inference.evaluate", predict=predict)
    assert main(["predict", str(finished), "apple.png", "--texts", "사과", "[a] pear"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "%" in line]
    assert ["[a] pear" in lines[0], "사과" in lines[1]] == [True, True]
    assert main(["predict", str(finished), "apple.png", "--json", "--texts", "사과", "b"]) == 0
    assert json.loads(capsys.readouterr().out) == {"사과": 0.25, "b": 0.75}


def test_evaluate__no_finished_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err
