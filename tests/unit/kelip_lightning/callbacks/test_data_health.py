"""Faults of batches: counted, logged, recorded, and limited."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.loggers import CSVLogger

from data_modules.config import CorruptSampleConfig
from data_modules.errors import DataError
from data_modules.faults import FaultReport
from data_modules.json_lines import append_json_lines, read_json_lines
from kelip_lightning.callbacks.data_health import DataHealthCallback

Fit = Callable[..., tuple[pl.Trainer, Any]]


class Source:
    def __init__(self, name: str, length: int, left_out: int = 0) -> None:
        self.name, self.length = name, length
        self.left_out = [FaultReport("duplicate_key", name, f"k{i}", -1, -1, "") for i in range(left_out)]

    def __len__(self) -> int:
        return self.length

    def opening_faults(self) -> list[FaultReport]:
        return self.left_out


class Spoil(pl.Callback):
    """Puts faults into batches, as the loader would: `kinds[step]` at each step."""

    def __init__(self, kinds: dict[int, list[str]]) -> None:
        self.kinds = kinds

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        step = trainer.global_step
        batch.faults = [FaultReport(kind, "web", f"{step}", 1, step, "d") for kind in self.kinds.get(step, [])]


def _health(file: Path, limit: float = 1.0, left_out: int = 0) -> DataHealthCallback:
    sources: Any = [Source("web", 3, left_out), Source("books", 9)]
    return DataHealthCallback(file, CorruptSampleConfig(max_share=limit), sources)


def _lines(file: Path) -> list[dict[str, Any]]:
    return list(read_json_lines(file))


KINDS = {0: ["image_missing"], 2: ["image_missing", "image_cmyk"], 5: ["read_failed"]}


def test_data_health__scalars_lines_and_mix(fit: Fit, tmp_path: Path) -> None:
    file = tmp_path / "bad_samples.jsonl"
    trainer, _ = fit([Spoil(KINDS), _health(file)], steps=7)
    assert [(one["step"], one["kind"], one["source"]) for one in _lines(file)] == [
        (0, "image_missing", "web"),
        (2, "image_missing", "web"),
        (2, "image_cmyk", "web"),
        (5, "read_failed", "web"),
    ]
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("samples/")}
    assert metrics == {
        "samples/skipped/web/image_missing": 2,
        "samples/repaired/web/image_cmyk": 1,
        "samples/skipped/web/read_failed": 1,
        "samples/skipped_share": pytest.approx(3 / 24),
        "samples/mix/web": 0.75,
        "samples/mix/books": 0.25,
    }, "ids 0 to 3 in each batch, of which 0 to 2 are of the first source"


def test_data_health__share_by_language(fit: Fit, tmp_path: Path) -> None:
    class SetLanguages(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            batch.languages = torch.tensor([0, 1, 1, 0])

    trainer, _ = fit([SetLanguages(), Spoil({}), _health(tmp_path / "f")], steps=2)
    mix = {
        name.removeprefix("samples/mix/"): float(value)
        for name, value in trainer.callback_metrics.items()
        if "mix" in name
    }
    assert mix == {"web": 0.75, "web_ko": 0.25, "web_en": 0.5, "books": 0.25, "books_ko": 0.25, "books_en": 0.0}


def test_data_health__nothing_wrong_writes_nothing(fit: Fit, tmp_path: Path) -> None:
    trainer, _ = fit([Spoil({}), _health(tmp_path / "f")], steps=2)
    assert not (tmp_path / "f").exists()
    assert trainer.callback_metrics["samples/skipped_share"] == 0


def test_data_health__what_was_left_out_at_opening(fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "kelip_lightning"):
        fit([Spoil({}), _health(tmp_path / "f", left_out=3)], steps=2)
    assert [(one["kind"], one["key"], one["step"]) for one in _lines(tmp_path / "f")] == [
        ("duplicate_key", f"k{i}", -1) for i in range(3)
    ]
    assert "left out when the data were opened: web: duplicate_key 3" in caplog.text


def test_data_health__over_the_limit_the_run_stops_with_one_message(fit: Fit, tmp_path: Path) -> None:
    every = {step: ["image_undecodable"] for step in range(40)}
    message = r"14 of 56 samples .* data\.corrupt_samples\.max_share = 0\.2: web: image_undecodable 14; see .*/f, fix"
    with pytest.raises(DataError, match=message):
        fit([Spoil(every), _health(tmp_path / "f", 0.2)], steps=40)
    assert len(_lines(tmp_path / "f")) == 14, "not before 10 / 0.2 = 50 samples: 13 batches of 4, checked every 2 steps"


@pytest.mark.parametrize(("kinds", "limit"), [(["image_undecodable"], 0.25), (["image_cmyk"] * 4, 0.0)])
def test_data_health__does_not_stop_at_the_limit_or_for_repairs(
    fit: Fit, tmp_path: Path, kinds: list[str], limit: float
) -> None:
    trainer, _ = fit([Spoil(dict.fromkeys(range(30), kinds)), _health(tmp_path / "f", limit)], steps=30)
    assert trainer.global_step == 30


def test_data_health__an_exception_keeps_the_last_faults(fit: Fit, tmp_path: Path) -> None:
    def fails(calls: list[int]) -> Callable[[], None]:
        def step() -> None:
            calls.append(1)
            if len(calls) == 4:
                raise RuntimeError("the model broke")

        return step

    with pytest.raises(RuntimeError, match="the model broke"):
        fit([Spoil(KINDS), _health(tmp_path / "f")], steps=7, in_step=fails([]))
    assert [one["step"] for one in _lines(tmp_path / "f")] == [0, 2, 2]


def test_data_health__resumed_it_continues_the_counts_and_drops_repeated_lines(fit: Fit, tmp_path: Path) -> None:
    file = tmp_path / "f"
    whole = _health(file)
    fit([Spoil(KINDS), whole], steps=7)
    expected = _lines(file)
    file.unlink()
    first = _health(file)
    trainer, _ = fit([Spoil(KINDS), first], steps=4)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(FaultReport("read_failed", "web", "x", 1, 5, "")._asdict()) + "\n")
    resumed = _health(file)
    fit([Spoil(KINDS), resumed], steps=7, ckpt_path=tmp_path / "a.ckpt")
    assert _lines(file) == expected
    assert resumed.state_dict() == whole.state_dict()


@pytest.mark.parametrize("left", [b'{"kind": "image_missing", "so', b"\0\0\0\0", b'{"kind": "\xed\x95'])
def test_data_health__resumes_with_line_separators_in_names_and_a_partial_line(
    fit: Fit, tmp_path: Path, left: bytes
) -> None:
    file = tmp_path / "bad_samples.jsonl"
    strange = FaultReport("read_failed", "web", "사\u2028과\x85\x1c.jpg", 1, 1, "a\u2029b")
    append_json_lines(file, [strange._asdict()])
    trainer, _ = fit([Spoil({}), _health(tmp_path / "f")], steps=3)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    file.write_bytes(file.read_bytes() + left)
    fit([Spoil(KINDS), _health(file)], steps=6, ckpt_path=tmp_path / "a.ckpt")
    assert [(one["step"], one["key"]) for one in _lines(file)] == [(1, strange.key), (5, "5")]


def test_data_health__a_damaged_record_is_renamed_and_stops_no_run(
    fit: Fit, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "bad_samples.jsonl"
    trainer, _ = fit([Spoil({}), _health(tmp_path / "f")], steps=3)
    trainer.save_checkpoint(tmp_path / "a.ckpt")
    damaged = b'{"kind": \n{"kind": "read_failed", "step": 1}\n'
    file.write_bytes(damaged)
    with caplog.at_level(logging.WARNING, "kelip_lightning"):
        fit([Spoil(KINDS), _health(file)], steps=6, ckpt_path=tmp_path / "a.ckpt")
    assert [one["step"] for one in _lines(file)] == [5]
    assert (tmp_path / "bad_samples.jsonl.damaged").read_bytes() == damaged
    assert "line 1 is no JSON" in caplog.text


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_data_health__a_checkpoint_between_two_entries_loses_and_doubles_nothing(
    fit: Fit, tmp_path: Path, cut: int
) -> None:
    """Entries come every two steps; the run is interrupted one step after the checkpoint."""

    class Save(pl.Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if trainer.global_step == cut:
                trainer.save_checkpoint(tmp_path / "a.ckpt")

    every = {step: ["image_missing"] * (1 + step % 3) for step in range(8)}
    whole = _health(tmp_path / "whole")
    trainer, _ = fit([Spoil(every), whole], steps=8)
    fit([Save(), Spoil(every), _health(tmp_path / "f")], steps=cut + 1)
    resumed = _health(tmp_path / "f")
    again, _ = fit([Spoil(every), resumed], steps=8, ckpt_path=tmp_path / "a.ckpt")
    assert _lines(tmp_path / "f") == _lines(tmp_path / "whole")
    assert len(_lines(tmp_path / "f")) == 15
    assert resumed.state_dict() == whole.state_dict()
    assert resumed.state_dict()["drawn"] == 32
    names = [name for name in trainer.callback_metrics if name.startswith("samples/")]
    assert {name: again.callback_metrics[name] for name in names} == {n: trainer.callback_metrics[n] for n in names}


def test_data_health__lines_of_one_kind_are_limited(fit: Fit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kelip_lightning.callbacks.data_health.MAX_LINES", 5)
    every = {step: ["image_cmyk"] * 3 for step in range(4)}
    trainer, _ = fit([Spoil(every), _health(tmp_path / "f")], steps=4, logger=CSVLogger(tmp_path))
    assert len(_lines(tmp_path / "f")) == 5
    assert trainer.callback_metrics["samples/repaired/web/image_cmyk"] == 12
