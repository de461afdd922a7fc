"""A comparison as CSV, one row per metric and group, and as JSON with settings and reasons."""

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kelip_lightning.comparison.results import Comparison
from kelip_lightning.errors import ConfigError
from kelip_lightning.evaluation.metric_names import unit_of

COLUMNS = (
    *("metric", "unit", "chance", "num_items", "group", "num_runs", "mean", "deviation"),
    *("num_pairs", "difference", "difference_deviation", "difference_low", "difference_high", "interval_covers"),
    *("p_value", "adjusted_p_value", "verdict", "objection"),
)


def rows_of(comparison: Comparison) -> list[dict[str, Any]]:
    """The rows of the CSV file: values in the metric's own unit, `None` where there is none."""
    rows = []
    for one in comparison.metrics:
        for name, value in one.groups.items():
            row: dict[str, Any] = dict.fromkeys(COLUMNS) | {
                "metric": one.metric,
                "unit": unit_of(one.metric).value,
                "chance": one.chance,
                "num_items": one.num_items,
                "group": name,
                "num_runs": value.num_runs,
                "mean": value.mean,
                "deviation": value.deviation,
            }
            if (difference := one.differences.get(name)) is not None:
                row |= {
                    "num_pairs": difference.num_pairs,
                    "difference": difference.mean,
                    "difference_deviation": difference.deviation,
                    "difference_low": difference.low,
                    "difference_high": difference.high,
                    "interval_covers": difference.covers,
                    "p_value": difference.p_value,
                    "adjusted_p_value": difference.adjusted_p_value,
                    "verdict": difference.verdict,
                    "objection": difference.objection,
                }
            rows.append(row)
    return rows


def write_csv(file: Path, comparison: Comparison) -> None:
    """Write every metric; `None` is an empty cell, numbers keep all their digits.

    Raises:
        ConfigError: The file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows_of(comparison))
    except OSError as error:
        raise ConfigError([f"--csv {file} cannot be written ({error.strerror or error}); name another file"]) from error


def write_json(file: Path, comparison: Comparison) -> None:
    """Write runs, settings that differ, reasons without a verdict, notes, and every metric.

    Raises:
        ConfigError: The file cannot be written.
    """
    document = {
        "groups": comparison.runs,
        "settings": {
            "between": [_setting(asdict(one)) for one in comparison.between],
            "within": {name: [_setting(asdict(one)) for one in found] for name, found in comparison.within.items()},
        },
        "objections": [asdict(one) for one in comparison.objections],
        "notes": comparison.notes,
        "metrics": rows_of(comparison),
    }
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            [f"--json {file} cannot be written ({error.strerror or error}); name another file"]
        ) from error


def _setting(plain: dict[str, Any]) -> dict[str, Any]:
    return plain | {"role": plain["role"].value}
