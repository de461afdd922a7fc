"""Means, spread and paired differences of finished runs."""

import json
from pathlib import Path

import pytest

from kelip_lightning.cli import main
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.compare import compare_runs, spread_of


def _run(folder: Path, **metrics: float) -> Path:
    folder.mkdir(parents=True)
    report = {"step": 1, "metrics": metrics, "chance": {"eval/set_ko/image_to_text_R@1": 0.01}}
    (folder / "report.json").write_text(json.dumps(report), encoding="utf-8")
    return folder


@pytest.fixture
def groups(tmp_path: Path) -> dict[str, list[Path]]:
    key = "eval/set_ko/image_to_text_R@1"
    scratch = [_run(tmp_path / f"scratch-{seed}", **{key: value}) for seed, value in enumerate([0.10, 0.14])]
    warm = [_run(tmp_path / f"warm-{seed}", **{key: value, "own": 1.0}) for seed, value in enumerate([0.20, 0.22])]
    return {"scratch": scratch, "warm": warm}


def test_spread_of__mean_and_sample_deviation() -> None:
    spread = spread_of([1.0, 2.0, 6.0])
    assert (spread.mean, spread.count) == (3.0, 3)
    assert spread.deviation == pytest.approx(7**0.5)
    assert spread_of([1.0]).deviation is None


def test_compare_runs__differences_are_paired(groups: dict[str, list[Path]]) -> None:
    (comparison,) = compare_runs(groups)
    assert comparison.chance == 0.01
    assert comparison.groups["scratch"].mean == pytest.approx(0.12)
    assert comparison.difference is not None
    assert comparison.difference.mean == pytest.approx(0.09)
    assert comparison.difference.deviation == pytest.approx(0.02 / 2**0.5)


def test_compare_runs__unequal_groups_have_no_difference(groups: dict[str, list[Path]]) -> None:
    (comparison,) = compare_runs({"scratch": groups["scratch"], "warm": groups["warm"][:1]})
    assert comparison.difference is None


def test_compare_runs__names_a_run_without_a_report(groups: dict[str, list[Path]], tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"unfinished has no report\.json"):
        compare_runs({**groups, "other": [tmp_path / "unfinished"]})


def test_compare__prints_markdown(groups: dict[str, list[Path]], capsys: pytest.CaptureFixture[str]) -> None:
    words = [f"{name}={','.join(map(str, runs))}" for name, runs in groups.items()]
    assert main(["compare", *words]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "| metric | scratch | warm | difference | chance |"
    assert lines[2] == "| set_ko/image_to_text_R@1 | 12.0 ± 2.8 | 21.0 ± 1.4 | +9.0 ± 1.4 | 1.00 |"


def test_compare__refuses_a_word_that_is_no_group(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "runs/emoji"]) == 2
    assert "'runs/emoji' must be NAME=RUN,RUN,..." in capsys.readouterr().err
