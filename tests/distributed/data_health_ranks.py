"""Two processes whose batches hold faults; a module of its own, since new processes have to import it."""

import json
import os
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

from data_modules.errors import DataError
from data_modules.faults import FaultReport
from data_modules.loading import CorruptSampleConfig
from kelip_lightning.callbacks.data_health import DataHealthCallback

STEPS, PERIOD, PER_RANK = 5, 2, 4


class Source:
    name = "web"

    def __len__(self) -> int:
        return 100

    def opening_faults(self) -> list[FaultReport]:
        return [FaultReport("duplicate_key", "web", "twin", -1, -1, "")]


def _callback(file: str, limit: float) -> DataHealthCallback:
    sources: Any = [Source()]
    return DataHealthCallback(Path(file), CorruptSampleConfig(max_share=limit), sources)


def batch_of(rank: int, step: int) -> Any:
    """Rank 0 meets one bad sample a step, rank 1 two and a repair."""
    kinds = (["image_missing"], ["image_missing", "read_failed", "image_cmyk"])[rank]
    faults = [FaultReport(kind, "web", f"{rank}-{step}-{kind}", rank, step, "d") for kind in kinds]
    return SimpleNamespace(faults=faults, sample_ids=torch.arange(PER_RANK), languages=torch.tensor([0, 0, rank, 1]))


def _work(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    trainer: Any = SimpleNamespace(is_global_zero=rank == 0, global_step=0, log_every_n_steps=PERIOD, world_size=2)
    logged: list[dict[str, float]] = []
    module: Any = SimpleNamespace(
        log_dict=lambda metrics, **_: logged.append({name: float(one) for name, one in metrics.items()})
    )
    health = _callback(f"{folder}/bad.jsonl", 1.0)
    health.on_train_start(trainer, module)
    for step in range(STEPS):
        health.on_train_batch_end(trainer, module, None, batch_of(rank, step), step)
        state = health.state_dict() if step == 2 else None  # a checkpoint between two entries
        assert state is None or state["drawn"] == 3 * 2 * PER_RANK
    health.on_train_end(trainer, module)
    strict = _callback(f"{folder}/strict.jsonl", 0.3)
    message = ""
    try:
        for step in range(40):
            strict.on_train_batch_end(trainer, module, None, batch_of(rank, step), step)
    except DataError as error:
        message = str(error)
    found = {"logged": logged[:2], "state": health.state_dict(), "message": message}
    Path(f"{folder}/rank{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()
    sys.stdout.flush()
    os._exit(0)


def run(folder: Path) -> None:
    """Leave `bad.jsonl` and what each rank found, `rank0.json` and `rank1.json`, in a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    multiprocessing.spawn(_work, (port, str(folder)), nprocs=2)
