"""torchrun ends after a rank that has lost the others; here a stand-in that would sleep on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs pidfds")

_RANK = "from kelip_lightning.distributed import torchrun; torchrun._ENDING_SECONDS = 1; torchrun.end_after_peer_loss()"
_AGENT = "import subprocess, sys, time; subprocess.run([sys.executable, '-c', sys.argv[1]], check=True); time.sleep({})"


def agent(seconds: float, log: Path, **environment: str) -> "subprocess.Popen[bytes]":
    """A process whose child loses the others, and that ends some seconds after it."""
    variables = {"RANK": "3", "PET_SHUTDOWN_TIMEOUT": "1", "TORCHELASTIC_RESTART_COUNT": "0"} | environment
    with log.open("wb") as stream:
        words = [sys.executable, "-c", _AGENT.format(seconds), _RANK]
        return subprocess.Popen(words, env=os.environ | variables, stderr=stream)


def test_agent_that_hangs__is_killed_with_a_sentence(tmp_path: Path) -> None:
    hanging = agent(60, tmp_path / "log", TORCHELASTIC_MAX_RESTARTS="0")
    assert hanging.wait(40) == -signal.SIGKILL
    assert "still waits for the others 2 s after rank 3" in (tmp_path / "log").read_text()


def test_agent_that_ends_or_may_restart__is_left_alone(tmp_path: Path) -> None:
    ends = agent(0, tmp_path / "ends", TORCHELASTIC_MAX_RESTARTS="0")
    restarts = agent(6, tmp_path / "restarts", TORCHELASTIC_MAX_RESTARTS="1")
    assert [one.wait(40) for one in (ends, restarts)] == [0, 0]
    assert [(tmp_path / name).read_text() for name in ("ends", "restarts")] == ["", ""]
