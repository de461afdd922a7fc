"""Every verb takes paths relative to the working directory, which may be any folder of a run."""

import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kelip_lightning.cli import main
from tests.faults.experiment import CONTRASTIVE_STEPS, SAVE_EVERY, write_experiment
from tests.faults.runner import kelip

NEWEST = f"step={CONTRASTIVE_STEPS:07d}"
EARLIER = f"step={CONTRASTIVE_STEPS // SAVE_EVERY * SAVE_EVERY:07d}"
CHECKPOINTS = "runs/tiny/contrastive/checkpoints"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished chain in runs/tiny."""
    folder = tmp_path_factory.mktemp("trained")
    done = kelip("pretrain", str(write_experiment(folder)), f"output_dir={folder / 'runs'}", log=folder / "log")
    assert done.exit_codes == [0], done.output
    return folder


@pytest.fixture
def place(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the working directory."""
    folder = tmp_path / "place"
    shutil.copytree(trained, folder)
    monkeypatch.chdir(folder)
    return folder


def consolidated(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("cwd", "path"),
    [
        (".", "runs/tiny"),
        (".", f"{CHECKPOINTS}/{NEWEST}"),
        (".", f"{CHECKPOINTS}/{NEWEST}/state.ckpt"),
        ("runs/tiny", "."),
        ("runs/tiny/mae", ".."),
        (CHECKPOINTS, NEWEST),
        (f"{CHECKPOINTS}/{NEWEST}", "."),
        (f"{CHECKPOINTS}/{NEWEST}", "state.ckpt"),
        (f"{CHECKPOINTS}/{EARLIER}", f"../{NEWEST}"),
    ],
)
def test_consolidate(place: Path, monkeypatch: pytest.MonkeyPatch, cwd: str, path: str) -> None:
    exported = consolidated(place / "runs/tiny/contrastive/dual_encoder")
    monkeypatch.chdir(place / cwd)
    assert main(["consolidate", path, "--output", "weights"]) == 0
    found = consolidated(place / cwd / "weights")
    assert found.keys() == exported.keys()
    assert all(torch.equal(found[name], value) for name, value in exported.items())
    card = (place / cwd / "weights" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# tiny: contrastive")
    assert f"consolidated from contrastive/checkpoints/{NEWEST}/state.ckpt" in card


def test_consolidate__without_an_output_it_goes_to_the_run_s_own_place(place: Path) -> None:
    own = place / "runs/tiny/contrastive/dual_encoder"
    own.rename("of the run")
    assert main(["consolidate", "runs/tiny"]) == 0
    assert (own / "model.safetensors").read_bytes() == Path("of the run/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("cwd", "path"),
    [
        (".", f"{CHECKPOINTS}/{EARLIER}"),
        (CHECKPOINTS, EARLIER),
        ("runs/tiny/contrastive", f"checkpoints/{EARLIER}"),
        ("runs/tiny", f"contrastive/checkpoints/{EARLIER}"),
        (f"{CHECKPOINTS}/{EARLIER}", "."),
        ("runs/tiny", "."),
        ("runs/tiny/contrastive", ".."),
    ],
)
def test_resume(place: Path, cwd: str, path: str) -> None:
    overrides = [f"output_dir={place / 'runs'}"]
    if path not in (".", "..") or cwd.startswith(CHECKPOINTS):
        (place / "runs/tiny/report.json").unlink()  # back to an earlier point of a run that has not finished
    # A process of its own: training leaves traces in one.
    done = kelip(
        *("pretrain", str(place / "pretrain.yaml"), *overrides, "--resume", path),
        log=place / "resumed",
        cwd=place / cwd,
    )
    assert done.exit_codes == [0], done.output
    steps = re.findall(r"contrastive resumes after step (\d+)", done.output)
    finished = "has finished already" in done.output
    assert (steps, finished) in [([str(int(EARLIER[5:]))], False), ([], True)]
    assert finished == (not steps)


@pytest.mark.parametrize(
    ("cwd", "run"), [(".", "runs/tiny"), ("runs", "tiny"), ("runs/tiny", "."), ("runs/tiny/mae", "..")]
)
def test_evaluate_and_export(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], cwd: str, run: str
) -> None:
    monkeypatch.chdir(place / cwd)
    assert main(["evaluate", run]) == 0
    assert capsys.readouterr().out.lstrip().startswith("tiny"), "the title of the table"
    assert main(["export", run, "--format", "open_clip", "--output", "exported"]) == 0
    assert (place / cwd / "exported" / "open_clip_model.safetensors").is_file()
    assert (place / cwd / "exported" / "README.md").read_text(encoding="utf-8").count("\n# tiny: contrastive") == 1


def test_export__into_the_empty_working_directory(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "empty").mkdir()
    monkeypatch.chdir(place / "empty")
    assert main(["export", "../runs/tiny", "--format", "transformers", "--output", "."]) == 0
    assert "model.safetensors" in capsys.readouterr().out
    assert (place / "empty" / "model.safetensors").is_file()
