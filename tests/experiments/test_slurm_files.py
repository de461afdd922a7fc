"""The sbatch files, run by bash with stand-ins for Slurm and the launchers."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from kelip_lightning.config.experiment import PretrainExperiment
from tests.paths import ROOT

FOLDER = ROOT / "experiments" / "kelip_b32" / "slurm"
SBATCH = sorted(FOLDER.glob("*.sbatch"))
SECONDS = 20

STAND_INS = {
    # Runs the program after srun's options.
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "scontrol": 'if [ "$1 $2" = "show job" ]; then echo "JobId=4711 JobState=${JOB_STATE:-RUNNING} Reason=None"; '
    'elif [ "$1" = show ]; then echo node0; else echo "$@" >> "$RECORD/scontrol"; fi',
    "kelip": 'if [ "$1" = status ]; then echo "$@" >> "$RECORD/asked"; exit "$STATE"; fi; '
    'echo "$@" >> "$RECORD/arguments"; exit "$STATUS"',
    "nvidia-smi": "exit 1",
    # A launcher that runs until it is signalled, and then fails as torchrun and deepspeed do.
    "launcher": 'echo "$@" >> "$RECORD/arguments"; trap "exit 1" USR1 TERM; echo $$ > "$RECORD/pid"; '
    "while :; do sleep 0.05; done",
}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Slurm's environment, with the stand-ins first in PATH."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, body in STAND_INS.items():
        (programs / name).write_text(f"#!/usr/bin/env bash\n{body}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    return os.environ | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "RECORD": str(tmp_path),
        "TORCHRUN": "launcher",
        "DEEPSPEED": "launcher",
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NODELIST": "node0",
        "SLURM_NNODES": "2",
        "SLURM_NTASKS_PER_NODE": "8",
        "SLURM_GPUS_ON_NODE": "8",
    }


def requeued(record: Path) -> bool:
    file = record / "scontrol"
    return file.is_file() and file.read_text(encoding="utf-8") == "requeue 4711\n"


@pytest.mark.parametrize(
    ("status", "state", "again", "exit_code"),
    [
        (0, 0, False, 0),
        (2, 2, False, 2),  # refused: there is no run
        (75, 75, True, 0),
        (143, 75, True, 0),  # stopped in order, and srun tells of a task that a signal killed
        (75, 2, True, 0),  # before there was a run
        (143, 2, True, 0),  # before Python's first line
        (138, 4, True, 0),
        (1, 1, False, 1),
        (137, 4, False, 137),  # killed without a word: out of memory, for one
        (137, 5, True, 0),  # the same after a new checkpoint
        (1, 5, True, 0),  # another node failed
        (130, 75, True, 0),
        (143, 3, False, 143),  # its process is alive on this node: a second one would be refused
        (143, 0, False, 0),  # while the processes of a finished run ended
    ],
)
def test_srun__requeues_what_a_signal_stopped(
    status: int, state: int, again: bool, exit_code: int, tmp_path: Path, environment: dict[str, str]
) -> None:
    command = ["bash", FOLDER / "srun.sbatch"]
    given = environment | {"STATUS": str(status), "STATE": str(state)}
    done = subprocess.run(command, env=given, timeout=SECONDS, check=False)
    assert done.returncode == exit_code
    assert requeued(tmp_path) is again


def test_srun__arguments(tmp_path: Path, environment: dict[str, str]) -> None:
    for words in ([], ["mae"], ["contrastive", "my.yaml", "seed=1", "--resume", "runs/a"]):
        command = ["bash", FOLDER / "srun.sbatch", *words]
        subprocess.run(command, env=environment | {"STATUS": "0", "STATE": "0"}, timeout=SECONDS, check=True)
    size = "trainer.devices=8 trainer.num_nodes=2"
    assert (tmp_path / "arguments").read_text(encoding="utf-8").splitlines() == [
        f"pretrain experiments/kelip_b32/pretrain.yaml --resume auto {size}",
        f"mae experiments/kelip_b32/pretrain.yaml --resume auto {size}",
        f"contrastive my.yaml --resume auto {size} seed=1 --resume runs/a",
    ]
    assert (tmp_path / "asked").read_text(encoding="utf-8").splitlines()[2] == (
        f"status my.yaml {size} seed=1 --resume runs/a"
    )


@pytest.mark.parametrize("name", ["torchrun", "deepspeed"])
@pytest.mark.parametrize(("warned", "state"), [(True, 75), (False, 1), (False, 5)])
def test_launchers__requeue_only_after_slurm_s_warning_or_a_lost_process(
    name: str, warned: bool, state: int, tmp_path: Path, environment: dict[str, str]
) -> None:
    script = subprocess.Popen(
        ["bash", FOLDER / f"{name}.sbatch", "contrastive", "my.yaml", "seed=1"],
        cwd=tmp_path,
        env=environment | {"STATE": str(state)},
    )
    deadline = time.monotonic() + SECONDS
    pid = ""
    while not pid.strip():
        assert time.monotonic() < deadline
        time.sleep(0.02)
        pid = (tmp_path / "pid").read_text(encoding="utf-8") if (tmp_path / "pid").exists() else ""
    if warned:
        script.send_signal(signal.SIGUSR1)
    else:
        os.kill(int(pid), signal.SIGTERM)  # the launcher fails
    again = state in (75, 5)
    assert script.wait(SECONDS) == (0 if again else 1)
    assert requeued(tmp_path) is again
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8")
    assert "kelip_lightning contrastive my.yaml " in arguments
    assert "trainer.devices=8 trainer.num_nodes=2 seed=1" in arguments
    assert arguments.index("--resume auto") < arguments.index("trainer.devices=8")


def test_deepspeed_rank__sets_the_node_rank() -> None:
    command = ["bash", FOLDER / "deepspeed_rank.sh", "bash", "-c", 'echo "$NODE_RANK ${SLURM_NTASKS-none}"']
    environment = os.environ | {"CROSS_RANK": "3", "SLURM_NTASKS": "10"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=SECONDS, check=True)
    assert done.stdout == "3 none\n"


@pytest.mark.parametrize("file", SBATCH, ids=lambda file: file.name)
def test_sbatch__requests_the_devices_of_the_experiment(file: Path, paper_scale: PretrainExperiment) -> None:
    options = dict(re.findall(r"^#SBATCH --([\w-]+)=(\S+)$", file.read_text(encoding="utf-8"), re.MULTILINE))
    trainer = paper_scale.contrastive.trainer
    assert (int(options["nodes"]), int(options["gpus-per-node"])) == (trainer.num_nodes, trainer.devices)
    assert int(options["ntasks-per-node"]) == (trainer.devices if file.stem == "srun" else 1)
    assert "USR1@" in options["signal"]


@pytest.mark.parametrize(("given", "expected"), [({}, 1), ({"PROCESSES": "2"}, 2), ({"SLURM_GPUS_ON_NODE": "4"}, 4)])
def test_torchrun__processes_of_a_node(
    given: dict[str, str], expected: int, tmp_path: Path, environment: dict[str, str]
) -> None:
    (tmp_path / "bin" / "launcher").write_text('#!/usr/bin/env bash\necho "$@" >> "$RECORD/arguments"\n')
    environment.pop("SLURM_GPUS_ON_NODE")
    environment |= given | {"STATE": "0"}
    subprocess.run(["bash", FOLDER / "torchrun.sbatch"], cwd=tmp_path, env=environment, timeout=SECONDS, check=True)
    arguments = (tmp_path / "arguments").read_text(encoding="utf-8")
    assert f"--nproc-per-node={expected} " in arguments
    assert f"trainer.devices={expected} " in arguments


def test_srun__a_signal_to_the_script_waits_for_the_tasks(tmp_path: Path, environment: dict[str, str]) -> None:
    """As scancel --full and preemption send it: to the script as well as to the tasks."""
    (tmp_path / "bin" / "srun").write_text(
        '#!/usr/bin/env bash\ntrap "sleep 0.5; exit 75" TERM\necho $$ > "$RECORD/pid"\nwhile :; do sleep 0.05; done\n'
    )
    script = subprocess.Popen(["bash", FOLDER / "srun.sbatch"], cwd=tmp_path, env=environment | {"STATE": "75"})
    deadline = time.monotonic() + SECONDS
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    script.send_signal(signal.SIGTERM)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGTERM)
    assert script.wait(SECONDS) == 0
    assert requeued(tmp_path)


def test_srun__a_job_that_its_user_has_cancelled_is_not_queued_again(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    given = environment | {"STATUS": "75", "STATE": "75", "JOB_STATE": "COMPLETING"}
    done = subprocess.run(["bash", FOLDER / "srun.sbatch"], env=given, timeout=SECONDS, check=False)
    assert done.returncode == 75
    assert not requeued(tmp_path)
