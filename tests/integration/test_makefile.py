"""The Makefile: every target exists where it is documented, and runs its command (`make -n`)."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT

COMMANDS = {
    "help": "awk",
    "pretrain": ".venv/bin/kelip pretrain experiments/emoji/pretrain.yaml seed=1",
    "demo": " experiments/emoji/contrastive.yaml --set unseen_design seed=1",
    "tensorboard": ".venv/bin/tensorboard --logdir runs seed=1",
    "mae-study": ".venv/bin/kelip compare scratch=runs/mae-study/scratch-0,",
    "ablations": ".venv/bin/kelip ablate $study --resume seed=1",
    "ablation-schemes": ".venv/bin/kelip ablate experiments/ablations/training_schemes.yaml --resume seed=1",
    "ablation-augmentation": ".venv/bin/kelip ablate experiments/ablations/augmentation.yaml --resume seed=1",
    "ablation-cross-lingual": ".venv/bin/kelip ablate experiments/ablations/cross_lingual.yaml --resume seed=1",
    "dashboard-screenshot": ".venv/bin/python -m tests.dashboard.screenshot --logdir runs",
    "benchmark": ".venv/bin/kelip benchmark step --output runs/benchmarks seed=1",
    "benchmark-store": ".venv/bin/kelip benchmark store --output runs/benchmarks seed=1",
    "benchmark-data": ".venv/bin/kelip benchmark data --output runs/benchmarks seed=1",
    "benchmark-evaluation": ".venv/bin/kelip benchmark evaluation --output runs/benchmarks seed=1",
    "gpu-report": ".venv/bin/kelip benchmark gpu --output runs/gpu-report seed=1",
    "test": ".venv/bin/python -m pytest -n 2 seed=1",
    "test-slow": ".venv/bin/python -m pytest -n 2 -m slow seed=1",
    "test-cluster": ".venv/bin/python -m pytest -m cluster -n 4 --dist loadfile tests/cluster seed=1",
    "gradient-certificate": ".venv/bin/python -m tests.distributed.certificate seed=1",
    "benchmark-loss": ".venv/bin/kelip benchmark loss --output runs/benchmarks seed=1",
    "lint": ".venv/bin/ruff format --check .",
    "format": ".venv/bin/ruff format .",
    "emoji-corpus": ".venv-corpus/bin/python -m data_modules.emoji.build seed=1",
    "shipped-model": "--format open_clip --dtype float16",
    "clean": "rm -rf build dist",
    "clean-venv": "rm -rf .venv .venv-corpus",
}
"""Target -> a part of what it runs with ARGS=seed=1."""

DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "experiments/README.md",
    *(f"docs/{one.name}" for one in sorted((ROOT / "docs").glob("*.md"))),
]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def _make(*arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run make without the variables of an outer `make test`."""
    clean = {
        key: value
        for key, value in os.environ.items()
        if key not in {"ARGS", "PYTHON", "WORKERS"} and not key.startswith(("MAKE", "MFLAGS"))
    }
    return subprocess.run(
        ["make", *arguments], cwd=folder, env=clean, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A copy of the Makefile in which everything is installed."""
    folder = tmp_path / "a clone with spaces"
    (folder / ".venv").mkdir(parents=True)
    for name in ("Makefile", "setup.cfg", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    for name in (".python", ".base"):
        (folder / ".venv" / name).touch()
    return folder


def test_help__is_the_default_and_lists_every_target() -> None:
    answer = _make()
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == _make("help").stdout
    assert set(re.findall(r"^  ([a-z][a-z-]*) +\S", answer.stdout, re.MULTILINE)) == set(COMMANDS)


@pytest.mark.parametrize("target", COMMANDS)
def test_target__runs_its_command(target: str) -> None:
    answer = _make("-n", target, "ARGS=seed=1")
    assert answer.returncode == 0, answer.stderr
    assert COMMANDS[target] in answer.stdout


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents__name_only_targets_that_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^\s*\$? ?|`)make ([a-z][a-z-]*)", text, re.MULTILINE))
    assert named <= set(COMMANDS)
    assert named or document.startswith("docs/")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents__name_only_tests_that_exist(document: str) -> None:
    selected = re.findall(r"-k '?([a-z0-9_]+(?: or [a-z0-9_]+)*)", (ROOT / document).read_text(encoding="utf-8"))
    tests = [(path, path.read_text(encoding="utf-8")) for path in (ROOT / "tests").rglob("test_*.py")]
    names = [str(path.relative_to(ROOT)) for path, _ in tests]
    names += [name for _, text in tests for name in re.findall(r"def (test_\w+)", text)]
    for keyword in {one for expression in selected for one in expression.split(" or ")}:
        assert any(keyword in name for name in names), keyword


def test_clean__leaves_runs_and_the_environment_alone() -> None:
    removals = _make("-n", "clean").stdout
    assert "runs" not in removals
    assert ".venv" not in removals


@pytest.mark.parametrize(("newer", "is_due"), [(None, False), ("setup.cfg", True), (".venv/.unfinished", True)])
def test_installation__only_when_requirements_changed_or_it_was_interrupted(
    clone: Path, newer: str | None, is_due: bool
) -> None:
    if newer is not None:
        installed = (clone / ".venv" / ".base").stat().st_mtime
        (clone / newer).touch()
        os.utime(clone / newer, (installed + 1, installed + 1))
    commands = _make("-n", "pretrain", folder=clone).stdout
    assert ("-m pip install" in commands) is is_due
    assert "kelip pretrain" in commands


def test_installation__refuses_an_old_python(clone: Path) -> None:
    shutil.rmtree(clone / ".venv")
    answer = _make("pretrain", "PYTHON=false", folder=clone)
    assert answer.returncode != 0
    assert "Python 3.11 or newer is needed" in answer.stderr
    assert not (clone / ".venv").exists()
