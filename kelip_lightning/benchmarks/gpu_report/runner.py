"""The parts one after the other, each in a process with a time limit, so that one failure does not hide the rest."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from kelip_lightning.benchmarks.gpu_report.findings import Figure, Findings
from kelip_lightning.benchmarks.processes import Progress
from kelip_lightning.runs.environment import code_digest
from kelip_lightning.runs.folder import write_whole

LOG = "log.txt"
_OUTCOME = "outcome.json"


class Status(Enum):
    """How a part ended."""

    ok = "ok"
    failed = "failed"
    skipped = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One thing that the report checks."""

    name: str
    about: str
    """What is checked, in a few words."""
    seconds: float
    """Time limit on a GPU."""
    work: str
    """MODULE:FUNCTION, a `one_part.Work`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportPlan:
    """How the parts run."""

    folder: Path
    """Of the report; each part has a folder of its own in it."""
    smoke: bool
    """On the CPU with tiny sizes."""
    machine: dict[str, Any]
    """The device and the version of torch; an outcome from another machine is not taken for this one's."""
    again: bool = False
    """Whether parts that are done run again."""
    time_factor: float = 1.0
    """Factor on the time limits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a part."""

    part: str
    status: Status
    seconds: float
    figures: dict[str, Figure]
    reasons: list[str]
    """Why it failed or was skipped."""
    smoke: bool
    machine: dict[str, Any]
    code: str
    """Digest of the code that ran."""


def run_parts(parts: Sequence[Part], plan: ReportPlan, progress: Progress) -> Iterator[Outcome]:
    """Run the parts that are not done yet; yields the outcome of every part, in order, as soon as it is known.

    A part is done if it has ended well on the same machine with the same versions, and of the same size.
    """
    for number, part in enumerate(parts, start=1):
        place = f"{part.name} ({number} of {len(parts)})"
        known = read_outcome(plan, part)
        if known is not None and known.status is Status.ok and not plan.again:
            progress(f"{place}: done before, in {known.seconds:.0f} s{code_note(known)}; --again repeats it")
            yield known
            continue
        progress(f"{place}: {part.about}; at most {part.seconds * plan.time_factor:.0f} s")
        outcome = _run(part, plan)
        progress(f"{place}: {outcome.status.name} after {outcome.seconds:.0f} s{_told(outcome)}")
        yield outcome


def code_note(outcome: Outcome) -> str:
    """A remark if the code has changed since."""
    return "" if outcome.code == code_digest() else f", by earlier code ({outcome.code})"


def _told(outcome: Outcome) -> str:
    return f": {'; '.join(outcome.reasons)}" if outcome.reasons else ""


def read_outcome(plan: ReportPlan, part: Part) -> Outcome | None:
    """The stored outcome of a part; `None`: there is none, or one of another size, machine or version."""
    try:
        values = json.loads((plan.folder / part.name / _OUTCOME).read_text(encoding="utf-8"))
        outcome = Outcome(**values | {"status": Status(values["status"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return outcome if (outcome.smoke, outcome.machine) == (plan.smoke, plan.machine) else None


def _run(part: Part, plan: ReportPlan) -> Outcome:
    """Run a part in an empty folder, and store its outcome."""
    folder, limit = plan.folder / part.name, part.seconds * plan.time_factor
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "kelip_lightning.benchmarks.gpu_report.one_part"]
    command += [part.work, str(folder), str(limit), *(["--smoke"] if plan.smoke else [])]
    start = time.monotonic()
    code = _exit_code(command, folder / LOG, limit)
    seconds = round(time.monotonic() - start, 1)
    found = Findings.read(folder)
    status, reasons = _judged(found, code, limit)
    outcome = Outcome(
        part=part.name,
        status=status,
        seconds=seconds,
        figures=found.figures,
        reasons=reasons,
        smoke=plan.smoke,
        machine=plan.machine,
        code=code_digest(),
    )
    write_whole(folder / _OUTCOME, json.dumps(asdict(outcome) | {"status": status.name}, indent=1) + "\n")
    return outcome


def _exit_code(command: Sequence[str], log: Path, limit: float) -> int | None:
    """The exit code of a command; `None`: it was ended at its time limit. Nothing that it has started outlives it."""
    with log.open("wb") as file:
        # A session of its own, so that a signal reaches its loader processes and ranks too.
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _judged(found: Findings, code: int | None, limit: float) -> tuple[Status, list[str]]:
    """Status and reasons of a part that has ended."""
    reasons = list(found.problems)
    if code is None:
        reasons.append(f"ended at its limit of {limit:.0f} s; --time-factor raises it")
    elif found.skipped is not None:
        return Status.skipped, [found.skipped]
    elif found.error is not None:
        reasons.append(found.error)
    elif not found.finished:
        reasons.append(f"its process {_described(code)}, see {LOG}")
    return (Status.failed if reasons else Status.ok), reasons


def _described(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
