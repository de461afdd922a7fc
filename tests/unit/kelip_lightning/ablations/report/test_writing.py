"""The written report: stored numbers, one source for all of them, escaping, charts."""

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from kelip_lightning.ablations.collect import collect
from kelip_lightning.ablations.pool import find_folder
from kelip_lightning.ablations.report.tables import QUICK, written
from kelip_lightning.ablations.report.writing import write_report
from kelip_lightning.ablations.study import Study
from kelip_lightning.evaluation.tasks import TaskItems
from kelip_lightning.runs.items import evaluation_of, write_items

RATES = {"plain": 0.3, "longer": 0.8, "warm": 0.31}
NUMBER = re.compile(
    r'<span class="number" data-metric="([^"]*)" data-items="([^"]*)" data-variant="([^"]*)" data-column="([^"]*)">'
    r"([^<]*)</span>"
)
EXAMPLE_COLUMNS = ("ranked higher", "ranked lower")


@pytest.fixture
def folder(study: Study, finish: Callable[..., None]) -> Path:
    for run in study.runs:
        if (run.variant, run.seed) != ("warm", 2):
            finish(run, RATES[run.variant])
    return write_report(study, collect(study))


def _cells(page: str) -> list[tuple[str, str]]:
    """Label and text of the table cells, without the marked numbers."""
    cells = re.findall(r'<td data-label="([^"]*)">(.*?)</td>', page)
    return [(label, re.sub(r"<[^>]*>", "", NUMBER.sub("", content))) for label, content in cells]


def _results(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]
    return rows


def test_html__every_number_is_the_one_in_results_json(folder: Path) -> None:
    rows = {(row["metric"], row["items"], row["variant"]): row for row in _results(folder)}
    page = (folder / "report.html").read_text(encoding="utf-8")
    numbers = NUMBER.findall(page)
    assert len(numbers) > 50
    for metric, items, variant, column, text in numbers:
        assert text.replace("&lt;", "<") == written(column, rows[metric, items, variant][column], metric), column
    # Elsewhere in the tables digits are only in names, overrides, revisions and seeds.
    named = {"variant", "what it is", "overrides", "folder", "revision", "seed", "metric", *EXAMPLE_COLUMNS}
    assert not [cell for cell in _cells(page) if re.search(r"\d", cell[1]) and cell[0] not in named]


def test_csv__has_the_numbers_of_results_json(folder: Path) -> None:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    typed = [{column: "" if value is None else str(value) for column, value in row.items()} for row in _results(folder)]
    assert rows == typed


