"""Faults of two processes: counts are summed once, and every bad sample is recorded once."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import distributed as dist

from data_modules.config import CorruptSampleConfig
from data_modules.errors import DataError
from data_modules.faults import FaultReport
from data_modules.json_lines import read_json_lines
from kelip_lightning.callbacks.data_health import DataHealthCallback
from tests.distributed.launch import launch

STEPS, PERIOD, PER_RANK = 5, 2, 4


class _Source:
    name = "web"

    def __len__(self) -> int:
        return 100

    def opening_faults(self) -> list[FaultReport]:
        return [FaultReport("duplicate_key", "web", "twin", -1, -1, "")]


def _callback(file: Path, limit: float) -> DataHealthCallback:
    sources: Any = [_Source()]
    return DataHealthCallback(file, CorruptSampleConfig(max_share=limit), sources)


def _batch(rank: int, step: int) -> Any:
    """Rank 0 has one bad sample a step, rank 1 two and a repair."""
    kinds = (["image_missing"], ["image_missing", "read_failed", "image_cmyk"])[rank]
    faults = [FaultReport(kind, "web", f"{rank}-{step}-{kind}", rank, step, "d") for kind in kinds]
    return SimpleNamespace(faults=faults, sample_ids=torch.arange(PER_RANK), languages=torch.tensor([0, 0, rank, 1]))


def _work(rank: int, world: int, folder: Path) -> None:
    dist.init_process_group("gloo")
    trainer: Any = SimpleNamespace(is_global_zero=rank == 0, global_step=0, log_every_n_steps=PERIOD, world_size=world)
    logged: list[dict[str, float]] = []
    module: Any = SimpleNamespace(
        log_dict=lambda metrics, **_: logged.append({name: float(one) for name, one in metrics.items()})
    )
    health = _callback(folder / "bad.jsonl", 1.0)
    health.on_train_start(trainer, module)
    for step in range(STEPS):
        health.on_train_batch_end(trainer, module, None, _batch(rank, step), step)
        state = health.state_dict() if step == 2 else None  # a checkpoint between two entries
        assert state is None or state["drawn"] == 3 * 2 * PER_RANK
    health.on_train_end(trainer, module)
    strict = _callback(folder / "strict.jsonl", 0.3)
    message = ""
    try:
        for step in range(40):
            strict.on_train_batch_end(trainer, module, None, _batch(rank, step), step)
    except DataError as error:
        message = str(error)
    found = {"logged": logged[:2], "state": health.state_dict(), "message": message}
    (folder / f"rank{rank}.json").write_text(json.dumps(found), encoding="utf-8")
    dist.barrier()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("health")
    launch(_work, 2, place)
    return place


def _found(folder: Path, rank: int) -> dict[str, Any]:
    return json.loads((folder / f"rank{rank}.json").read_text(encoding="utf-8"))


@pytest.mark.distributed
def test_two_processes__counts_are_summed_once(folder: Path) -> None:
    for rank in range(2):
        state = _found(folder, rank)["state"]
        assert state["drawn"] == STEPS * 2 * PER_RANK
        assert sorted(state["counts"]) == [
            ["repaired", "web", "image_cmyk", STEPS],
            ["skipped", "web", "image_missing", 2 * STEPS],
            ["skipped", "web", "read_failed", STEPS],
        ]


@pytest.mark.distributed
def test_two_processes__scalars_are_those_of_all_ranks(folder: Path) -> None:
    last = _found(folder, 0)["logged"][1]
    assert last["samples/skipped/web/image_missing"] == 2 * 4
    assert last["samples/skipped_share"] == pytest.approx(3 * 4 / (4 * 2 * PER_RANK))
    # Rank 0 has three Korean pairs of four and rank 1 two: the checkpoint in between does not reset the mix.
    assert (last["samples/mix/web"], last["samples/mix/web_ko"], last["samples/mix/web_en"]) == (1.0, 5 / 8, 3 / 8)


@pytest.mark.distributed
def test_two_processes__every_bad_sample_is_written_once(folder: Path) -> None:
    lines = list(read_json_lines(folder / "bad.jsonl"))
    expected = {report.key for rank in range(2) for step in range(STEPS) for report in _batch(rank, step).faults}
    assert sorted(line["key"] for line in lines) == sorted(expected | {"twin"})


@pytest.mark.distributed
def test_two_processes__both_stop_over_the_limit_with_one_message(folder: Path) -> None:
    messages = {_found(folder, rank)["message"] for rank in range(2)}
    assert len(messages) == 1
    assert "samples could not be used, more than data.corrupt_samples.max_share = 0.3" in messages.pop()
