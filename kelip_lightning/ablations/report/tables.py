"""results.csv, the source of every number in a report, and its companions."""

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from kelip_lightning.ablations.examples import Example
from kelip_lightning.ablations.findings import Cost, CurvePoint, Findings, RunRecord
from kelip_lightning.ablations.results import ALL_ITEMS, Result
from kelip_lightning.ablations.study import Study

Row = dict[str, Any]

COST_COLUMNS = tuple(field.name for field in fields(Cost) if field.name != "variant")
RESULT_COLUMNS = (
    *(field.name for field in fields(Result)),
    "chance",
    "untrained",
    "equal_compute",
    "equal_compute_tokens",
    *COST_COLUMNS,
)
"""Of results.csv: the fields of a result; the metric by chance, without training and at equal compute; a run's cost."""


def result_rows(findings: Findings) -> list[Row]:
    """The rows of results.csv. What is known of judged metrics alone is empty for others."""
    references = {one.metric: one for one in findings.references}
    equal = {(one.metric, one.variant): one for one in findings.equal_compute}
    costs = {one.variant: asdict(one) for one in findings.costs}
    rows = []
    for result in findings.results:
        whole = result.items == ALL_ITEMS
        reference = references.get(result.metric) if whole else None
        compute = equal.get((result.metric, result.variant)) if whole else None
        rows.append(
            asdict(result)
            | {
                "chance": reference and reference.chance,
                "untrained": reference and reference.untrained,
                "equal_compute": compute and compute.mean,
                "equal_compute_tokens": compute and compute.tokens,
            }
            | {column: costs[result.variant][column] for column in COST_COLUMNS}
        )
    return rows


def write_tables(folder: Path, study: Study, findings: Findings) -> None:
    """Write results.csv, curves.csv, examples.csv, runs.csv and results.json."""
    rows = result_rows(findings)
    _write_csv(folder / "results.csv", RESULT_COLUMNS, rows)
    _write_csv(folder / "curves.csv", _names(CurvePoint), [asdict(one) for one in findings.curves])
    _write_csv(folder / "examples.csv", _names(Example), [asdict(one) for one in findings.examples])
    _write_csv(folder / "runs.csv", _names(RunRecord), [asdict(one) for one in findings.runs])
    whole = {
        "study": study.name,
        "question": study.config.question,
        "paper": study.config.paper,
        "scale": study.scale_name,
        "base": str(study.base),
        "reference": study.config.reference,
        "variants": {
            name: {"about": config.about, "overrides": config.overrides}
            for name, config in study.config.variants_at(study.scale_name).items()
        },
        "results": rows,
        "runs": [asdict(one) for one in findings.runs],
        "notes": findings.notes,
    }
    text = json.dumps(whole, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "results.json").write_text(text + "\n", encoding="utf-8")


def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def _write_csv(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Every column of every row; none is an empty cell, numbers keep all their digits."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
