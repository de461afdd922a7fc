"""MAE pre-training that several runs of a study have in common is trained once for each seed."""

import shlex
import sys
from pathlib import Path

import pytest
import yaml

from kelip_lightning.ablations import execution
from kelip_lightning.ablations.execution import execute, write_array
from kelip_lightning.ablations.pool import find_folder
from kelip_lightning.ablations.shared_mae import SharedMae
from kelip_lightning.ablations.study import Choice, PlannedRun, Study, open_study
from tests.paths import ROOT

STUDY = {
    "question": "Which one?",
    "paper": "Not known.",
    "reference": "scratch",
    "seeds": 2,
    "variants": {
        "scratch": {"about": "no MAE pre-training", "overrides": ["mae=null"]},
        "plain": {"about": "the base"},
        "longer": {"about": "more steps", "overrides": ["contrastive.schedule.max_steps=1600"]},
        "wide_mask": {"about": "another mask", "overrides": ["mae.masked_autoencoder.mask_ratio=0.5"]},
        "warm": {"about": "less decay", "overrides": ["contrastive.optimizer.weight_decay=0.01"]},
    },
    "scales": {
        "emoji": {
            "base": str(ROOT / "experiments" / "emoji" / "pretrain.yaml"),
            "metrics": ["eval/unseen_design_ko/image_to_text_R@1"],
        }
    },
}
# Replaces the command line: "trains" MAE for a moment, unless it copies, and finishes; seed 1 of plain fails before.
PROGRAM = """
import json, pathlib, sys, time
values = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
folder = pathlib.Path(values["output_dir"], values["name"])
(folder / "mae" / "image_encoder").mkdir(parents=True)
(folder / "call.txt").write_text(json.dumps(sys.argv[1:]))
time.sleep(0.5)
if values["name"].startswith("plain-1"):
    sys.exit("the loss is not finite")
if values.get("mae") != "null":
    (folder / "mae" / "image_encoder" / "model.safetensors").touch()
(folder / "report.json").write_text("{}")
(folder / "status.json").write_text(json.dumps({"state": "finished"}))
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    (tmp_path / "program.py").write_text(PROGRAM, encoding="utf-8")
    monkeypatch.setattr(execution, "PROGRAM", (sys.executable, str(tmp_path / "program.py")))
    file = tmp_path / "shared.yaml"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False), encoding="utf-8")
    return open_study(file, Choice(output=tmp_path / "out"), on_this_machine=False)


def _run(study: Study, variant: str, seed: int) -> PlannedRun:
    return next(run for run in study.runs if (run.variant, run.seed) == (variant, seed))


def _sources(study: Study) -> dict[tuple[str, int], str | None]:
    """(Variant, seed) -> the start of the name of the run whose MAE pre-training it was told to copy."""
    found: dict[tuple[str, int], str | None] = {}
    for run in study.runs:
        words = yaml.safe_load((find_folder(study.pool, run).path / "call.txt").read_text())
        path = Path(words[words.index("--mae-from") + 1]) if "--mae-from" in words else None
        found[run.variant, run.seed] = None if path is None else path.name.rpartition("-")[0]
    return found


@pytest.mark.parametrize("jobs", [1, 4])
def test_execute__trains_what_is_shared_once_for_each_seed(study: Study, jobs: int) -> None:
    lines: list[str] = []
    (failure,) = execute(study, study.runs, jobs, lines.append)
    assert (failure.run.variant, failure.run.seed) == ("plain", 1)
    expected = dict.fromkeys(((run.variant, run.seed) for run in study.runs), None)
    expected |= {
        ("longer", 0): "plain-0",
        ("warm", 0): "plain-0",
    }  # of seed 1 the source has failed: each trains its own
    assert _sources(study) == expected


def test_finished_source__of_an_earlier_execution_but_not_of_a_run_that_has_begun(study: Study) -> None:
    longer, warm = _run(study, "longer", 0), _run(study, "warm", 0)
    folder = find_folder(study.pool, longer).path / "mae" / "image_encoder"
    folder.mkdir(parents=True)
    assert SharedMae(study.pool, study.runs, [warm]).finished_source(warm) is None, "not finished yet"
    (folder / "model.safetensors").touch()
    shared = SharedMae(study.pool, study.runs, [warm])
    source = shared.finished_source(warm)
    assert source is not None and source.path == folder.parents[1]
    assert shared.wait_for_source(_run(study, "warm", 1), lambda: False) is None, "another seed"
    assert shared.finished_source(_run(study, "wide_mask", 0)) is None
    assert shared.finished_source(_run(study, "scratch", 0)) is None
    (find_folder(study.pool, warm).path / "mae").mkdir(parents=True)
    assert shared.finished_source(warm) is None


def test_wait_for_source__ends_on_an_interruption(study: Study) -> None:
    shared = SharedMae(study.pool, study.runs, study.runs)
    answers = iter([False, True])
    assert shared.wait_for_source(_run(study, "longer", 0), lambda: next(answers)) is None


def test_write_array__copies_from_runs_that_have_finished(study: Study) -> None:
    folder = find_folder(study.pool, _run(study, "plain", 0)).path / "mae" / "image_encoder"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").touch()
    write_array(study, [_run(study, name, seed) for name in ("longer", "scratch") for seed in (0, 1)])
    lines = [shlex.split(line) for line in (study.folder / "runs.txt").read_text(encoding="utf-8").splitlines()]
    assert lines[0][-2:] == ["--mae-from", str(folder.parents[1])]
    assert not any("--mae-from" in line for line in lines[1:])
