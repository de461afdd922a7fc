"""The report: every number comes from results.csv, and what is missing is said."""

import csv
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from kelip_lightning.ablations.findings import collect
from kelip_lightning.ablations.pool import find_run
from kelip_lightning.ablations.report.charts import style_of
from kelip_lightning.ablations.report.wording import metric_label
from kelip_lightning.ablations.report.writing import write_report
from kelip_lightning.ablations.study import Study, contrastive_of
from kelip_lightning.cli import main
from kelip_lightning.errors import RunFolderError
from kelip_lightning.evaluation.items import TaskItems
from kelip_lightning.runs.folder import RunFolder

METRIC = "eval/unseen_design_ko/image_to_text_R@1"
RATES = {"plain": 0.3, "longer": 0.8, "warm": 0.31}
PERCENT = {"mean", "low", "high", "chance", "untrained", "equal_compute"}
POINTS = {"difference", "difference_low", "difference_high"}
EXAMPLE_COLUMNS = ("further to the front", "further back")


@pytest.fixture
def folder(study: Study, finish: Callable[..., None]) -> Path:
    for run in study.runs:
        if (run.variant, run.seed) != ("warm", 2):
            finish(run, RATES[run.variant])
    return write_report(study, collect(study))


def _rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "results.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


class _Cells(HTMLParser):
    """The marked numbers, and the text of table cells that stands outside of them."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers: list[tuple[dict[str, str], str]] = []
        self.loose: list[tuple[str, str]] = []
        self.sources: list[str] = []
        self._mark: dict[str, str] | None = None
        self._label: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {key: value or "" for key, value in attrs}
        self.sources += [given[key] for key in ("src", "href") if key in given]
        if tag == "td":
            self._label = given["data-label"]
        if "data-column" in given:
            self._mark = given

    def handle_endtag(self, tag: str) -> None:
        self._label = None if tag == "td" else self._label
        self._mark = None if tag == "span" else self._mark

    def handle_data(self, data: str) -> None:
        if self._mark is not None:
            self.numbers.append((self._mark, data.strip()))
        elif self._label is not None:
            self.loose.append((self._label, data))


def _written(column: str, value: str) -> str:
    """What the page must show for a cell of results.csv."""
    if not value:
        return "–"
    number = float(value)
    if column in PERCENT:
        return f"{number * 100:.1f}"
    if column in POINTS:
        return f"{number * 100:+.1f}"
    if column == "adjusted_p_value":
        return "< 0.001" if number < 0.001 else f"{number:.3f}"
    if column in ("tokens", "images", "parameters") and number >= 1e5:
        return f"{number / 1e6:,.1f} M"
    return f"{number:,.0f}"


def test_html__every_number_is_the_one_in_results_csv(folder: Path) -> None:
    rows = {(row["metric"], row["items"], row["variant"]): row for row in _rows(folder)}
    cells = _Cells()
    cells.feed((folder / "report.html").read_text(encoding="utf-8"))
    assert len(cells.numbers) > 50
    for mark, text in cells.numbers:
        row = rows[mark["data-metric"], mark["data-items"], mark["data-variant"]]
        assert text == _written(mark["data-column"], row[mark["data-column"]]), mark
    # Elsewhere in the tables digits stand only in names, overrides, revisions and seeds.
    named = {"variant", "what it is", "overrides", "folder", "revision", "seed", "metric", *EXAMPLE_COLUMNS}
    assert not [(label, text) for label, text in cells.loose if re.search(r"\d", text) and label not in named]


def test_html__examples_are_those_of_examples_csv(folder: Path) -> None:
    with (folder / "examples.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["variant"] for row in rows} == {"longer", "warm"}
    cells = _Cells()
    cells.feed((folder / "report.html").read_text(encoding="utf-8"))
    shown = [text for label, text in cells.loose if label in EXAMPLE_COLUMNS]
    for row in rows:
        ranks = f"{float(row['reference_rank']):g} → {float(row['rank']):g}"
        assert any(f"{row['text']} ({ranks})" in text for text in shown), row
    assert sum(text.count("→") for text in shown) == len(rows)


def test_html__is_one_file_and_escapes_what_it_is_given(folder: Path) -> None:
    page = (folder / "report.html").read_text(encoding="utf-8")
    cells = _Cells()
    cells.feed(page)
    assert cells.sources == []
    assert not re.search(r"(?:https?:)?//(?!www\.w3\.org)", re.sub(r"base64,[A-Za-z0-9+/=]+", "", page))
    assert "Is &lt;b&gt; better than &amp; c?" in page
    assert "빨간" in page and "font/ttf;base64," in page


def test_markdown__has_the_same_numbers(folder: Path) -> None:
    text = (folder / "report.md").read_text(encoding="utf-8")
    row = next(row for row in _rows(folder) if row["variant"] == "longer" and row["judged"] == "True")
    shown = {column: _written(column, row[column]) for column in (*PERCENT, *POINTS)}
    assert (
        f"| longer | 3 | {shown['mean']} [{shown['low']}, {shown['high']}] | {shown['difference']} "
        f"[{shown['difference_low']}, {shown['difference_high']}] |"
    ) in text
    assert f"- {metric_label(METRIC)}: better: longer ({shown['difference']}); cannot tell: warm" in text
    assert f"By chance 1.0, untrained {_written('untrained', row['untrained'])}." in text


def test_report__says_what_is_missing(folder: Path) -> None:
    note = "1 of 9 runs have not finished and are left out: warm 2 (to come)"
    assert note in (folder / "report.md").read_text(encoding="utf-8")
    assert note in (folder / "report.html").read_text(encoding="utf-8")
    assert json.loads((folder / "results.json").read_text(encoding="utf-8"))["notes"] == [note]


def test_results_csv__costs_and_equal_compute(folder: Path, study: Study) -> None:
    rows = {row["variant"]: row for row in _rows(folder) if row["judged"] == "True" and row["items"] == "all"}
    plain, longer = (next(run for run in study.runs if run.variant == name) for name in ("plain", "longer"))
    tokens = plain.plan.stages["contrastive"].tokens_forwarded
    assert int(rows["plain"]["tokens"]) == tokens == int(rows["longer"]["tokens"]) // 2
    assert float(rows["plain"]["seconds"]) == pytest.approx(101.0)  # 100, 101 and 102 s
    assert int(rows["longer"]["equal_compute_tokens"]) == tokens
    # Half way on a straight line from the untrained model's 0.02.
    halfway = (0.02 + float(rows["longer"]["mean"])) / 2
    assert float(rows["longer"]["equal_compute"]) == pytest.approx(halfway)
    assert float(rows["plain"]["equal_compute"]) == pytest.approx(float(rows["plain"]["mean"]))
    assert longer.plan.stages["contrastive"].max_steps == int(rows["longer"]["steps"])


def test_plots__are_svg_with_all_variants(folder: Path, study: Study) -> None:
    plots = {file.name: file for file in (folder / "plots").iterdir()}
    assert set(plots) == {
        f"unseen_design_ko-image_to_text_R1-{kind}.svg" for kind in ("differences", "steps", "tokens")
    }
    for name, file in plots.items():
        text = " ".join(ElementTree.parse(file).getroot().itertext())
        for variant in study.variants[1:] if "differences" in name else study.variants:
            assert variant in text


def test_report__can_be_written_again(folder: Path, study: Study) -> None:
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    write_report(study, collect(study))
    assert {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()} == before
    assert len(list((folder / "tensorboard").glob("plain-0/events.out.tfevents.*"))) == 1


def test_collect__without_the_reference_there_is_nothing_to_compare(study: Study, finish: Callable[..., None]) -> None:
    finish(study.runs[-1], 0.5)
    with pytest.raises(RunFolderError, match="no run of the reference 'plain' has finished"):
        collect(study)


def test_style_of__no_two_variants_look_alike() -> None:
    styles = style_of([str(number) for number in range(24)])
    assert len(set(styles.values())) == 24


def test_collect__reads_metrics_with_line_separators_in_names_and_a_last_line_that_was_cut(
    study: Study, finish: Callable[..., None]
) -> None:
    finish(study.runs[0], 0.5)
    metrics = find_run(study.pool, study.runs[0]).metrics
    before = collect(study).curves
    with metrics.open("a", encoding="utf-8") as file:
        file.write('{"stage": "contrastive", "step": 3, "eval/a\u2028b": 0.5}\n{"stage": "contr')
    assert collect(study).curves == before


@pytest.mark.parametrize(
    ("accelerator", "asked", "expected"),
    [("auto", "auto", "cuda"), ("gpu", "auto", "cuda"), ("cpu", "auto", "cpu"), ("cpu", "cuda:1", "cuda:1")],
)
def test_collect__evaluates_again_where_the_run_was_trained_or_where_it_is_asked_for(
    study: Study,
    finish: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    accelerator: str,
    asked: str,
    expected: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    run = study.runs[0]
    trainer = contrastive_of(run.experiment).trainer
    monkeypatch.setattr(trainer, "accelerator", accelerator)
    finish(run, 0.5)
    items = find_run(study.pool, run).items
    items.unlink()  # as if the run had known other sets
    devices: list[str] = []

    def items_of_run(_: RunFolder, __: Any, device: torch.device) -> list[TaskItems]:
        devices.append(str(device))
        ranks, texts = torch.zeros(8, dtype=torch.int64), [f"사과 {n}" for n in range(8)]
        return [TaskItems(task=METRIC.removesuffix("_R@1"), outcomes=ranks, groups=torch.arange(8), texts=texts)]

    monkeypatch.setattr("kelip_lightning.ablations.findings.items_of_run", items_of_run)
    collect(study, device=asked)
    assert devices == [expected]


def test_ablate__a_wrong_device_is_refused_before_any_run(
    study_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["ablate", str(study_file), "--output", str(tmp_path / "out"), "--device", "cuda"]) == 2
    assert "kelip: --device cuda: torch sees no GPU here; use auto or cpu" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
