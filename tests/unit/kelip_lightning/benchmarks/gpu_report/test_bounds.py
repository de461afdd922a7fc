"""Every part tells what is wrong: with results that break its bound, made up or from a deliberate error."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kelip_lightning.benchmarks.gpu_report import captions, evaluation, loader, memory, steps, sweep, training
from kelip_lightning.benchmarks.gpu_report.findings import Findings, PartSetting
from kelip_lightning.benchmarks.gpu_report.steps import Taken
from kelip_lightning.benchmarks.peak_memory import MEBIBYTE
from kelip_lightning.benchmarks.step.clock import StepTimes
from kelip_lightning.benchmarks.step.peers import LONGEST, OURS, PADDED
from kelip_lightning.benchmarks.step.rounds import Measured, Round, RoundPlan
from kelip_lightning.models import text_encoder
from kelip_lightning.planning.estimate import estimate
from kelip_lightning.runs.folder import RunFolder


@pytest.fixture
def setting(tmp_path: Path) -> PartSetting:
    return PartSetting(folder=tmp_path, smoke=True, seconds=100.0)


@pytest.fixture
def findings(tmp_path: Path) -> Findings:
    return Findings(folder=tmp_path)


def test_findings__are_read_as_written(findings: Findings, tmp_path: Path) -> None:
    findings.note(rate=12345.678, name="a", number=12345678, holds=True)
    findings.require(False, "a problem")
    assert Findings.read(tmp_path) == findings
    assert findings.figures == {"rate": 12350.0, "name": "a", "number": 12345678, "holds": True}
    assert Findings.read(tmp_path / "none") == Findings(folder=tmp_path / "none")


def _runs(folder: Path, losses: dict[str, list[float | None]]) -> Callable[[str, PartSetting], RunFolder]:
    """Runs with made-up metrics."""

    def run(name: str, _: PartSetting) -> RunFolder:
        (folder / name).mkdir()
        lines = [
            {"stage": "contrastive", "contrastive/loss": loss, "contrastive/pairs_per_second": 100.0}
            for loss in losses[name]
        ]
        (folder / name / "metrics.jsonl").write_text(
            "".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8"
        )
        return RunFolder(folder / name)

    return run


@pytest.mark.parametrize(
    ("again", "fast", "problem"),
    [
        ([3.0, 2.0], [3.0, 2.09], None),
        ([3.0, 2.0000001], [3.0, 2.0], "two deterministic runs have different losses"),
        ([3.0, 2.0], [3.0, 2.2], "without deterministic algorithms the last loss differs by 10.0%, more than 5%"),
        ([3.0, 2.0], [3.0, None], "without deterministic algorithms the last loss differs by nan%, more than 5%"),
    ],
)
def test_pretrain(
    setting: PartSetting,
    findings: Findings,
    monkeypatch: pytest.MonkeyPatch,
    again: list[float | None],
    fast: list[float | None],
    problem: str | None,
) -> None:
    losses: dict[str, list[float | None]] = {"deterministic": [3.0, 2.0], "deterministic_again": again, "fast": fast}
    monkeypatch.setattr(training, "_pretrained", _runs(setting.folder, losses))
    training.pretrain(setting, findings)
    assert findings.problems == ([] if problem is None else [problem])
    assert findings.figures["deterministic_pairs_per_second"] == 100.0


@pytest.mark.parametrize("strategy", ["ddp", "deepspeed_stage_2"])
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_strategies(
    setting: PartSetting, findings: Findings, monkeypatch: pytest.MonkeyPatch, strategy: str, precision: str
) -> None:
    pytest.importorskip("deepspeed", reason="needs the extra deepspeed")

    def pretend(_: None, work: Any, step: Any, name: str, *_lengths: int) -> Taken:
        assert work is steps.contrastive_steps
        wrong = name == strategy and step.precision == precision
        return Taken(losses=[2.0, 2.2 if wrong else 2.0], seconds=1.0)

    monkeypatch.setattr(steps, "in_fresh_process", pretend)
    steps.strategies(setting, findings)
    name = {"ddp": "ddp", "deepspeed_stage_2": "zero_2"}[strategy] + ("_bf16" if precision == "bf16-mixed" else "")
    expected = (
        [] if (strategy, precision) == ("ddp", "bf16-mixed") else [f"{name}: a loss differs by 1.0e-01, allowed are"]
    )
    assert [one[: len(expected[0])] for one in findings.problems] == expected


def test_compiled(setting: PartSetting, findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    def pretend(step: Any, *_: object) -> Taken:
        loss = 2.1 if step.compile else 2.0 if step.precision == "32-true" else 2.02
        return Taken(losses=[loss], seconds=0.5)

    monkeypatch.setattr(steps, "contrastive_steps", pretend)
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/c++")
    steps.compiled(setting, findings)
    assert findings.problems == ["compiled: a loss differs from bf16 by 4.0e-02, allowed are 2e-02"]
    assert findings.figures["compiled_ms"] == 500.0


def _round(plan: RoundPlan) -> Round:
    times = StepTimes(seconds=1.0, processor_seconds=1.0, seconds_per_step=[1.0], last_loss=1.0)
    measured = Measured(times=times, peak_mebibytes=100.0)
    return Round(
        number=0,
        order=plan.contestants,
        product_rates={"square": 1e12},
        flops=1e10,
        caption_tokens=12.0,
        longest_tokens=30.0,
        contestants=dict.fromkeys(plan.contestants, measured),
    )


@pytest.mark.parametrize(
    ("part", "limit", "measured"),
    [
        (sweep.eager, 1024, [256, 32, 512, 128, 64]),
        (sweep.compiled, 256, [32, 128, 64]),
        (sweep.compiled, 32, []),
    ],
)
def test_sweep__leaves_out_what_does_not_fit(
    tmp_path: Path,
    findings: Findings,
    monkeypatch: pytest.MonkeyPatch,
    part: Callable[[PartSetting, Findings], None],
    limit: int,
    measured: list[int],
) -> None:
    seen = []

    def measure(plan: RoundPlan, _: int) -> Round:
        assert plan.contestants == [OURS, PADDED, LONGEST]
        if plan.setting.batch >= limit:
            raise torch.OutOfMemoryError("CUDA out of memory")
        seen.append(plan.setting.batch)
        return _round(plan)

    pytest.importorskip("open_clip", reason="compares with open_clip")
    monkeypatch.setattr(sweep, "measure_round", measure)
    monkeypatch.setattr(sweep, "in_fresh_process", lambda *_: [])
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/c++")
    part(PartSetting(folder=tmp_path, smoke=False, seconds=100.0), findings)
    assert seen == measured
    assert findings.problems == []
    assert findings.figures["out_of_memory_at"] == limit
    for batch in measured:
        assert findings.figures[f"ours_over_open_clip_77_{batch}"] == 1.0
        assert findings.figures[f"ours_{batch}_pairs_per_second"] == batch * 8
        assert findings.figures[f"ours_{batch}_share_of_ceiling"] == 8 * 1e10 / 1e12


def test_sweep__another_error_fails_and_time_ends_it(
    setting: PartSetting, findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Round:
        raise RuntimeError("expected scalar type BFloat16")

    monkeypatch.setattr(sweep, "measure_round", fail)
    monkeypatch.setattr(sweep, "in_fresh_process", lambda *_: [])
    with pytest.raises(RuntimeError, match="expected scalar type"):
        sweep.eager(setting, findings)
    sweep.eager(PartSetting(folder=setting.folder, smoke=True, seconds=-1.0), findings)
    assert findings.figures["left_out_for_time"] == "4, 8"


def test_captions__tells_attention_to_later_tokens(
    setting: PartSetting, findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions.captions(setting, findings)
    assert findings.problems == []
    assert 0 < findings.figures["ours_bf16_gradient_error"] < 0.1  # type: ignore[operator]
    causal = text_encoder.attend_packed

    def sees_all(*arguments: Any, **_: Any) -> Tensor:
        return causal(*arguments, causal=False)

    monkeypatch.setattr(text_encoder, "attend_packed", sees_all)
    captions.captions(setting, findings)
    assert {one.partition(":")[0] for one in findings.problems} == {
        f"{kind} in {precision}" for kind in ("features", "gradient") for precision in ("float32", "bf16")
    }


def test_masked(setting: PartSetting, findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = iter([[1.0, math.nan], [1.0, 0.9]])
    monkeypatch.setattr(steps, "_masked_losses", lambda _: next(expected))
    steps.masked(setting, findings)
    assert findings.problems == ["a loss differs from the CPU's by inf, allowed are 1e-04"]
    # A quarter of the encoder's tokens, and all of the decoder's.
    assert 0 < findings.figures["ratio_of_operations"] < 1  # type: ignore[operator]


@pytest.mark.parametrize(("factor", "holds"), [(0.6, False), (0.9, True), (1.3, False), (math.nan, False)])
def test_memory(
    tmp_path: Path, findings: Findings, monkeypatch: pytest.MonkeyPatch, factor: float, holds: bool
) -> None:
    def peak(experiment: Any, _: object) -> float:
        ((planned),) = estimate(experiment).values()
        return factor * planned.memory[0].total / MEBIBYTE

    monkeypatch.setattr(memory, "_peak", peak)
    memory.memory(PartSetting(folder=tmp_path, smoke=False, seconds=100.0), findings)
    names = [] if holds else ["contrastive_256", "contrastive_512", "mae_256"]
    assert [one.partition(":")[0] for one in findings.problems] == names


def test_loader__tells_other_pixels(setting: PartSetting, findings: Findings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_rate", lambda *_: 100.0)
    monkeypatch.setattr(loader, "contrastive_steps", lambda *_: Taken(losses=[], seconds=0.1))
    loader.loader(setting, findings)
    assert findings.problems == []
    assert findings.figures["resized_on_device_over_step"] == 100 / (32 / 0.1)
    cut = loader.cut

    def mirrored(batch: Any) -> Any:
        found: Any = cut(batch)
        found.global_crops = found.global_crops.flip(-1)
        return found

    monkeypatch.setattr(loader, "cut", mirrored)
    loader.loader(setting, findings)
    (problem,) = findings.problems
    assert problem.startswith("a pixel of a crop cut on the device differs by ")


def test_evaluation__tells_other_weights(
    setting: PartSetting, findings: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation.evaluation(setting, findings)
    assert findings.problems == []
    assert findings.figures["image_relative_error"] == 0
    made, widths = evaluation.make_encoders, iter([32, 16])
    monkeypatch.setattr(evaluation, "make_encoders", lambda _, depth, device: made(next(widths), depth, device))
    monkeypatch.setattr(evaluation, "write_folder", lambda *_, **__: None)
    evaluation.evaluation(setting, findings)
    assert [one.partition(":")[0] for one in findings.problems] == [
        "image embeddings", "text embeddings", "classes", "captions"
    ]  # fmt: skip
