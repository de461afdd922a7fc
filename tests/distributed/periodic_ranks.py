"""Two processes, of which rank zero meets broken embeddings; a module of its own, since processes have to import it."""

import json
import os
import socket
import sys
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing, nn

from kelip_lightning.callbacks.periodic import PeriodicCallback
from kelip_lightning.evaluation.embed import require_finite

PERIOD, BREAKS_AT, STEPS = 2, 4, 9


class _Evaluation(PeriodicCallback):
    def act(self, trainer: Any, pl_module: Any, step: int) -> None:
        rows = torch.ones(7, 2)
        rows[:3] = torch.nan if step == BREAKS_AT else 1.0
        require_finite(rows, "image")


def _work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    address = f"tcp://127.0.0.1:{port}"
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2, timeout=timedelta(seconds=20))
    trainer: Any = SimpleNamespace(
        is_global_zero=rank == 0,
        global_step=0,
        max_steps=STEPS,
        world_size=2,
        callbacks=[],
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    module: Any = nn.Linear(1, 1)
    callback = _Evaluation(PERIOD)
    found: dict[str, Any] = {"error": "", "message": "", "step": -1}
    try:
        callback.on_train_start(trainer, module)
        for step in range(1, STEPS + 1):
            trainer.global_step = step
            dist.all_reduce(torch.zeros(1))  # as a step's gradients
            callback.on_train_batch_end(trainer, module, None, None, step)
    except Exception as error:
        found = {"error": type(error).__name__, "message": str(error), "step": trainer.global_step}
    Path(f"{folder}/rank{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


def run(folder: Path) -> None:
    """Leave what each rank met in a folder, `rank0.json` and `rank1.json`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_work, (port, str(folder)), nprocs=2)
