"""Where the time of a whole run goes: start, tokenizer, steps, loader, evaluation, checkpoints, export.

From timing.json of a run (`runs.timing`), or of one that the command line trains for it in a process of its own.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml

from kelip_lightning.benchmarks.processes import Progress
from kelip_lightning.benchmarks.writing import write_benchmark
from kelip_lightning.config.experiment import (
    SCHEMAS,
    ContrastiveExperiment,
    MaskedPretrainExperiment,
    PretrainExperiment,
)
from kelip_lightning.config.load import find_schema
from kelip_lightning.drawing.charts import ChartRow
from kelip_lightning.errors import BenchmarkError, ConfigError
from kelip_lightning.runs.folder import STAGES, RunFolder
from kelip_lightning.runs.timing import OUTSIDE, Session, read_sessions

NAME = "benchmark"
STARTUP = "interpreter"
WHOLE_RUN = "run"
"""The column of phases outside the stages."""
PHASES = {
    STARTUP: "Python's start and exit",
    "imports": "libraries and this package",
    "settings": "experiment checked",
    "data": "sources, sets, fingerprints",
    "plan": "derived values",
    "tokenizer": "trained or read",
    "model": "built",
    "steps": "with the Trainer's setup",
    "loader": "waiting for batches",
    "evaluation": "with its panels",
    "pictures": "reconstructions",
    "checkpoints": "written",
    "export": "weights, items, report",
    OUTSIDE: "in none of these",
}
"""Phase -> what it is, in the order of a report."""
_STDERR = 2
_VERBS = {PretrainExperiment: "pretrain", ContrastiveExperiment: "contrastive", MaskedPretrainExperiment: "mae"}


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTime:
    """One phase of a run."""

    name: str
    seconds_of: dict[str, float] = field(default_factory=dict)
    """Stage, or `WHOLE_RUN` -> seconds."""

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(self.seconds_of.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class RunTime:
    """The phases of a run."""

    name: str
    num_sessions: int
    """Commands that trained it: 1, and one more for each resumption."""
    phases: list[PhaseTime]
    """Those that took time, in the order of `PHASES`."""

    @property
    def seconds(self) -> float:
        """Of the whole run."""
        return sum(one.seconds for one in self.phases)

    def columns(self) -> list[str]:
        """`WHOLE_RUN` and the stages that were trained."""
        found = {column for one in self.phases for column in one.seconds_of}
        return [column for column in (WHOLE_RUN, *STAGES) if column in found]


def time_of_run(folder: Path) -> RunTime:
    """The phases of a run that has ended, over all its sessions.

    Raises:
        RunFolderError: It has no timing.json, or a damaged one.
    """
    run = RunFolder(folder)
    sessions = read_sessions(run)
    return RunTime(name=run.name, num_sessions=len(sessions), phases=phases_of(sessions))


def time_new_run(file: Path, overrides: Sequence[str], progress: Progress) -> RunTime:
    """Train an experiment in a temporary folder by its verb, as a user does.

    Args:
        file: The experiment.
        overrides: Of its values; the name and the folder of the run are given here.
        progress: Receives a line before the training.

    Raises:
        ConfigError: The file is no experiment that trains.
        BenchmarkError: The training failed; its output has said why.
    """
    schema = find_schema(file, SCHEMAS)
    if schema not in _VERBS:
        raise ConfigError([f"{file} trains nothing; give an experiment with a stage"])
    with tempfile.TemporaryDirectory() as place:
        words = [_VERBS[schema], str(file), *overrides, f"name={NAME}", f"output_dir={place}"]
        progress(f"kelip {' '.join(words)}")
        start = time.perf_counter()
        # Its output goes to stderr, so that stdout has the report alone.
        ended = subprocess.run([sys.executable, "-m", "kelip_lightning", *words], stdout=_STDERR, check=False)
        seconds = time.perf_counter() - start
        if ended.returncode:
            raise BenchmarkError(f"kelip {words[0]} {file} ended with exit code {ended.returncode}; see above")
        found = time_of_run(Path(place) / NAME)
    startup = PhaseTime(name=STARTUP, seconds_of={WHOLE_RUN: seconds - found.seconds})
    return RunTime(name=file.stem, num_sessions=1, phases=[startup, *found.phases])


def phases_of(sessions: Iterable[Session]) -> list[PhaseTime]:
    """The seconds of the innermost phases of all paths, by stage; a path's first name may be a stage."""
    totals: dict[str, dict[str, float]] = {}
    for path, seconds in (item for session in sessions for item in session.seconds.items()):
        first, *inner = path.split("/")
        stage, rest = (first, inner) if first in STAGES else (WHOLE_RUN, [first, *inner])
        of_phase = totals.setdefault(rest[-1] if rest else OUTSIDE, {})
        of_phase[stage] = of_phase.get(stage, 0.0) + seconds
    known = [name for name in PHASES if name in totals]
    return [PhaseTime(name=name, seconds_of=totals[name]) for name in [*known, *(totals.keys() - PHASES.keys())]]


def write_run_report(found: RunTime, folder: Path) -> list[Path]:
    """Write run.json and run.png, the seconds of each phase; returns both."""
    phases = [asdict(one) | {"seconds": one.seconds, "what": PHASES.get(one.name, "")} for one in found.phases]
    content = {"run": found.name, "sessions": found.num_sessions, "seconds": found.seconds, "phases": phases}
    rows = [ChartRow(label=one.name, value=one.seconds, low=None, high=None) for one in found.phases]
    return write_benchmark(folder, "run", content, rows, f"Seconds of {found.name}, {found.seconds:.0f} in all")


def write_small_experiment(folder: Path) -> Path:
    """Both stages of a tiny model on a part of the embedded corpus, three steps each; returns the file."""
    file = folder / "smoke.yaml"
    file.write_text(yaml.safe_dump(_small_experiment()), encoding="utf-8")
    return file


def _small_experiment() -> Mapping[str, Any]:
    table = {"files": ["package:emoji/noto.parquet"], "captions": {"ko": "name_ko", "en": "name_en"}}
    flags = {"split": ["flags"], "skin_tone": ["false"]}
    shared = {
        "trainer": {"accelerator": "cpu", "precision": "32", "num_threads": 1, "log_every_n_steps": 1},
        "image_encoder": {"image_size": 32, "patch_size": 8, "width": 16, "depth": 1, "num_heads": 2},
        "schedule": {"max_steps": 3},
    }
    data = {"global_batch_size": 8, "num_workers": 0}
    image_source = {**table, "captions": {"ko": "name_ko"}, "where": flags}
    mae = {
        "data": data | {"sources": {"flags": image_source}},
        "transform": {"image_size": 32},
        "masked_autoencoder": {"decoder_width": 16, "decoder_depth": 1, "decoder_num_heads": 2},
    }
    contrastive = {
        "data": data | {"sources": {"flags": {**table, "where": flags}}, "allow_partial_epoch": True},
        "transform": {"image_size": 32, "num_local_crops": 0},
        "tokenizer": {"vocab_size": 300, "context_length": 16},
        "text_encoder": {"width": 16, "depth": 1, "num_heads": 2},
        "dual_encoder": {"embed_dim": 8},
        "evaluation": {"retrieval": {"flags": {"table": table, "where": flags}}},
    }
    return {"name": NAME, "mae": shared | mae, "contrastive": shared | contrastive}
