"""`kelip ablate --power` and `--grid`: their tables, their summary, and options that would be ignored."""

from dataclasses import replace

import pytest

from kelip_lightning.cli import main
from kelip_lightning.cli.ablate_power import print_grid, summary_lines
from kelip_lightning.statistics import simulation
from kelip_lightning.statistics.simulation import GridCell, Rates, SimulatedStudy
from tests.paths import ROOT

FILE = str(ROOT / "experiments" / "ablations" / "training_schemes.yaml")


def _cell(false: float, *, before: float = 0.0, studies: int = 2000, variants: int = 2) -> GridCell:
    rates = [Rates(false_winner=value, found=0.2, num_studies=studies) for value in (0.01, false, 0.02)]
    earlier = [Rates(false_winner=before, found=0.1, num_studies=studies)] * 3
    return GridCell(study=SimulatedStudy(num_variants=variants), rates=rates, before=earlier)


def test_power__a_row_per_difference_by_both_rules(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", FILE, "--power", "--studies", "20", "--seeds", "2"]) == 0
    printed = capsys.readouterr().out
    assert "20 simulated studies: 6 variants, 2 seeds, 1,000 items" in printed
    assert all(f"{size:+d} points" in printed for size in (1, 2, 3, 5, 10))
    assert printed.count("rule before") == 2


def test_power__of_other_items_and_another_spread(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--studies", "200", "--seeds", "3", "--items", "300", "--spread", "0"]
    assert main(["ablate", FILE, "--power", *words]) == 0
    printed = capsys.readouterr().out
    assert "3 seeds, 300 items" in printed and printed.count("rule before") == 1 and "seed spread 0 points" in printed

    def share(row: str) -> float:
        return float(next(line for line in printed.splitlines() if row in line).split("│")[2].strip().rstrip(" %"))

    # Without a spread of seeds, 3 x 300 outcomes a variant: a standard error of a difference near 2 points.
    assert share("+2 points") < 20 < 80 < share("+10 points")


def test_grid__a_row_per_cell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    families = [replace(simulation.FAMILIES[3], seed_spread=0.0)]
    monkeypatch.setattr("kelip_lightning.cli.ablate_power.FAMILIES", families)
    print_grid(4, 1)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.startswith("| 5%")]
    assert len(rows) == 27
    assert {line.count("|") for line in lines if line.startswith("|")} == {14}
    assert [row.split(" | ")[4:7] for row in rows[:4]] == [
        ["2", "2", "300"],
        ["2", "2", "1,000"],
        ["2", "2", "3,000"],
        ["2", "3", "300"],
    ]


def test_grid__cells_above_the_level_are_simulated_again_ten_times(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [_cell(0.04), _cell(0.06, variants=3), _cell(0.07, variants=5)]
    monkeypatch.setattr("kelip_lightning.cli.ablate_power.FAMILIES", simulation.FAMILIES[:1])
    monkeypatch.setattr("kelip_lightning.cli.ablate_power.simulate_family", lambda *_: cells)
    asked = []

    def simulate(study: SimulatedStudy, effects: tuple[float, ...], count: int, seed: int) -> list[Rates]:
        asked.append((study.num_variants, effects, count, seed))
        return [Rates(false_winner=0.04 + seed / 1000, found=0.2, num_studies=count) for _ in effects]

    monkeypatch.setattr("kelip_lightning.cli.ablate_power.simulate", simulate)
    print_grid(100, 1)
    assert asked == [(3, simulation.EFFECTS, 1000, 1), (5, simulation.EFFECTS, 1000, 2)]
    # sqrt(0.042 x 0.958 / 1000)
    assert capsys.readouterr().out.splitlines()[-1] == (
        "The 2 cells with a rate above 5% again, 1,000 studies each, with other random numbers: at most 4.2 % false "
        "winners (standard error 0.6 %)."
    )


def test_summary_lines__the_worst_cell_and_those_above_5_percent() -> None:
    lines = summary_lines([_cell(0.04), _cell(0.056, variants=7), _cell(0.07, variants=5, before=0.03)])
    assert lines[0].startswith(
        "Worst cell: 7.0 % false winners (standard error 0.6 %) with 30%, 1, 1 x, 1, 5, 3, 1,000"
    )
    # 7 % is 3.5 standard errors above 5 %, 5.6 % is 1.2.
    assert lines[1] == "Of 9 rates 2 are above 5%, 1 of them by more than two standard errors."
    assert lines[2] == "Worst cell of the rule before: 3.0 %."


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--dry-run", "--studies", "5"], "--studies counts simulated studies: give --power or --grid too"),
        (["--dry-run", "--items", "5"], "--items describes the simulated studies of --power: give it too"),
        (["--grid", "--spread", "1"], "--spread describes the simulated studies of --power: give it too"),
        (["--power", "--scale", "huge"], "--scale huge"),
    ],
)
def test_ablate__refuses(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ablate", FILE, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["half", "-1", "50", "nan"])
def test_ablate__refuses_a_spread_that_is_none(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["ablate", FILE, "--power", f"--spread={text}"])
    assert f"{text} must be a number of points from 0 to below 50" in capsys.readouterr().err
