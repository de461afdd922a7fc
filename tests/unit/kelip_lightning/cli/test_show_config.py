"""`kelip show-config`."""

from pathlib import Path

import pytest

from kelip_lightning.cli import main
from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.load import load_experiment
from tests.paths import ROOT

EXPERIMENT = ROOT / "experiments" / "emoji" / "pretrain.yaml"


def test_show_config__prints_yaml_that_can_be_run_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show-config", str(EXPERIMENT), "seed=5"]) == 0
    shown = capsys.readouterr().out
    file = tmp_path / "shown.yaml"
    file.write_text(shown, encoding="utf-8")
    again = load_experiment(file, [], PretrainExperiment).experiment
    assert again == load_experiment(EXPERIMENT, ["seed=5"], PretrainExperiment).experiment


@pytest.mark.parametrize(
    ("overrides", "changes"), [(["seed=5"], ["mae.seed: 0 -> 5", "contrastive.seed: 0 -> 5"]), ([], ["none"])]
)
def test_show_config__ends_with_the_changes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], changes: list[str]
) -> None:
    file = tmp_path / "whole.yaml"
    file.write_text(load_experiment(EXPERIMENT, [], PretrainExperiment).resolved, encoding="utf-8")
    assert main(["show-config", str(file), *overrides]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"# PretrainExperiment from {file}"
    head = lines.index("# changes against what the file extends, or against the file itself:")
    assert lines[head + 1 :] == [f"#   {change}" for change in changes]


@pytest.mark.parametrize("verb", ["show-config", "plan"])
def test_resume__is_refused_where_nothing_is_trained(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, str(ROOT / "experiments" / "emoji" / "mae.yaml"), "--resume", "auto"])
    assert ended.value.code == 2
    assert "unrecognized arguments: --resume" in capsys.readouterr().err
