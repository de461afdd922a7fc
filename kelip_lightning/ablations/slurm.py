"""A Slurm array: one task a run, for machines that a laptop's `--jobs` does not reach."""

import shlex
from collections.abc import Sequence
from pathlib import Path

from kelip_lightning.ablations.execution import command_of
from kelip_lightning.ablations.pool import find_run
from kelip_lightning.ablations.study import PlannedRun, Study, contrastive_of
from kelip_lightning.errors import ConfigError

_SCRIPT = """\
#!/usr/bin/env bash
# {count} runs of {study}, one array task each; line n + 1 of runs.txt is task n. From the folder of the repository:
#   sbatch {script}
# When all have ended, kelip ablate {file} --scale {scale} --report writes the report. Account, partition, time and the
# environment (conda activate kelip, or KELIP=/path/to/kelip) are the cluster's.
#SBATCH --job-name={study}
#SBATCH --array=0-{last}
#SBATCH --nodes={nodes}
#SBATCH --ntasks-per-node={devices}
{gpus}#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=%x-%A_%a.log
# Five minutes before the time is up kelip writes a checkpoint and exits with 75; the task is then queued again.
#SBATCH --signal=USR1@300
set -uo pipefail
export OMP_NUM_THREADS=1
eval "set -- $(sed -n "$((SLURM_ARRAY_TASK_ID + 1))p" {runs})"
srun --wait=120 --kill-on-bad-exit=0 "${{KELIP:-kelip}}" "$@"
status=$?
if [ "$status" -eq 75 ]; then
  scontrol requeue "$SLURM_JOB_ID" && status=0
fi
exit "$status"
"""


def write_array(study: Study, runs: Sequence[PlannedRun]) -> Path:
    """Write runs.txt and array.sbatch for these runs into the study's folder; returns the latter.

    Raises:
        ConfigError: The runs need different machines, which one array cannot ask for.
    """
    trainers = [contrastive_of(run.experiment).trainer for run in runs]
    shapes = sorted({(one.num_nodes, one.devices, one.accelerator) for one in trainers})
    if len(shapes) != 1:
        raise ConfigError(
            [
                f"{study.file}: the variants ask for different machines (nodes, devices, accelerator: {shapes}), which "
                "one array cannot give; give all variants the same trainer.num_nodes, devices and accelerator"
            ]
        )
    nodes, devices, accelerator = shapes[0]
    study.folder.mkdir(parents=True, exist_ok=True)
    listing, script = study.folder / "runs.txt", study.folder / "array.sbatch"
    lines = [shlex.join(command_of(run, study.base, find_run(study.pool, run).path)) for run in runs]
    listing.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    text = _SCRIPT.format(
        count=len(runs),
        study=study.name,
        file=shlex.quote(str(study.file)),
        scale=study.scale_name,
        script=shlex.quote(str(script)),
        last=len(runs) - 1,
        nodes=nodes,
        devices=devices,
        gpus="" if accelerator == "cpu" else f"#SBATCH --gpus-per-node={devices}\n",
        runs=shlex.quote(str(listing)),
    )
    script.write_text(text, encoding="utf-8")
    return script
