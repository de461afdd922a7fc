"""An evaluation that fails on rank zero, the only one that evaluates: the other rank neither waits nor continues."""

import json
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch import nn

from kelip_lightning.callbacks.periodic import PeriodicCallback
from kelip_lightning.evaluation.embed import require_finite
from tests.distributed.launch import launch

PERIOD, BREAKS_AT, STEPS = 2, 4, 9


class _Evaluation(PeriodicCallback):
    def act(self, trainer: Any, pl_module: Any, step: int) -> None:
        rows = torch.ones(7, 2)
        rows[:3] = torch.nan if step == BREAKS_AT else 1.0
        require_finite(rows, "image")


def _work(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=20))
    trainer: Any = SimpleNamespace(
        is_global_zero=rank == 0,
        global_step=0,
        max_steps=STEPS,
        world_size=world,
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
    (folder / f"rank{rank}.json").write_text(json.dumps(found), encoding="utf-8")


@pytest.mark.distributed
def test_two_processes__broken_embeddings_end_both_at_one_step_with_one_message(tmp_path: Path) -> None:
    launch(_work, 2, tmp_path)
    found = [json.loads((tmp_path / f"rank{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert found[0] == found[1]
    assert (found[0]["error"], found[0]["step"]) == ("NonFiniteEmbeddingsError", BREAKS_AT)
    assert f"step {BREAKS_AT}: 3 of 7 image embeddings are not finite" in found[0]["message"]
