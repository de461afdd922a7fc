"""`kelip benchmark gpu` without running a part: choice of parts, exit codes, mistakes."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from kelip_lightning.benchmarks.gpu_report import runner
from kelip_lightning.benchmarks.gpu_report.parts import PARTS
from kelip_lightning.benchmarks.gpu_report.runner import Outcome, Part, ReportPlan, Status
from kelip_lightning.cli import main


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[str], ReportPlan]]:
    """The parts and the plan of each run; the part `memory` fails."""
    calls: list[tuple[list[str], ReportPlan]] = []

    def pretend(parts: Sequence[Part], plan: ReportPlan, progress: Callable[[str], None]) -> list[Outcome]:
        progress("working")
        calls.append(([one.name for one in parts], plan))
        return [
            Outcome(
                part=one.name,
                status=Status.failed if one.name == "memory" else Status.skipped,
                seconds=1.0,
                figures={},
                reasons=["a reason"],
                smoke=plan.smoke,
                machine=plan.machine,
                code="",
            )
            for one in parts
        ]

    monkeypatch.setattr(runner, "run_parts", pretend)
    return calls


def test_gpu__chosen_parts_in_the_order_of_the_report(
    asked: list[tuple[list[str], ReportPlan]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["benchmark", "gpu", "--smoke", "--output", str(tmp_path), "--again", "--time-factor", "2.5"]
    assert main([*words, "--parts", "loader, sweep"]) == 0
    ((names, plan),) = asked
    assert names == ["sweep", "loader"]
    assert (plan.folder, plan.smoke, plan.again, plan.time_factor) == (tmp_path, True, True, 2.5)
    written = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [one["part"] for one in written["parts"]] == [one.name for one in PARTS]
    assert str(tmp_path / "report.md") in capsys.readouterr().out


def test_gpu__fails_if_a_part_failed(asked: list[tuple[list[str], ReportPlan]], tmp_path: Path) -> None:
    assert main(["benchmark", "gpu", "--smoke", "--output", str(tmp_path)]) == 1
    assert asked[0][0] == [one.name for one in PARTS]


def test_gpu__without_a_gpu(
    asked: list[tuple[list[str], ReportPlan]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["benchmark", "gpu", "--output", str(tmp_path / "report")]) == 2
    assert capsys.readouterr().err.startswith("kelip: torch sees no GPU here; run this on a machine with one, or try")
    assert not asked
    assert not (tmp_path / "report").exists()


def test_gpu__unknown_part(asked: list[tuple[list[str], ReportPlan]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["benchmark", "gpu", "--smoke", "--parts", "sweep,memroy"]) == 2
    assert "kelip: --parts 'memroy': the parts are pretrain, certificate" in capsys.readouterr().err
    assert not asked


@pytest.mark.parametrize("value", ["0", "-1", "inf", "nan", "fast"])
def test_gpu__time_factor_must_be_positive(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main(["benchmark", "gpu", "--smoke", "--time-factor", value])
    assert error.value.code == 2
    assert f"{value} must be a number above 0" in capsys.readouterr().err
