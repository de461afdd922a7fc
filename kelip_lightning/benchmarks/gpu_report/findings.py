"""What a part of the report measures, written to a file as it goes, so that no end of the process loses it."""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from kelip_lightning.runs.folder import write_whole

Figure = float | int | str | bool
"""A number or a word of the report."""
FILE = "findings.json"


class PartSkippedError(Exception):
    """A part cannot run here; the message says what is missing and how to get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartSetting:
    """What a part is told."""

    folder: Path
    """Its own, which it may fill."""
    smoke: bool
    """Whether it runs on the CPU with tiny sizes."""
    seconds: float
    """Its time limit."""

    @property
    def device(self) -> str:
        """Cpu or cuda."""
        return "cpu" if self.smoke else "cuda"

    @property
    def accelerator(self) -> str:
        """Value of `trainer.accelerator`."""
        return "cpu" if self.smoke else "gpu"


@dataclass(slots=True, kw_only=True)
class Findings:
    """Figures, and the bounds that do not hold."""

    folder: Path
    """Of `findings.json`."""
    figures: dict[str, Figure] = field(default_factory=dict)
    """Name with unit -> value."""
    problems: list[str] = field(default_factory=list)
    """A sentence for each bound that does not hold."""
    skipped: str | None = None
    """Why the part cannot run here."""
    error: str | None = None
    """Kind and message of the exception that ended the part."""
    finished: bool = False
    """Whether the part has come to its end."""

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Those of a part's folder; empty ones if there is no readable file."""
        try:
            values: dict[str, Any] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            values = {}
        return cls(folder=folder, **values)

    def note(self, **figures: Figure) -> None:
        """Keep figures."""
        self.figures |= {name: _rounded(value) for name, value in figures.items()}
        self.write()

    def require(self, holds: bool, problem: str) -> None:
        """Keep a problem unless the bound holds; a comparison with NaN does not."""
        if not holds:
            self.problems.append(problem)
            self.write()

    def write(self) -> None:
        """Write the file."""
        values = {name: value for name, value in asdict(self).items() if name != "folder"}
        write_whole(self.folder / FILE, json.dumps(values, indent=1) + "\n")


def _rounded(value: Figure) -> Figure:
    """A float with four digits."""
    return float(f"{value:.4g}") if isinstance(value, float) else value
