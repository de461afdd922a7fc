"""What the templates of docs/results/tables look up in the files of docs/results; all values are text, as in the files.

Raises LookupError where a file lacks a row or a column, or has a row twice.
"""

import csv
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import yaml

from kelip_lightning.analyses.analogy import BASELINES, PAIRINGS
from kelip_lightning.cli.report import COMPARED
from kelip_lightning.evaluation.metric_names import written
from tests.paths import ROOT

RESULTS = ROOT / "docs" / "results"
STUDY_FILES = ROOT / "experiments" / "ablations"


def studies() -> list[str]:
    """Names of the studies, the folders of ablations/."""
    return sorted(folder.name for folder in (RESULTS / "ablations").iterdir())


def variants(name: str) -> list[str]:
    """Variants of a study, its reference first."""
    return list(dict.fromkeys(row["variant"] for row in _rows(RESULTS / "ablations" / name / "results.csv")))


def study(name: str, metric: str, variant: str, column: str) -> str:
    """A cell of a study's results.csv, over all items."""
    wanted = {"metric": f"eval/{metric}", "variant": variant, "items": "all"}
    return _cell(RESULTS / "ablations" / name / "results.csv", column, wanted)


def claims(name: str) -> list[dict[str, str]]:
    """The rows of a study's claims.csv, and as `text` the claim in words, of the study's file."""
    stated = yaml.safe_load((STUDY_FILES / f"{name}.yaml").read_text(encoding="utf-8"))
    texts = {claim: one["text"] for claim, one in stated["scales"]["emoji"].get("claims", {}).items()}
    return [{**row, "text": texts[row["claim"]]} for row in _rows(RESULTS / "ablations" / name / "claims.csv")]


def claim(name: str, which: str, variant: str, column: str) -> str:
    """A cell of a study's claims.csv."""
    return _cell(RESULTS / "ablations" / name / "claims.csv", column, {"claim": which, "variant": variant})


def difference(row: Mapping[str, str], column: str = "difference") -> str:
    """A difference of a claim, in the unit of its metrics."""
    return written(row["metrics"].split()[0], float(row[column]), signed=True)


def trained() -> dict[str, str | int | float]:
    """Of the runs of all studies, each counted once: `num_runs`, `revision`, `steps_share`, `least_steps_share`.

    And `hours`, the sum of their times.

    Raises:
        LookupError: The runs are of several revisions, or one has not finished.
    """
    runs = {row["folder"]: row for name in studies() for row in _rows(RESULTS / "ablations" / name / "runs.csv")}
    revisions = {row["revision"] for row in runs.values()}
    if len(revisions) != 1 or {row["state"] for row in runs.values()} != {"finished"}:
        raise LookupError(f"the runs are of revisions {sorted(revisions)}, or not all have finished")
    seconds = sum(float(row["seconds"]) for row in runs.values())
    return {
        "num_runs": len(runs),
        "hours": seconds / 3600,
        "steps_share": sum(float(row["steps_share"]) * float(row["seconds"]) for row in runs.values()) / seconds,
        "least_steps_share": min(float(row["steps_share"]) for row in runs.values()),
        "revision": revisions.pop(),
    }


def curve(name: str, metric: str, variant: str) -> dict[int, float]:
    """Evaluated contrastive step -> the metric's mean over seeds, in steps' order."""
    values: dict[int, list[float]] = {}
    for row in _rows(RESULTS / "ablations" / name / "curves.csv"):
        if (row["metric"], row["variant"]) == (f"eval/{metric}", variant):
            values.setdefault(int(row["step"]), []).append(float(row["value"]))
    return {step: sum(own) / len(own) for step, own in sorted(values.items())}


def lengths() -> list[str]:
    """Variants of the study of the length that were trained, shortest first (length.csv is its curves.csv)."""
    return sorted({row["variant"] for row in _rows(RESULTS / "length.csv")}, key=lambda name: int(name.split("_")[1]))


def at_length(variant: str, *metrics: str) -> list[tuple[str, ...]]:
    """The metrics after the last step, of each seed."""
    own = [row for row in _rows(RESULTS / "length.csv") if row["variant"] == variant]
    last = max((int(row["step"]) for row in own), default=0)
    by_metric = [
        [row["value"] for row in own if row["metric"] == f"eval/{metric}" and int(row["step"]) == last]
        for metric in metrics
    ]
    return list(zip(*by_metric, strict=True))


