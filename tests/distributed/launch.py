"""Worker processes over gloo, and runs of two processes."""

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import multiprocessing

from kelip_lightning.runs.folder import RunFolder
from tests.faults.experiment import write_experiment
from tests.faults.runner import kelip


def launch(work: Callable[..., None], world: int, *arguments: Any) -> None:
    """Run `work(rank, world, *arguments)`, a function of an importable module, in `world` processes of one world."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_enter, (work, world, port, arguments), nprocs=world)


def _enter(rank: int, work: Callable[..., None], world: int, port: int, arguments: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    ranks = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in ranks.items()} | {"MASTER_ADDR": "127.0.0.1"}
    work(rank, world, *arguments)
    sys.stdout.flush()
    # DeepSpeed's threads sometimes abort an interpreter that shuts down.
    os._exit(0)


def train_chain(folder: Path, strategy: str, *overrides: str) -> RunFolder:
    """Train both stages of a tiny model on two processes; returns the finished run, folder/tiny."""
    folder.mkdir()
    command = ["pretrain", str(write_experiment(folder)), f"output_dir={folder}", f"trainer.strategy={strategy}"]
    ended = kelip(*command, "trainer.devices=2", *overrides, log=folder / "log", world=2)
    assert ended.exit_codes == [0, 0], ended.output
    return RunFolder(folder / "tiny")
