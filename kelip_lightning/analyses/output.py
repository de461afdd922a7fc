"""What an analysis leaves on disk: records, plots and whose they are.

FOLDER/
    summary.csv   every metric with its interval          items.csv   one row per caption, word pair or query
    analysis.json both, with the model, the settings and the statements       *.png   plots
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

from kelip_lightning.analyses.records import Findings
from kelip_lightning.errors import RunFolderError
from kelip_lightning.runs.environment import describe_environment
from kelip_lightning.runs.folder import RunFolder


@dataclass(slots=True, kw_only=True)
class Outcome:
    """The result of an analysis with its plots."""

    findings: Findings
    plots: dict[str, np.ndarray] = field(default_factory=dict)
    """File name without ending -> uint8 (H, W, 3)."""


def checkpoint_identity(run: RunFolder) -> dict[str, Any]:
    """Which weights were analysed: the run, the SHA-256 of its model, and the code that trained it."""
    weights = run.dual_encoder / "model.safetensors"
    with weights.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    trained_with = None
    if run.environment.is_file():
        trained_with = json.loads(run.environment.read_text(encoding="utf-8"))
    return {"run": run.name, "weights_sha256": digest, "trained_with": trained_with}


def as_document(analysis: str, run: RunFolder, settings: str, findings: Findings) -> dict[str, Any]:
    """Everything but the plots, for JSON.

    Args:
        analysis: Name on the command line.
        run: The run that was analysed.
        settings: The resolved settings as YAML.
        findings: What came out.
    """
    return {
        "analysis": analysis,
        "checkpoint": checkpoint_identity(run),
        "analysed_with": describe_environment(),
        "settings": settings,
        "statements": findings.statements,
        "summary": [one.row() for one in findings.summary],
        "items": findings.items,
    }


def prepare_folder(folder: Path) -> None:
    """Make the output folder, before anything is computed.

    Raises:
        RunFolderError: It cannot be written, or holds files of something else.
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
    """Write the files listed at the head of this module, over those of an earlier analysis."""
    for old in folder.glob("*.png"):
        old.unlink()
    text = json.dumps(document, ensure_ascii=False, indent=2)
    (folder / "analysis.json").write_text(text + "\n", encoding="utf-8")
    _write_csv(folder / "summary.csv", document["summary"])
    _write_csv(folder / "items.csv", document["items"])
    for name, pixels in plots.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")


def _write_csv(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Rows with the union of their columns; a byte-order mark, without which spreadsheets misread Hangul."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    with file.open("w", encoding="utf-8-sig", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)
