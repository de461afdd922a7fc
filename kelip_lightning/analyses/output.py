"""Findings of an analysis, and the files that store them.

FOLDER/
    summary.csv     every metric with its interval
    items.csv       one row per caption, word pair, question or query
    analysis.json   both, with the model, the settings and the statements
    *.png           plots
"""

import csv
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.environment import describe_environment
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.statistics.bootstrap import Interval

Item = dict[str, str | int | float | bool | None]
"""One row per word pair, caption or query: column -> value."""


def number(item: Item, column: str) -> float:
    """The value of a numeric column."""
    value = item[column]
    assert isinstance(value, int | float)
    return float(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """A metric with its 95 % bootstrap interval."""

    subject: str
    """An evaluation set, a topic, a relation."""
    measure: str
    """Name of the metric, for example `ko_to_en_R@1`."""
    interval: Interval
    count: int
    """Number of items."""
    chance: float | None = None
    """Chance level; `None`: unknown."""
    headline: bool = True
    """Whether the short table shows it."""

    def row(self) -> dict[str, str | float | int | None]:
        """As a row of summary.csv."""
        return {
            "subject": self.subject,
            "measure": self.measure,
            "value": self.interval.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "count": self.count,
            "chance": self.chance,
        }


@dataclass(slots=True, kw_only=True)
class Findings:
    """The result of an analysis."""

    summary: list[Finding] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)
    """Conclusions, one sentence each, by fixed rules."""

    def extend(self, other: "Findings") -> None:
        """Append the findings of another part of the analysis."""
        self.summary += other.summary
        self.items += other.items
        self.statements += other.statements


@dataclass(slots=True, kw_only=True)
class Outcome:
    """Findings of an analysis with its plots."""

    findings: Findings
    plots: dict[str, np.ndarray] = field(default_factory=dict)
    """File stem -> uint8 (H, W, 3)."""


def checkpoint_identity(run: RunFolder) -> dict[str, Any]:
    """The analysed weights: the run, the SHA-256 of its model, and the environment that trained it."""
    weights = run.dual_encoder / "model.safetensors"
    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    trained_with = None
    if run.environment.is_file():
        trained_with = json.loads(run.environment.read_text(encoding="utf-8"))
    return {"run": run.name, "weights_sha256": digest, "trained_with": trained_with}


def as_document(analysis: str, runs: Sequence[RunFolder], settings: str, findings: Findings) -> dict[str, Any]:
    """Contents of analysis.json; `checkpoint` is a list if there are several runs.

    Args:
        analysis: Name on the command line.
        runs: The analysed runs, at least one.
        settings: The resolved settings as YAML.
        findings: Of the analysis.
    """
    identities = [checkpoint_identity(run) for run in runs]
    return {
        "analysis": analysis,
        "checkpoint": identities[0] if len(identities) == 1 else identities,
        "analysed_with": describe_environment(),
        "settings": settings,
        "statements": findings.statements,
        "summary": [one.row() for one in findings.summary],
        "items": findings.items,
    }


def prepare_folder(folder: Path) -> None:
    """Create the output folder; called before anything is computed.

    Raises:
        RunFolderError: It cannot be written, or holds other files.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "analysis.json").is_file():
        raise RunFolderError(f"{folder} holds files of something else; choose another folder with --output FOLDER")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunFolderError(
            f"{folder} cannot be written ({error.strerror or error}); choose another folder with --output FOLDER"
        ) from error


def write_record(folder: Path, document: Mapping[str, Any], plots: Mapping[str, np.ndarray]) -> None:
    """Write the files listed in the module docstring, over those of an earlier analysis."""
    for old in folder.glob("*.png"):
        old.unlink()
    text = json.dumps(document, ensure_ascii=False, indent=2)
    (folder / "analysis.json").write_text(text + "\n", encoding="utf-8")
    _write_csv(folder / "summary.csv", document["summary"])
    _write_csv(folder / "items.csv", document["items"])
    for name, pixels in plots.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")


def _write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the union of their columns; with a byte-order mark, which spreadsheets need to read Hangul."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with file.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
