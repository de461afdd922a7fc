"""metrics.jsonl: every logged metric, in machine-readable form."""

import json
import logging
import math
import os
from argparse import Namespace
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from data_modules.json_lines import append_json_lines, complete_lines, read_json_lines

_log = logging.getLogger(__name__)


class MetricsFileLogger(Logger):
    """Appends one JSON object per log entry: `stage`, `step`, then the metrics in Lightning's order.

    Each line is flushed, so that a run that is killed loses none. NaN and infinity become null, as JSON has neither.
    Lightning's epoch is omitted, since a stage is one Lightning epoch, and so is the time of day, so that two runs with
    the same losses write the same lines. `read_metrics` reads the file.

    Args:
        file: Created with its folder at the first line; several stages may share it.
        stage: Written into every line.
    """

    def __init__(self, file: Path, stage: str) -> None:
        super().__init__()
        self._file = file
        self._stage = stage

    @property
    def name(self) -> str:
        """The stage."""
        return self._stage

    @property
    def version(self) -> str:
        """Empty: a run folder holds one run."""
        return ""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a line, unless the entry holds only the epoch."""
        values = {key: _plain(value) for key, value in metrics.items() if key != "epoch"}
        if not values:
            return
        append_json_lines(self._file, [{"stage": self._stage, "step": step, **values}])

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: config.yaml holds them."""


def read_metrics(file: Path) -> Iterator[dict[str, Any]]:
    """The entries of metrics.jsonl, oldest first: `stage`, `step` and metrics; names of earlier revisions translated.

    Until revision 8b9bbc5, the training scalars of both stages were under `train/`, and counts of samples under
    `data/`. A run that was resumed by a later revision has both.

    Raises:
        OSError: The file cannot be read.
        DataError: A line is damaged; raised after the entries before it.
    """
    for entry in read_json_lines(file):
        yield {_current_name(key, str(entry.get("stage"))): value for key, value in entry.items()}


def _current_name(key: str, stage: str) -> str:
    group, _, rest = key.partition("/")
    match group:
        case "train":
            return f"{stage}/{rest.removeprefix('contrastive_')}"
        case "data":
            return f"samples/{rest}"
    return key


def cut_record(file: Path, stage: str, length: int | None) -> None:
    """Remove the lines after the checkpoint that a stage resumes from, as these steps are repeated.

    Args:
        file: metrics.jsonl; it need not exist.
        stage: The stage that resumes.
        length: Bytes of the file at the checkpoint; `None`: the stage restarts, and all of its lines are removed.
    """
    if not file.is_file():
        return
    data = file.read_bytes()
    if length is None:
        kept = b"".join(line + b"\n" for line in complete_lines(data) if _stage_of(line) not in (stage, None))
    else:
        kept = data[:length]
        if len(data) < length:
            _log.warning("%s is %d bytes shorter than its checkpoint recorded", file, length - len(data))
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(kept)
    os.replace(partial, file)


def lines_of_stage(file: Path, stage: str) -> list[bytes]:
    """The complete lines of a stage as written, each with its line feed; none if there is no file.

    Raises:
        OSError: The file cannot be read.
    """
    lines = complete_lines(file.read_bytes()) if file.is_file() else []
    return [line + b"\n" for line in lines if _stage_of(line) == stage]


def read_losses(file: Path) -> dict[str, list[tuple[int, float]]]:
    """Stage -> (step, training loss) of every logged step.

    Losses that were not finite are left out.

    Args:
        file: metrics.jsonl.

    Raises:
        OSError, DataError: The file cannot be read, or a complete line is damaged.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for line in read_metrics(file):
        stage, step = line.get("stage"), line.get("step")
        loss = line.get(f"{stage}/loss")
        if stage is not None and step is not None and loss is not None:
            found.setdefault(str(stage), []).append((int(step), float(loss)))
    return found


def _stage_of(line: bytes) -> str | None:
    """The stage that wrote a line; `None` for a damaged line."""
    try:
        stage = json.loads(line)["stage"]
    except (ValueError, KeyError, TypeError):
        return None
    return str(stage)


def _plain(value: Any) -> float | int | None:
    number = value.item() if hasattr(value, "item") else value
    return number if math.isfinite(number) else None
