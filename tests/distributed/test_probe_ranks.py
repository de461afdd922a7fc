"""Probes on several ranks: accuracies are those of one process, the work is shared, and errors are raised on all."""

import json
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch import distributed as dist

from data_modules.benchmarks.image_stream import SelectedImages
from data_modules.benchmarks.probe_sets import LabelledImages, ProbeSet
from data_modules.errors import DataError
from kelip_lightning.evaluation.encoders import ImageFunctions
from kelip_lightning.evaluation.probe import evaluate_probes
from kelip_lightning.evaluation.suite import Streaming
from tests.distributed.launch import launch
from tests.sample_tables import MemoryTable, raw_pixels

pytestmark = pytest.mark.distributed

NUM, NUM_TRAIN, BROKEN = 70, 50, 60
WEIGHT = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))


def _probe(broken: tuple[int, ...] = ()) -> ProbeSet:
    table = MemoryTable("one", NUM, broken)

    def part(rows: np.ndarray) -> LabelledImages:
        labels = table.pixels[torch.from_numpy(rows)].flatten(1)[:, 0].long() // 86
        return LabelledImages(images=SelectedImages(table, rows), labels=labels)

    train, test = part(np.arange(NUM_TRAIN)), part(np.arange(NUM_TRAIN, NUM))
    return ProbeSet(name="pixel", train=train, test=test, classes=["a", "b", "c"], k=5, l2=None, max_iter=50)


def _evaluate() -> dict[str, Any]:
    embedded = 0

    def encode(images: Tensor) -> Tensor:
        nonlocal embedded
        embedded += len(images)
        return (images.float().flatten(1) - 128) / 64 @ WEIGHT

    functions = ImageFunctions(name="x", preprocess=raw_pixels, encode_images=encode, device=torch.device("cpu"))
    found: dict[str, Any] = {"metrics": evaluate_probes([_probe()], functions, Streaming()), "embedded": embedded}
    try:
        evaluate_probes([_probe((BROKEN,))], functions, Streaming())
    except DataError as error:
        found["error"] = str(error)
    return found


def _work(rank: int, _: int, folder: Path) -> None:
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    (folder / f"{rank}.json").write_text(json.dumps(_evaluate()), encoding="utf-8")


def test_evaluate_probes__two_ranks_equal_one(tmp_path: Path) -> None:
    alone = _evaluate()
    launch(_work, 2, tmp_path)
    ranks = [json.loads((tmp_path / f"{rank}.json").read_text(encoding="utf-8")) for rank in range(2)]
    assert [one["metrics"] for one in ranks] == [alone["metrics"]] * 2
    assert alone["embedded"] == NUM
    assert sum(one["embedded"] for one in ranks) == NUM and min(one["embedded"] for one in ranks) >= NUM // 3
    assert [one["error"] for one in ranks] == [alone["error"]] * 2
    assert f"image 'image {BROKEN}' cannot be used" in alone["error"]
