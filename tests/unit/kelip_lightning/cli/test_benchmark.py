"""`kelip benchmark step` without measuring: options, defaults, tables, exit codes."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kelip_lightning.benchmarks.step import benchmark
from kelip_lightning.benchmarks.step.agreement import Agreement
from kelip_lightning.benchmarks.step.captions import CaptionLengths, Captions, cc3m_like_lengths
from kelip_lightning.benchmarks.step.clock import StepTimes
from kelip_lightning.benchmarks.step.growth import GrowthRound, growth_cases
from kelip_lightning.benchmarks.step.growth_report import GrowthReport
from kelip_lightning.benchmarks.step.report import StepReport
from kelip_lightning.benchmarks.step.rounds import Measured, Round, RoundPlan
from kelip_lightning.benchmarks.step.setting import ModelName, StepSetting
from kelip_lightning.cli import main

CONTESTANTS = ["ours", "open_clip_77", "open_clip_longest", "plain"]


def _measured(seconds: float) -> Measured:
    times = StepTimes(seconds=seconds, processor_seconds=seconds, seconds_per_step=[seconds], last_loss=1.0)
    return Measured(times=times, peak_mebibytes=12_345.6)


def _report(setting: StepSetting, **length: int) -> StepReport:
    lengths = cc3m_like_lengths()
    rounds = [
        Round(
            number=number,
            order=CONTESTANTS,
            product_rates=dict.fromkeys(("image qkv", "image MLP, first", "image MLP, second", "square"), 4e11),
            flops=1e12,
            caption_tokens=12.3,
            longest_tokens=29.5,
            contestants={name: _measured(10.0 + place + number) for place, name in enumerate(CONTESTANTS)},
        )
        for number in range(length["rounds"])
    ]
    agreement = Agreement(
        peer="plain",
        pairs=4,
        our_loss=2.0,
        peer_loss=2.0,
        gradient_error=1e-6,
        worst_parameter="transformer.resblocks.11.ln_1.weight",
    )
    plan = RoundPlan(
        setting=setting,
        lengths=lengths,
        contestants=CONTESTANTS,
        warmup=length["warmup"],
        steps=length["steps"],
    )
    emoji = CaptionLengths(name="emoji", description="of the corpus", shares={5: 1.0})
    return StepReport(plan=plan, captions=[emoji, lengths], agreements=[agreement], rounds=rounds, notes=["a note"])


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[StepSetting, dict[str, int]]]:
    """Setting and lengths of each benchmark, which returns a made-up report."""
    calls: list[tuple[StepSetting, dict[str, int]]] = []

    def pretend(setting: StepSetting, *, progress: Callable[[str], None], **length: int) -> StepReport:
        calls.append((setting, length))
        progress("working")
        return _report(setting, **length)

    monkeypatch.setattr(benchmark, "run_step_benchmark", pretend)
    return calls


@pytest.mark.parametrize(
    ("words", "model", "captions", "batch", "length"),
    [
        ([], ModelName.vit_b32, Captions.cc3m_like, 64, (4, 3, 4)),
        (["--model", "emoji"], ModelName.emoji, Captions.emoji, 256, (7, 4, 16)),
        (["--model", "emoji", "--captions", "cc3m_like", "--batch", "9"], ModelName.emoji, Captions.cc3m_like, 9,
         (7, 4, 16)),
        (["--compile", "--rounds", "3"], ModelName.vit_b32, Captions.cc3m_like, 64, (3, 5, 4)),
        (["--compile", "--model", "emoji"], ModelName.emoji, Captions.emoji, 256, (7, 5, 16)),
        (["--smoke"], ModelName.tiny, Captions.cc3m_like, 8, (1, 1, 2)),
        (["--smoke", "--model", "emoji", "--steps", "7"], ModelName.emoji, Captions.emoji, 256, (1, 1, 7)),
    ],
)  # fmt: skip
def test_step__defaults_depend_on_the_model(
    asked: list[tuple[StepSetting, dict[str, int]]],
    tmp_path: Path,
    words: list[str],
    model: ModelName,
    captions: Captions,
    batch: int,
    length: tuple[int, int, int],
) -> None:
    assert main(["benchmark", "step", "--device", "cpu", "--output", str(tmp_path), *words]) == 0
    ((setting, given),) = asked
    assert (setting.model, setting.captions, setting.batch) == (model, captions, batch)
    assert given == dict(zip(("rounds", "warmup", "steps"), length, strict=True))


@pytest.mark.usefixtures("asked")
def test_step__prints_tables_of_a_hundred_columns_and_progress_on_stderr(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "180")
    words = ["--device", "cpu", "--output", str(tmp_path), "--precision", "32", "--rounds", "7"]
    assert main(["benchmark", "step", *words]) == 0
    captured = capsys.readouterr()
    tables = [line for line in captured.out.splitlines() if not line.startswith("written:")]
    assert max(map(len, tables)) <= 100
    assert captured.err == "working\n"
    # 64 pairs, 4 steps, and the median of 10 to 16 seconds.
    assert f"{64 * 4 / 13:.1f}" in captured.out
    assert "12,346" in captured.out and "a note" in captured.out
    assert {file.name for file in tmp_path.iterdir()} == {"step.json", "step.png"}


def test_step__fails_if_the_contestants_take_different_steps(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def disagree(setting: StepSetting, *, rounds: int, warmup: int, steps: int, **_: Any) -> StepReport:
        report = _report(setting, rounds=rounds, warmup=warmup, steps=steps)
        return replace(report, agreements=[replace(report.agreements[0], gradient_error=0.5)])

    monkeypatch.setattr(benchmark, "run_step_benchmark", disagree)
    assert main(["benchmark", "step", "--device", "cpu", "--output", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "NO" in captured.out
    assert "plain does not take our step" in captured.err
    assert "transformer.resblocks.11.ln_1.weight by 5.0e-01" in captured.err


@pytest.mark.parametrize("words", [["--batch", "0"], ["--local-crops", "-1"], ["--model", "tiny"], ["--rounds", "x"]])
def test_step__usage_errors(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["benchmark", "step", *words])
    assert error.value.code == 2
    assert words[0] in capsys.readouterr().err


def test_step__one_pair_is_refused(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "step", "--device", "cpu", "--batch", "1"]) == 2
    assert "--batch = 1 must be at least 2" in capsys.readouterr().err
    assert not asked


def test_growth__prints_a_row_per_case_and_refuses_crops(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def pretend(setting: StepSetting, *, rounds: int, warmup: int, steps: int, **_: Any) -> GrowthReport:
        cases = growth_cases(setting)
        seconds = {case.name: 0.001 * (1 + place) for place, case in enumerate(cases)}
        flops = {case.name: 2e9 for case in cases}
        done = [GrowthRound(number=one, order=[], seconds=seconds, flops=flops) for one in range(rounds)]
        return GrowthReport(setting=setting, warmup=warmup, steps=steps, cases=cases, rounds=done)

    monkeypatch.setattr(benchmark, "run_growth_benchmark", pretend)
    monkeypatch.setenv("COLUMNS", "180")
    words = ["benchmark", "step", "--device", "cpu", "--growth", "--output", str(tmp_path)]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert "batch 32" in shown and "batch 256" in shown and "3 round(s) of 2 + 2 steps" in shown
    assert "MAE, 75%: time and counted operations agree within 15%: NO" in shown
    assert max(len(line) for line in shown.splitlines() if not line.startswith("written:")) <= 100
    assert {file.name for file in tmp_path.iterdir()} == {"growth.json", "growth.png"}
    assert main([*words, "--local-crops", "4"]) == 2
    assert "--local-crops has no effect with --growth" in capsys.readouterr().err


def test_run__prints_the_phases_of_a_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = {"imports": 1.0, "mae/steps": 60.0, "contrastive/steps": 30.0, "contrastive/steps/evaluation": 9.0}
    sessions = json.dumps({"sessions": [{"began": "x", "seconds": seconds}]})
    (tmp_path / "timing.json").write_text(sessions, encoding="utf-8")
    monkeypatch.setenv("COLUMNS", "100")
    assert main(["benchmark", "run", str(tmp_path), "--output", str(tmp_path / "out")]) == 0
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "steps" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")][:6] == [
        "steps",
        "–",
        "60.00",
        "30.00",
        "90.00",
        "90.0%",
    ]
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"run.json", "run.png"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give an experiment or a run folder, or --smoke"),
        (["--smoke", "runs/x"], "give an experiment or a run folder, or --smoke"),
        (["nowhere.yaml"], "nowhere.yaml does not exist"),
        (["nowhere"], "nowhere has no timing.json"),
        (["nowhere", "seed=1"], "seed=1 has no effect on nowhere"),
    ],
)
def test_run__one_sentence_for_each_mistake(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "run", *words]) == 2
    assert message in capsys.readouterr().err
