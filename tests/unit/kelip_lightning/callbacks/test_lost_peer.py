"""What is said of a process that is gone, and that none is left behind."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies.launchers.subprocess_script import _SubprocessScriptLauncher

from kelip_lightning.callbacks.lost_peer import explain_lost_peer
from kelip_lightning.errors import PeerLostError

HANGS = RuntimeError("Timed out waiting 1800000ms for recv operation to complete\nand more")


@pytest.fixture
def trainer() -> Iterator[Any]:
    """Rank zero of three, whose launcher has started one process that failed and one that hangs."""
    launcher = _SubprocessScriptLauncher(LightningEnvironment(), num_processes=3, num_nodes=1)
    words = [[sys.executable, "-c", code] for code in ("raise SystemExit(3)", "import time; time.sleep(600)")]
    launcher.procs = [subprocess.Popen(one) for one in words]
    launcher.procs[0].wait()
    yield SimpleNamespace(world_size=3, global_rank=0, strategy=SimpleNamespace(launcher=launcher))
    for process in launcher.procs:
        process.kill()
        process.wait()


def test_lost_peer__says_which_and_leaves_none_behind(trainer: Any) -> None:
    told = r"no longer answers: rank 1 ended with exit code 3 \(Timed out waiting"
    with pytest.raises(PeerLostError, match=told), explain_lost_peer(trainer):
        raise HANGS
    assert trainer.strategy.launcher.procs[1].wait(timeout=10) == -signal.SIGKILL


@pytest.mark.parametrize(("world", "error"), [(1, HANGS), (3, RuntimeError("shapes do not match"))])
def test_other_errors__stay_as_they_are(trainer: Any, world: int, error: RuntimeError) -> None:
    trainer.world_size = world
    with pytest.raises(RuntimeError) as caught, explain_lost_peer(trainer):
        raise error
    assert caught.value is error
    assert trainer.strategy.launcher.procs[1].poll() is None
