"""`python -m kelip_lightning.benchmarks.gpu_report.one_part MODULE:FUNCTION FOLDER SECONDS [--smoke]`: one part.

What it prints goes to its log; what it finds, to findings.json in its folder.
"""

import argparse
import os
import pkgutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

from kelip_lightning.benchmarks.gpu_report.findings import Findings, PartSetting, PartSkippedError

Work = Callable[[PartSetting, Findings], None]
"""A part: it keeps what it measures in the findings, and raises `PartSkippedError` if it cannot run here."""


def run_part(work: Work, setting: PartSetting) -> int:
    """Run a part and write its findings, also those of a part that fails; returns the exit code."""
    findings = Findings(folder=setting.folder)
    findings.write()
    try:
        work(setting, findings)
        findings.finished = True
    except PartSkippedError as reason:
        findings.skipped = str(reason)
    except Exception as error:
        traceback.print_exc()
        findings.error = first_line(error)
    findings.write()
    return int(findings.error is not None)


def first_line(error: BaseException) -> str:
    """Kind and first line of the message of an exception."""
    message = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def main() -> int:
    """Read the command line and run the part."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("work")
    parser.add_argument("folder", type=Path)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    setting = PartSetting(folder=arguments.folder, smoke=arguments.smoke, seconds=arguments.seconds)
    # Before the first product on a GPU: deterministic algorithms of cuBLAS need it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

    def work(setting: PartSetting, findings: Findings) -> None:
        pkgutil.resolve_name(arguments.work)(setting, findings)

    return run_part(work, setting)


if __name__ == "__main__":
    sys.exit(main())
