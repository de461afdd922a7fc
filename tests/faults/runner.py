"""Runs `kelip` in processes that can be killed.

A fork server imports torch and Lightning once; each process is a fork of it, as if started by torchrun, and writes its
output to a file.
"""

import importlib
import multiprocessing
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(
    [
        "kelip_lightning.cli",
        "kelip_lightning.training.stages",
        "kelip_lightning.config.load",
        "kelip_lightning.cli.report",
    ]
)
LIMIT = 300.0
"""Seconds after which a process is considered hung."""

Sabotage = Callable[[], None]
"""Called in the process before `kelip` starts; must be a function of a module, or a dataclass instance, to travel."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the processes of a run ended."""

    exit_codes: list[int]
    """By rank; negative: the signal."""
    output: str
    """All that they printed, by rank."""
    seconds: float
    """From the first end of a process to the last."""


def kelip(
    *arguments: str,
    log: Path,
    world: int = 1,
    sabotage: Mapping[int, Sabotage] | None = None,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    while_running: Callable[[list[BaseProcess]], None] = lambda _: None,
) -> Outcome:
    """Run the command in `world` processes and wait for all of them.

    Args:
        arguments: Of `kelip`.
        log: Stem of the files that take what the processes print.
        world: Number of processes.
        sabotage: Rank -> what is done to it before it starts.
        environment: Further variables.
        cwd: Working directory of the processes; `None`: that of this one.
        while_running: Gets the processes once they run.

    Raises:
        AssertionError: A process has not ended after `LIMIT`.
    """
    shared = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(environment or {})}
    if world > 1:
        shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "WORLD_SIZE": str(world)}
        shared |= {"TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": "0", "LOCAL_WORLD_SIZE": str(world)}
    processes: list[BaseProcess] = []
    logs = [log.with_name(f"{log.name}-{rank}.txt") for rank in range(world)]
    for rank in range(world):
        own = shared | ({"RANK": str(rank), "LOCAL_RANK": str(rank)} if world > 1 else {})
        spoil = (sabotage or {}).get(rank)
        process = _CONTEXT.Process(target=_run, args=(list(arguments), own, str(logs[rank]), cwd, spoil), daemon=True)
        process.start()
        processes.append(process)
    while_running(processes)
    seconds = _wait(processes, logs)
    texts = [f"[rank {rank}]\n{_text(file)}" for rank, file in enumerate(logs)]
    return Outcome([process.exitcode or 0 for process in processes], "\n".join(texts), seconds)


def _wait(processes: Sequence[BaseProcess], logs: Sequence[Path]) -> float:
    """Wait for all; returns the seconds between the first and the last end."""
    deadline, first_end = time.monotonic() + LIMIT, None
    while any(process.is_alive() for process in processes):
        if first_end is None and not all(process.is_alive() for process in processes):
            first_end = time.monotonic()
        if time.monotonic() > deadline:
            for process in processes:
                process.kill()
            output = "\n".join(_text(file)[-3000:] for file in logs)
            raise AssertionError(f"hung for {LIMIT} s:\n{output}")
        time.sleep(0.02)
    return 0.0 if first_end is None else time.monotonic() - first_end


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else "(it did not even start)"


def _run(arguments: list[str], environment: dict[str, str], log: str, cwd: Path | None, spoil: Sabotage | None) -> None:
    os.environ.update(environment)
    os.chdir(cwd or Path.cwd())
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    # Loader processes are its children, as they are of a `kelip` that a shell has started.
    multiprocessing.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    import torch

    torch.set_num_threads(1)
    if spoil is not None:
        spoil()
    entry = importlib.import_module("kelip_lightning.__main__")
    sys.argv = ["kelip", *arguments]
    code = 1
    try:
        code = entry.run()
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)  # threads of gloo may otherwise stop an interpreter that has nothing left to do


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def kill_this_process(*_: Any) -> None:
    """As the kernel's out-of-memory killer does: no handler, no clean-up."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)  # the signal arrives before this ends
