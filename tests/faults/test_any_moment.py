"""A scheduler's signal at any moment of a run's life, from its first line to its last, has the documented exit code."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.faults.experiment import write_experiment
from tests.paths import ROOT

pytestmark = pytest.mark.distributed

SECONDS = 120
FIRST_LINE = 0.15
"""Seconds in which Python itself starts: a signal before its first line kills, and nothing inside can prevent that."""


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "kelip_lightning", "contrastive", str(folder / "run.yaml"), *words]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=folder
    )


@pytest.fixture
def experiment(tmp_path: Path) -> Path:
    """Contrastive training alone, of a few steps, with a loader process."""
    import yaml

    whole = yaml.safe_load(write_experiment(tmp_path).read_text(encoding="utf-8"))
    content = whole["contrastive"] | {"name": "tiny", "output_dir": str(tmp_path)}
    content["data"]["num_workers"] = 1
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return tmp_path


def stop_after(folder: Path, seconds: float, number: signal.Signals) -> tuple[int, str]:
    process = start(folder, "--resume", "auto")
    time.sleep(seconds)
    process.send_signal(number)
    output, _ = process.communicate(timeout=SECONDS)
    return process.returncode, output


def assert_ends_in_order(folder: Path, code: int, output: str, seconds: float) -> None:
    has_finished = (folder / "tiny" / "report.json").is_file()
    assert code == 75 or (code == 0 and has_finished), f"{code} after {seconds:.2f} s:\n{output}"
    assert "Traceback" not in output, f"after {seconds:.2f} s:\n{output}"


def test_during_imports(experiment: Path) -> None:
    for seconds, number in ((0.3, signal.SIGTERM), (0.4, signal.SIGUSR1), (0.5, signal.SIGTERM)):
        code, output = stop_after(experiment, seconds, number)
        assert (code, output) == (75, f"kelip: {number.name} received before training\n"), f"after {seconds} s"
        assert not (experiment / "tiny").exists()


def test_after_the_result__the_process_ends_as_if_nothing_had_come(experiment: Path) -> None:
    process = start(experiment)
    report = experiment / "tiny" / "status.json"
    deadline = time.monotonic() + SECONDS
    while not (report.is_file() and '"finished"' in report.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline
        time.sleep(0.002)
    while process.poll() is None:  # through the last prints and the end of the interpreter
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    output, _ = process.communicate(timeout=SECONDS)
    assert process.returncode == 0, output
    assert "Traceback" not in output


def test_ctrl_c_during_imports(experiment: Path) -> None:
    code, output = stop_after(experiment, 0.8, signal.SIGINT)
    assert code == 130, output
    assert "Traceback" not in output


@pytest.mark.slow
def test_at_moments_of_the_whole_life__and_resumed_to_the_end(experiment: Path) -> None:
    begun = time.monotonic()
    process = start(experiment, "name=measured")
    process.communicate(timeout=SECONDS)
    life = time.monotonic() - begun
    moments = [FIRST_LINE + (life - FIRST_LINE) * place / 24 for place in range(25)]
    for place, seconds in enumerate(moments):
        code, output = stop_after(experiment, seconds, (signal.SIGTERM, signal.SIGUSR1)[place % 2])
        assert_ends_in_order(experiment, code, output, seconds)
    final = start(experiment, "--resume", "auto")
    output, _ = final.communicate(timeout=SECONDS)
    assert final.returncode == 0, output
