"""What a run leaves, for comparison with another run of the same experiment."""

import json
from pathlib import Path
from typing import Any

import torch

from data_modules.json_lines import read_json_lines

CLOCK = tuple(
    f"{stage}/{name}"
    for stage in ("mae", "contrastive")
    for name in ("pairs_per_second", "data_wait_share", "mfu", "peak_memory_gib")
)
"""Metrics that depend on the clock or on the process."""
WEIGHTS = ("mae/image_encoder/model.safetensors", "contrastive/dual_encoder/model.safetensors")


def read_record(run: Path) -> list[dict[str, Any]]:
    """Every line of metrics.jsonl without the clock's metrics."""
    lines = read_json_lines(run / "metrics.jsonl")
    return [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]


def values_of(record: list[dict[str, Any]], name: str) -> dict[tuple[str, int], float]:
    """(stage, step) -> a training scalar of the stage, such as `loss`."""
    return {(line["stage"], line["step"]): line[key] for line in record if (key := f"{line['stage']}/{name}") in line}


def final_tensors(run: Path) -> dict[str, Any]:
    """Weights, moving averages of them and optimizer moments of the last checkpoint of either stage."""
    found: dict[str, Any] = {}
    for stage in ("mae", "contrastive"):
        newest = max((run / stage / "checkpoints").glob("step=*"))
        state = torch.load(newest / "state.ckpt", weights_only=True)
        for part in ("state_dict", "current_model_state", "averaging_state"):
            found |= {f"{stage}/{part}/{name}": tensor for name, tensor in state.get(part, {}).items()}
        for number, moments in state["optimizer_states"][0]["state"].items():
            found |= {f"{stage}/{number}/{name}": torch.as_tensor(one) for name, one in moments.items()}
    return found


def assert_same_run(resumed: Path, whole: Path) -> None:
    """Losses, evaluations, weights and moments: bit for bit."""
    assert read_record(resumed) == read_record(whole)
    expected, found = final_tensors(whole), final_tensors(resumed)
    assert found.keys() == expected.keys()
    assert [name for name, tensor in expected.items() if not torch.equal(found[name], tensor)] == []
    for file in WEIGHTS:
        assert (resumed / file).read_bytes() == (whole / file).read_bytes()
    reports = [json.loads((run / "report.json").read_text(encoding="utf-8")) for run in (resumed, whole)]
    assert reports[0]["metrics"] == reports[1]["metrics"]