def grid(**wanted: str) -> list[dict[str, str]]:
    """The cells of the simulated grid with these values, as `kelip ablate FILE --grid` prints them."""
    lines = (RESULTS / "grid.md").read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    names = [name.replace(" ", "_").replace(",", "").replace("+", "") for name in table[0]]
    rows = [dict(zip(names, cells, strict=True)) for cells in table[2:]]
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def grid_summary(**wanted: str) -> dict[str, str | int]:
    """Of the false winners in cells with these values: `mean`, `worst`, how many of `count` rates are `above` 5 %.

    And `before`, the worst of the rule before.
    """
    cells = grid(**wanted)
    rates = [_number(row[name]) for row in cells for name in ("false_none", "false_3", "false_5")]
    return {
        "mean": f"{sum(rates) / len(rates):.1f} %",
        "worst": f"{max(rates):.1f} %",
        "above": sum(rate > 5 for rate in rates),
        "count": len(rates),
        "before": f"{max(_number(row['false_before']) for row in cells):.1f} %",
    }


def grid_conclusion() -> list[str]:
    """The lines below the table of the grid."""
    lines = (RESULTS / "grid.md").read_text(encoding="utf-8").splitlines()
    last = max(place for place, line in enumerate(lines) if line.startswith("|"))
    return [line for line in lines[last + 1 :] if line]


def analysis(name: str, subject: str, measure: str, column: str = "value") -> str:
    """A cell of an analysis's summary.csv."""
    return _cell(RESULTS / "analyses" / name / "summary.csv", column, {"subject": subject, "measure": measure})


def relations() -> list[str]:
    """Relations of the analogies, then their mean."""
    rows = _rows(RESULTS / "analyses" / "analogy" / "summary.csv")
    found = dict.fromkeys(row["subject"].split(": ")[1] for row in rows if row["measure"] == "ko top-1, analogy")
    return sorted(found, key=lambda name: name.startswith("mean"))


def works_in(subject: str) -> list[str]:
    """Languages of the texts in which an analogy beats both baselines (`ko-en`: target Korean, source English).

    By the whole 95 % interval, which is what `kelip analyze analogy` calls to work.
    """

    def least(pairing: str) -> float:
        return min(float(analysis("analogy", subject, f"{pairing} top-1, analogy − {one}", "low")) for one in BASELINES)

    return [pairing for pairing in PAIRINGS if least(pairing) > 0]


def compared_metrics() -> list[str]:
    """Metrics of mae_study.csv, what `make mae-study` wrote, that it prints too."""
    metrics = dict.fromkeys(row["metric"] for row in _rows(RESULTS / "mae_study.csv"))
    return [metric.removeprefix("eval/") for metric in metrics if metric.endswith(COMPARED)]


def compared(metric: str, group: str, column: str) -> str:
    """A cell of mae_study.csv."""
    return _cell(RESULTS / "mae_study.csv", column, {"metric": f"eval/{metric}", "group": group})


FUNCTIONS = (
    *(studies, variants, study, claims, claim, trained, curve, lengths, at_length, grid, grid_summary),
    *(grid_conclusion, analysis, relations, works_in, compared_metrics, compared),
)
FILTERS = {
    "percent": lambda share: f"{100 * float(share):.1f}",
    "small_percent": lambda share: f"{100 * float(share):.2f}",
    "whole_percent": lambda share: f"{float(share):.0%}",
    "points": lambda share: f"{100 * float(share):+.1f}",
    "plain": lambda value: f"{float(value):.2f}",
    "nearest": lambda steps, step: min(steps, key=lambda one: abs(one - step)),
    "count": lambda value: f"{int(float(value)):,}",
    "difference": difference,
    "largest": lambda rates: max(rates, key=_number),
    "of_chance": lambda chance: f"{round(1 / float(chance)):,}",
}
"""`of_chance`: of how many one is right by chance; `nearest`: the step of a curve that is nearest to another."""


def _number(percent: str) -> float:
    return float(percent.removesuffix(" %"))


@cache
def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def _cell(file: Path, column: str, wanted: Mapping[str, str]) -> str:
    found = [row for row in _rows(file) if all(row[key] == value for key, value in wanted.items())]
    if len(found) != 1:
        raise LookupError(f"{file} has {len(found)} rows with {wanted}")
    if not found[0].get(column):
        raise LookupError(f"{file} has no {column} with {wanted}")
    return found[0][column]
