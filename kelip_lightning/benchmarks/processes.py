"""Measurements in fresh processes, so that none finds the caches, memory and settings of another."""

import logging
import os
import socket
import warnings
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import redirect_stdout
from functools import partial
from multiprocessing import get_context
from typing import ParamSpec, TypeVar

import torch

from kelip_lightning.errors import BenchmarkError

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

_DIED = "a process of the benchmark died, most likely because memory ran out; give smaller sizes, such as --batch"
_LOCALHOST = "127.0.0.1"

Progress = Callable[[str], None]
"""Receives a line for the user while a benchmark runs."""


def in_fresh_process(
    threads: int | None, work: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """The result of a function of an importable module in a new interpreter; what it prints is dropped.

    Args:
        threads: CPU threads of torch; `None`: torch's default.
        work: The function; arguments and result must be picklable.
        args: Its arguments.
        kwargs: Its arguments by name.

    Raises:
        BenchmarkError: The process died.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_quietly, threads, partial(work, *args, **kwargs)).result()
        except BrokenProcessPool as error:
            raise BenchmarkError(_DIED) from error


def in_ranks(
    world: int, work: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
) -> list[Result]:
    """The results of a function in `world` new interpreters at once, one thread each, by rank.

    The environment of each has the rank, the size of the world and an address for `torch.distributed`.

    Raises:
        BenchmarkError: A process died.
    """
    with socket.socket() as probe:
        probe.bind((_LOCALHOST, 0))
        port = probe.getsockname()[1]
    with ProcessPoolExecutor(world, mp_context=get_context("spawn")) as pool:
        whole = partial(work, *args, **kwargs)
        try:
            return [one.result() for one in [pool.submit(_as_rank, rank, world, port, whole) for rank in range(world)]]
        except BrokenProcessPool as error:
            raise BenchmarkError(_DIED) from error


def _as_rank(rank: int, world: int, port: int, work: Callable[[], Result]) -> Result:
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "NODE_RANK": 0, "WORLD_SIZE": world, "MASTER_PORT": port}
    os.environ |= {name: str(number) for name, number in numbers.items()} | {"MASTER_ADDR": _LOCALHOST}
    return _quietly(1, work)


def _quietly(threads: int | None, work: Callable[[], Result]) -> Result:
    """The work, with this many threads, without what it prints and what Lightning says about fits."""
    if threads is not None:
        torch.set_num_threads(threads)
    # Before the first product on a GPU, for every contestant alike: a Trainer sets it when it is made.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(f"{name}.utilities.rank_zero").setLevel(logging.WARNING)
    # Of Lightning 2.6 with torch 2.14 and newer; not actionable for a user.
    warnings.filterwarnings("ignore", message=r".isinstance\(treespec, LeafSpec\). is deprecated")
    with open(os.devnull, "w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        return work()
