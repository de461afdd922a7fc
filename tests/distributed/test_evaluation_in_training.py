"""Evaluation during training on three ranks: none is idle, and the outcomes are those of one process."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kelip_lightning.callbacks import evaluation as callback
from kelip_lightning.cli.verb import load_any_experiment
from kelip_lightning.evaluation import suite
from kelip_lightning.evaluation.embed import image_encode_function
from kelip_lightning.inference.evaluate import items_of_run
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.runs.items import read_items
from tests.faults.experiment import NUM_PAIRS, write_experiment
from tests.faults.runner import kelip

WORLD = 3
PER_BATCH = 2  # 20 images in batches of 2: four for one rank, three for the others


@dataclass(frozen=True)
class CountImages:
    """Writes how many images a process embeds in each of its evaluations, to a file, as they come."""

    file: Path

    def __call__(self) -> None:
        counts: list[int] = []

        def counting(*arguments: Any, **options: Any) -> Any:
            encode = image_encode_function(*arguments, **options)
            counts.append(0)

            def encode_and_count(images: Tensor) -> Tensor:
                counts[-1] += len(images)
                self.file.write_text(json.dumps(counts), encoding="utf-8")
                return encode(images)

            return encode_and_count

        callback.image_encode_function = counting  # type: ignore[attr-defined]
        suite.batch_size_of = lambda *_: PER_BATCH


@pytest.mark.distributed
@pytest.mark.parametrize("strategy", ["ddp", pytest.param("deepspeed_stage_3", marks=pytest.mark.slow)])
def test_three_ranks__share_every_evaluation_and_agree_with_one_process(
    tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if strategy != "ddp":
        pytest.importorskip("deepspeed", reason="needs the extra deepspeed")
    files = [tmp_path / f"rank{rank}.json" for rank in range(WORLD)]
    ended = kelip(
        "pretrain",
        str(write_experiment(tmp_path)),
        f"output_dir={tmp_path}",
        "mae=null",
        "contrastive.data.global_batch_size=9",
        "contrastive.schedule.max_steps=3",
        "contrastive.evaluation.every_n_steps=2",
        f"contrastive.trainer.strategy={strategy}",
        f"contrastive.trainer.devices={WORLD}",
        log=tmp_path / "log",
        world=WORLD,
        sabotage={rank: CountImages(file) for rank, file in enumerate(files)},
    )
    assert ended.exit_codes == [0] * WORLD, ended.output
    found = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for images in zip(*found, strict=True):  # at steps 0, 2 and 3
        assert sorted(images) == [6, 6, 8]
        assert sum(images) == NUM_PAIRS
    run = RunFolder(tmp_path / "tiny")
    monkeypatch.setattr(suite, "batch_size_of", lambda *_: PER_BATCH)
    torch.set_num_threads(1)
    experiment = load_any_experiment(run.config, [], on_this_machine=False, stored=True).experiment
    stored = read_items(run.items)
    again = items_of_run(run, experiment.contrastive.evaluation, torch.device("cpu"))
    assert len(again) == len(stored) == 4
    for task in again:
        np.testing.assert_array_equal(stored[task.task].outcomes, task.outcomes.numpy(), err_msg=task.task)
        assert stored[task.task].texts == task.texts
