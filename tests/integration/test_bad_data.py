"""Contrastive training on shards in which every kind of fault makes up a twentieth of the samples."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from data_modules.faults import REPAIRED
from data_modules.json_lines import read_json_lines
from kelip_lightning.cli import main
from tests.faults.experiment import write_contrastive
from tests.unit.data_modules.corpora import faulty_members, write_tar

NUM, NUM_GOOD, PER_KIND, BATCH = 40, 6, 2, 10
"""A twentieth of 40 samples for each of 17 ways to be wrong, and 6 good samples."""


def _experiment(folder: Path, shard: Path, max_share: float, steps: int) -> str:
    data = {
        "sources": {"web": {"files": [str(shard)], "caption_fields": ["txt"], "language": "en"}},
        "corrupt_samples": {"max_share": max_share},
        "global_batch_size": BATCH,
        "num_workers": 1,
    }
    trainer = {"precision": "32", "accelerator": "cpu", "log_every_n_steps": 2}
    tokenizer = {"vocab_size": 300, "context_length": 24}
    return str(write_contrastive(folder, data, steps, trainer=trainer, tokenizer=tokenizer))


def _lines(file: Path) -> list[dict[str, Any]]:
    return list(read_json_lines(file))


def test_contrastive__trains_to_the_end_and_every_count_agrees(tmp_path: Path) -> None:
    content, expected = faulty_members(NUM_GOOD, PER_KIND)
    shard = write_tar(tmp_path / "web.tar", content)
    assert NUM_GOOD + sum(expected.values()) == NUM
    assert all(number % (NUM // 20) == 0 for number in expected.values())
    assert main(["contrastive", _experiment(tmp_path, shard, 1.0, NUM // BATCH)]) == 0
    stage = tmp_path / "runs" / "tiny" / "contrastive"
    lines = _lines(stage / "bad_samples.jsonl")
    # A replacement may be bad itself and is recorded again: each sample counts once here.
    met = {(line["sample_id"], line["kind"]) for line in lines}
    assert Counter(kind for _, kind in met) == expected
    recorded = Counter(line["kind"] for line in lines)
    names = {f"samples/{'repaired' if kind in REPAIRED else 'skipped'}/web/{kind}": n for kind, n in recorded.items()}
    metrics = [line for line in _lines(stage.parent / "metrics.jsonl") if "samples/skipped_share" in line]
    assert {name: value for name, value in metrics[-1].items() if name in names} == names
    drawn = NUM
    skipped = sum(number for kind, number in recorded.items() if kind not in REPAIRED)
    assert metrics[-1]["samples/skipped_share"] == pytest.approx(skipped / drawn)
    events = EventAccumulator(str(stage), size_guidance={"scalars": 0})
    events.Reload()
    assert {name: events.Scalars(name)[-1].value for name in names} == names


def test_contrastive__over_the_limit_it_stops_with_one_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = write_tar(tmp_path / "web.tar", faulty_members(NUM_GOOD, PER_KIND)[0])
    assert main(["contrastive", _experiment(tmp_path, shard, 0.25, 20)]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert error.count("could not be used, more than data.corrupt_samples.max_share = 0.25") == 1
    assert "image_undecodable" in error
    assert error.endswith("fix the data or raise the limit")
    assert not (tmp_path / "runs" / "tiny" / "report.json").exists()
