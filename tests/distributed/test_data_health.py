"""Faults of two processes: counts are summed once, and every bad sample is written down once."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_modules.json_lines import read_json_lines
from tests.distributed.data_health_ranks import PER_RANK, STEPS, batch_of, run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("health")
    run(place)
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
    assert last["data/skipped/web/image_missing"] == 2 * 4
    assert last["data/skipped_share"] == pytest.approx(3 * 4 / (4 * 2 * PER_RANK))
    # Rank 0 has three Korean pairs of four and rank 1 two: the checkpoint in between takes nothing off the mix.
    assert (last["data/mix/web"], last["data/mix/web_ko"], last["data/mix/web_en"]) == (1.0, 5 / 8, 3 / 8)


@pytest.mark.distributed
def test_two_processes__every_bad_sample_is_written_once(folder: Path) -> None:
    lines = list(read_json_lines(folder / "bad.jsonl"))
    expected = {report.key for rank in range(2) for step in range(STEPS) for report in batch_of(rank, step).faults}
    assert sorted(line["key"] for line in lines) == sorted(expected | {"twin"})


@pytest.mark.distributed
def test_two_processes__both_stop_over_the_limit_with_one_sentence(folder: Path) -> None:
    messages = {_found(folder, rank)["message"] for rank in range(2)}
    assert len(messages) == 1
    assert "samples could not be used, more than data.corrupt_samples.max_share = 0.3" in messages.pop()
