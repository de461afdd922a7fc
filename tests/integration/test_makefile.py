"""The Makefile, dry (`make -n`) and with a Python that only notes what it is asked to do."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT

TARGETS = (
    "help",
    "pretrain",
    "tensorboard",
    "mae-study",
    "ablations",
    "ablation-schemes",
    "ablation-augmentation",
    "ablation-cross-lingual",
    "dashboard-screenshot",
    "test",
    "test-slow",
    "lint",
    "format",
    "emoji-corpus",
    "clean",
    "clean-venv",
)

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

RECORDING_PYTHON = """#!/bin/sh
echo "$@" >> "{log}"
case "$*" in
  *version_info*) exit "${{STUB_OLD:-0}}" ;;
  *ensurepip*) exit "${{STUB_NO_VENV:-0}}" ;;
  "-m venv"*) for folder; do :; done; rm -rf "$folder"; mkdir -p "$folder/bin"; cp "$0" "$folder/bin/python"
              printf '#!/bin/sh\\necho kelip "$@" >> "{log}"\\n' > "$folder/bin/kelip"
              chmod +x "$folder/bin/kelip" ;;
  "-m pip"*) [ -z "$STUB_PIP_KILLS" ] || kill -TERM $PPID
             exit "${{STUB_PIP:-0}}" ;;
esac
"""


def _make(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make without what an outer `make test` hands down."""
    inherited = {key: value for key, value in os.environ.items() if key not in {"ARGS", "PYTHON", "WORKERS"}}
    clean = {key: value for key, value in inherited.items() if not key.startswith(("MAKE", "MFLAGS"))}
    command = ["make", *arguments]
    return subprocess.run(
        command, cwd=folder, env=clean | environment, capture_output=True, text=True, timeout=60, check=False
    )


class Clone:
    """A copy of the Makefile in a folder of its own, with a Python that writes down its arguments."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        for name in ("Makefile", "setup.cfg", "pyproject.toml"):
            shutil.copy(ROOT / name, folder / name)
        self.folder = folder
        self.log = folder / "log.txt"
        self.python = folder / "recording python"
        self.python.write_text(RECORDING_PYTHON.format(log=self.log))
        self.python.chmod(0o755)

    def make(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        self.log.write_text("")
        return _make(*arguments, f"PYTHON={self.python}", folder=self.folder, **environment)

    def done(self, prefix: str) -> list[str]:
        """The noted command lines that start with the prefix."""
        return [line for line in self.log.read_text().splitlines() if line.startswith(prefix)]


@pytest.fixture
def clone(tmp_path: Path) -> Clone:
    return Clone(tmp_path / "a clone with spaces")


def test_help_is_the_default_and_lists_every_target() -> None:
    answer = _make()
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout == _make("help").stdout
    for target in TARGETS:
        assert re.search(rf"^  {target} +\S", answer.stdout, re.MULTILINE), f"{target} is not in make help"


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_parses(target: str) -> None:
    answer = _make("-n", target)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "experiments/README.md"])
def test_documents_name_only_targets_that_exist(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    named = set(re.findall(r"(?:^\s*\$? ?|`)make ([a-z][a-z-]*)", text, re.MULTILINE))
    assert named <= set(TARGETS)


def test_pretrain_calls_the_console_script_with_the_overrides() -> None:
    answer = _make("-n", "pretrain", "ARGS=contrastive.seed=1 name='two words'")
    assert (
        ".venv/bin/kelip pretrain experiments/emoji/pretrain.yaml contrastive.seed=1 name='two words'\n"
        in answer.stdout
    )


def test_clean_leaves_runs_and_the_environment_alone() -> None:
    removals = _make("-n", "clean").stdout
    assert "runs" not in removals
    assert ".venv" not in removals


def test_installs_once_and_then_only_what_is_missing(clone: Clone) -> None:
    assert clone.make("pretrain").returncode == 0
    assert len(clone.done("-m venv")) == 1
    assert clone.done("-m pip") == ["-m pip install --disable-pip-version-check --editable ."]
    assert clone.done("kelip") == ["kelip pretrain experiments/emoji/pretrain.yaml"]

    assert clone.make("pretrain").returncode == 0
    assert clone.done("-m venv") == clone.done("-m pip") == []

    assert clone.make("test", "-j4").returncode == 0
    assert clone.done("-m venv") == []
    assert clone.done("-m pip") == ["-m pip install --disable-pip-version-check --editable .[test]"]
    assert clone.done("-m pytest") == ["-m pytest -n 2"]


def test_changed_requirements_are_installed(clone: Clone) -> None:
    clone.make("pretrain")
    stamp = (clone.folder / ".venv" / ".base").stat().st_mtime
    os.utime(clone.folder / "setup.cfg", (stamp + 1, stamp + 1))
    assert clone.make("pretrain").returncode == 0
    assert len(clone.done("-m pip")) == 1
    assert clone.done("-m venv") == []


def test_a_failed_installation_is_tried_again_in_the_same_environment(clone: Clone) -> None:
    assert clone.make("pretrain", STUB_PIP="1").returncode != 0
    assert clone.done("kelip") == []
    assert clone.make("pretrain").returncode == 0
    assert clone.done("-m venv") == []
    assert len(clone.done("-m pip")) == 1


def test_an_installation_cut_off_starts_over(clone: Clone) -> None:
    clone.make("pretrain")
    assert clone.make("test", STUB_PIP_KILLS="1").returncode != 0
    answer = clone.make("pretrain")
    assert answer.returncode == 0, answer.stderr
    assert "cut off" in answer.stdout
    assert len(clone.done("-m venv")) == 1
    assert len(clone.done("-m pip")) == 1
    assert len(clone.done("kelip")) == 1


def test_an_old_python_gets_a_sentence(clone: Clone) -> None:
    answer = clone.make("pretrain", STUB_OLD="1")
    assert answer.returncode != 0
    assert "Python 3.11 or newer is needed" in answer.stderr
    assert "make pretrain PYTHON=python3.12" in answer.stderr
    assert clone.done("-m venv") == []


def test_a_python_without_venv_gets_a_sentence(clone: Clone) -> None:
    answer = clone.make("test", STUB_NO_VENV="1")
    assert answer.returncode != 0
    assert "apt install python3-venv" in answer.stderr
    assert clone.done("-m venv") == []