def test_html__examples_are_those_of_examples_csv(folder: Path) -> None:
    with (folder / "examples.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} == {"longer", "warm"}
    page = (folder / "report.html").read_text(encoding="utf-8")
    shown = ", ".join(text for label, text in _cells(page) if label in EXAMPLE_COLUMNS)
    expected = [f"{row['text']} ({float(row['reference_rank']):g} → {float(row['rank']):g})" for row in rows]
    assert shown == ", ".join(expected)


def test_html__is_one_file_and_escapes_its_input(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"\s(?:src|href)=", page)
    assert not re.search(r"(?:https?:)?//(?!www\.w3\.org)", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert "Is &lt;b&gt; better than &amp; c?" in page
    assert "빨간" in page and "font/ttf;base64," in page


@pytest.mark.parametrize(
    "line",
    [
        "Yes, higher than plain on the judged metric: longer (on 1 of 1). Inconclusive on the judged metric: warm.",
        "### unseen_design, ko: image to text R@1: higher than with plain (34.4 %)?",
        "- Yes, longer: +48.9 [+27.5, +70.3] points",
        "- Inconclusive, warm: -2.1 [-20.8, +16.7] points",
        "120 items. By chance 1.0, untrained 2.0. In percent; differences in points.",
        "| plain | 3 | 34.4 [24.0, 44.9] | – | – | reference | – | 34.4 |",
        "| longer | 3 | 83.3 [70.7, 95.9] | +48.9 [+27.5, +70.3] | 0.016 | better | 34.9 | 42.7 |",
        "| warm | 2 | 30.8 [0.0, 66.1] | -2.1 [-20.8, +16.7] | 0.707 | inconclusive | 30.3 | 30.8 |",
        "![Training loss, contrastive](plots/loss-contrastive.svg)",
        "| unseen_design, ko: image to text R@1 | colour | 30 | longer | 87.8 | +53.3 [+42.1, +64.5] | better |",
        "| longer | 1,600 | 1.2 M | 9.4 M | 3.6 M | 101 | – |",
    ],
)
def test_markdown__stored_lines(folder: Path, line: str) -> None:
    assert f"\n{line}\n" in (folder / "report.md").read_text(encoding="utf-8")


def test_report__names_missing_runs(folder: Path) -> None:
    note = "1 of 9 runs have not finished and are left out: warm 2 (missing)"
    assert f"> {note}\n" in (folder / "report.md").read_text(encoding="utf-8")
    assert note in (folder / "report.html").read_text(encoding="utf-8")
    assert json.loads((folder / "results.json").read_text(encoding="utf-8"))["notes"] == [note]


def test_plots__are_svg_with_all_variants(folder: Path, study: Study) -> None:
    plots = {file.name: file for file in (folder / "plots").iterdir()}
    assert set(plots) == {
        "loss-contrastive.svg",
        *(f"unseen_design_ko-image_to_text_R1-{kind}.svg" for kind in ("differences", "steps", "tokens")),
    }
    report = (folder / "report.md").read_text(encoding="utf-8")
    assert set(re.findall(r"!\[[^\]]+\]\(plots/([^)]+)\)", report)) == set(plots)
    for name, file in plots.items():
        assert ElementTree.parse(file).getroot().tag.endswith("svg")
        drawn = set(re.findall("<!-- ([a-z]+)", file.read_text(encoding="utf-8")))  # matplotlib names drawn text so
        assert drawn >= set(study.variants[1:] if "differences" in name else study.variants)


AXES = {
    "differences": {"difference from plain, points"},
    "steps": {"steps of contrastive training", "R@1, %", "chance", "untrained"},
    "tokens": {"image tokens", "R@1, %", "chance", "untrained"},
    "loss": {"steps", "loss"},
}


def test_html__charts_have_titles_of_axes_and_lines_of_chance_and_the_untrained_model(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    drawn = [set(re.findall("<!-- (.*?) -->", svg)) for svg in re.findall(r"<figure>(<svg.*?)<figcaption>", page, re.S)]
    assert len(drawn) == len(AXES)
    for texts, expected in zip(drawn, AXES.values(), strict=True):
        assert texts >= expected


def test_losses__are_those_of_both_names(folder: Path, study: Study) -> None:
    with (folder / "losses.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["variant"] == "plain"]
    steps = study.runs[0].plan.stages["contrastive"].max_steps
    assert [(row["seed"], int(row["step"]), float(row["loss"])) for row in rows] == [
        (seed, step, loss) for seed in "012" for step, loss in ((steps // 4, 4.0), (steps // 2, 2.0 + int(seed)))
    ]


@pytest.mark.parametrize("quick", [False, True])
def test_report__a_quick_study_has_a_banner(quick: bool, study: Study, finish: Callable[..., None]) -> None:
    short = replace(study, quick=quick)
    for run in short.runs:
        finish(run, RATES[run.variant])
    folder = write_report(short, collect(short))
    page = _Banners()
    page.feed((folder / "report.html").read_text(encoding="utf-8"))
    assert page.texts == ([QUICK] if quick else [])
    assert (f"> **{QUICK}**" in (folder / "report.md").read_text(encoding="utf-8")) is quick
    assert json.loads((folder / "results.json").read_text(encoding="utf-8"))["quick"] is quick


def test_report__marks_low_power(folder: Path, study: Study) -> None:
    report = collect(study)
    results = [replace(one, low_power=one.variant == "longer" and one.items == "all") for one in report.results]
    assert "low power" not in (folder / "report.md").read_text(encoding="utf-8").split("## How to read it")[0]
    write_report(study, replace(report, results=results))
    text, page = ((folder / name).read_text(encoding="utf-8") for name in ("report.md", "report.html"))
    assert "\n- Yes, longer: +48.9 [+27.5, +70.3] points (low power)\n" in text
    assert " | better (low power) | " in text
    assert page.count('<span class="low-power">low power</span>') == 2
    assert "<!-- longer: better (low power) -->" in page


class _Banners(HTMLParser):
    """Texts of the elements with the role alert."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = ("role", "alert") in attrs

    def handle_endtag(self, tag: str) -> None:
        self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.texts.append(data)


def test_report__cosines_are_no_percentages(study: Study, finish: Callable[..., None]) -> None:
    cosine = "eval/captions/matched_minus_random"
    own = replace(study, scale=replace(study.scale, metrics=[cosine]))
    for run in own.runs:
        finish(run, RATES[run.variant])
        file = find_folder(own.pool, run).items
        values = torch.full((40,), 0.25 + 0.125 * (run.variant == "longer"), dtype=torch.float64)
        values += 0.001 * torch.arange(40) + 0.0005 * run.seed
        items = TaskItems(task=cosine, outcomes=values, groups=torch.arange(40), texts=[str(n) for n in range(40)])
        write_items(file, [items], str(evaluation_of(file)))
    folder = write_report(own, collect(own))
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "higher than with plain (0.270)?" in text
    assert re.search(r"\n- Yes, longer: \+0\.125 \[\+0\.\d{3}, \+0\.\d{3}\]\n", text)
    assert "A difference of cosines, from -2 to 2, and no percentage." in text
    drawn = (folder / "plots" / "captions-matched_minus_random-differences.svg").read_text(encoding="utf-8")
    assert "<!-- difference from plain, difference of cosines -->" in drawn
    assert "×" not in text
    assert "percent" not in text.replace("no percentage", "")


def test_report__is_deterministic_and_replaces_an_earlier_one(folder: Path, study: Study) -> None:
    before = {file: file.read_bytes() for file in [*folder.glob("*.*"), *folder.glob("plots/*")]}
    write_report(study, collect(study))
    assert {file: file.read_bytes() for file in before} == before
    assert len(list((folder / "tensorboard").glob("plain-0/events.out.tfevents.*"))) == 1
