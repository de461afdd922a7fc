"""Parts that end in every way."""

import os
import subprocess
import sys
import time

from kelip_lightning.benchmarks.gpu_report.findings import Findings, PartSetting, PartSkippedError


def ends_well(setting: PartSetting, findings: Findings) -> None:
    """Counts how often it has run, in a file beside its folder."""
    with (setting.folder.parent / "runs.txt").open("a", encoding="utf-8") as file:
        file.write("x")
    findings.note(device=setting.device, limit=setting.seconds, rate=1234.5678)
    findings.require(True, "never told")


def raises(_: PartSetting, findings: Findings) -> None:
    """Measures something first."""
    findings.note(before=1)
    raise ValueError("the first line\nthe second")


def exceeds_a_bound(_: PartSetting, findings: Findings) -> None:
    """A NaN is within no bound."""
    findings.note(error=float("nan"))
    findings.require(float("nan") <= 1.0, "the error is too large")


def skips(*_: object) -> None:
    """Lacks something."""
    raise PartSkippedError("a package is not installed; install it")


def dies(*_: object) -> None:
    """Without an exception."""
    os.abort()


def hangs(_: PartSetting, findings: Findings) -> None:
    """In a process that it has started, whose number it notes."""
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    findings.note(child=child.pid)
    time.sleep(600)
