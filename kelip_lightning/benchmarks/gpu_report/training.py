"""Whole commands on the device: `kelip pretrain`, and the gradient certificate of the tests."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from kelip_lightning.benchmarks.gpu_report.findings import Findings, PartSetting, PartSkippedError
from kelip_lightning.benchmarks.gpu_report.steps import NO_DEEPSPEED
from kelip_lightning.config.experiment import PretrainExperiment
from kelip_lightning.config.load import load_experiment
from kelip_lightning.errors import BenchmarkError
from kelip_lightning.runs.folder import RunFolder
from kelip_lightning.runs.metrics_file import read_metrics

REPOSITORY = Path(__file__).parents[3]
_EXPERIMENT = REPOSITORY / "experiments" / "emoji" / "pretrain.yaml"
_CERTIFICATE = REPOSITORY / "tests" / "distributed" / "certificate.py"
_RATE = "contrastive/pairs_per_second"
FAST_BOUND = 0.05
"""Largest relative difference of the last losses with and without deterministic algorithms."""


def pretrain(setting: PartSetting, findings: Findings) -> None:
    """Both stages, deterministic twice, with equal losses, and once without deterministic algorithms."""
    if not _EXPERIMENT.is_file():
        raise PartSkippedError(
            f"{_EXPERIMENT.name} of the emoji experiment is only in a clone of the repository; use one"
        )
    runs = {name: _pretrained(name, setting) for name in ("deterministic", "deterministic_again", "fast")}
    for name in ("deterministic", "fast"):
        lines = _metrics(runs[name])
        findings.note(**{f"{name}_last_loss": _losses(lines)[-1]})
        if rates := [line[_RATE] for line in lines if _RATE in line]:
            findings.note(**{f"{name}_pairs_per_second": float(rates[-1])})
    first, again, fast = (_losses(_metrics(run)) for run in runs.values())
    findings.note(entries_with_a_loss=len(first))
    findings.require(first == again, "two deterministic runs have different losses")
    difference = abs(fast[-1] - first[-1]) / abs(first[-1])
    findings.note(fast_relative_difference=difference)
    findings.require(
        difference <= FAST_BOUND,
        f"without deterministic algorithms the last loss differs by {difference:.1%}, more than {FAST_BOUND:.0%}",
    )


def _pretrained(name: str, setting: PartSetting) -> RunFolder:
    """A short run of the experiment, in a process of its own as a user starts it."""
    steps = (2, 3) if setting.smoke else (30, 60)
    overrides = {
        "output_dir": setting.folder / "runs",
        "name": name,
        "trainer.accelerator": setting.accelerator,
        "trainer.devices": 1,
        "trainer.deterministic": str(name != "fast").lower(),
        "trainer.log_every_n_steps": 1,
        "mae.schedule.max_steps": steps[0],
        "contrastive.schedule.max_steps": steps[1],
        "mae.schedule.warmup_steps": 1,
        "contrastive.schedule.warmup_steps": 1,
        # Only one of the runs evaluates, for its time.
        **({} if name == "fast" and not setting.smoke else _without_evaluation()),
        **({"data.global_batch_size": 16} if setting.smoke else {}),
    }
    run_module("kelip_lightning", "pretrain", str(_EXPERIMENT), *(f"{key}={value}" for key, value in overrides.items()))
    return RunFolder.open(setting.folder / "runs" / name)


def _without_evaluation() -> dict[str, str]:
    """Overrides that remove every evaluation set of the experiment."""
    sets = load_experiment(_EXPERIMENT, [], PretrainExperiment, heavy=False).experiment.contrastive.evaluation
    kinds = {
        "retrieval": list(sets.retrieval),
        "captions": list(sets.captions),
        "classification": list(sets.classification),
    }
    return {f"contrastive.evaluation.{kind}.{name}": "null" for kind, names in kinds.items() for name in names}


def _metrics(run: RunFolder) -> list[dict[str, Any]]:
    return list(read_metrics(run.metrics))


def _losses(lines: list[dict[str, Any]]) -> list[float]:
    """The loss of every log entry that has one, NaN where it was not finite."""
    losses = [line[key] for line in lines if (key := f"{line['stage']}/loss") in line]
    return [float("nan") if one is None else one for one in losses]


def certificate(setting: PartSetting, findings: Findings) -> None:
    """The gradient of every parameter in one process under DDP and ZeRO-2 on the device, chunks and crops included."""
    if not _CERTIFICATE.is_file():
        raise PartSkippedError("the gradient certificate is one of the tests, in a clone of the repository; use one")
    strategies = ["ddp"]
    if find_spec("deepspeed") is None:
        findings.note(zero_2=NO_DEEPSPEED)
    else:
        strategies.append("deepspeed_stage_2")
    command = ["--worlds", "1", "--accelerator", setting.accelerator, "--strategies", *strategies]
    printed = run_module("tests.distributed.certificate", *command)
    last = printed.strip().splitlines()[-1]
    findings.note(result=last)


def run_module(module: str, *arguments: str) -> str:
    """What a module prints on stdout as a command, which is in the log too.

    Raises:
        BenchmarkError: It ended with an error.
    """
    command = [sys.executable, "-m", module, *arguments]
    sys.stdout.write(f"$ {' '.join(command)}\n")
    sys.stdout.flush()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    sys.stdout.write(done.stdout)
    if done.returncode:
        raise BenchmarkError(f"python -m {module} {arguments[0]} ended with exit code {done.returncode}")
    return done.stdout
